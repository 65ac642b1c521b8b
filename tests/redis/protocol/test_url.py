from __future__ import annotations

import string
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp import redis
from csp.errors import InvalidError, InvalidTypeError
from trio_csp_redis.protocol.url import parse_url


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost/", "redis://localhost:6379/0"),
        ("redis://localhost:", "redis://localhost:6379/0"),
        ("redis://localhost:6380/", "redis://localhost:6380/0"),
        ("redis://localhost:006380/007", "redis://localhost:6380/7"),
        ("REDIS://LocalHost./3", "redis://localhost:6379/3"),
        ("rediss://localhost/3", "rediss://localhost:6379/3"),
        ("redis://a_b.test:1", "redis://a_b.test:1/0"),
        ("redis://user:secret@h.test/1", "redis://h.test:6379/1"),
        ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
        ("redis://\uff11\uff12\uff17.0.0.1", "redis://127.0.0.1:6379/0"),
        ("redis://127\u30020\u30020\u30021", "redis://127.0.0.1:6379/0"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
        ("redis://[2001:DB8:0::1]:9/2", "redis://[2001:db8::1]:9/2"),
        ("redis://[::ffff:127.0.0.1]", "redis://127.0.0.1:6379/0"),
        ("redis://[::ffff:7f00:1]:9", "redis://127.0.0.1:9/0"),
        ("redis://b\u00fccher.test", "redis://xn--bcher-kva.test:6379/0"),
        ("redis://B\u00dcCHER.test.", "redis://xn--bcher-kva.test:6379/0"),
        ("redis://h/2147483647", "redis://h:6379/2147483647"),
        ("redis://u:%40%2F@h", "redis://h:6379/0"),
        ("redis://a@b@h", "redis://h:6379/0"),
    ],
)
def test_what_is_shown_is_the_normal_form_with_port_and_database(url: str, normal: str) -> None:
    bus = redis.Bus(url)
    assert bus.url == normal
    assert repr(bus) == f"<csp.redis.Bus connecting, {normal}>"
    assert redis.Bus(normal).url == normal


@pytest.mark.parametrize(
    "url",
    [
        *("", "redis", "redis:", "redis:/", "redis://", "redis:///0", "redis://:6379", "redis://:pw@", "redis://@/0"),
        *(
            "http://h",
            "unix:///run/redis.sock",
            "redis+tls://h",
            "//h",
            "h:6379",
            "redis:h",
            " redis://h",
            "redis:/h/x",
        ),
        *(
            "redis://h:0",
            "redis://h:65536",
            "redis://h:port",
            "redis://h:-1",
            "redis://h:\u0661",
            f"redis://h:{'9' * 3000}",
        ),
        *(
            "redis://h/x",
            "redis://h/0/",
            "redis://h//0",
            "redis://h/-1",
            "redis://h/2147483648",
            "redis://h/00000000001",
        ),
        *("redis://h/\u0661", "redis://h/0x1", "redis://h/0?x=1", "redis://h?db=1", "redis://h#a", "redis://h/0;a"),
        *("redis://[::1", "redis://::1", "redis://[::1]x", "redis://x[::1]", "redis://[127.0.0.1]", "redis://[]"),
        *("redis://[fe80::1%eth0]", "redis://[fe80::1%25eth0]", "redis://[v1.x]", "redis://]h", "redis://[[::1]]"),
        *(
            "redis://127.1",
            "redis://1",
            "redis://256.0.0.1",
            "redis://0x7f000001",
            "redis://0x7f.1",
            "redis://1.2.3.4.5",
        ),
        *("redis://127.0.0.01", "redis://a.0x1", "redis://\uff11\uff12\uff17.1", "redis://a.1"),
        *("redis://-a", "redis://a-", "redis://a..b", "redis://.a", "redis://a..", "redis://a,b", "redis://a%20b"),
        *(f"redis://{'a' * 64}", f"redis://{'a.' * 126}ab", "redis://" + "\u00fc" * 300, "redis://a\u2028b"),
        *(
            "redis://h\n",
            "redis://h\t",
            "redis:\\\\h",
            "redis://u\\@h",
            "redis://h\0",
            "redis://\ud800",
            "redis://h\x7f",
        ),
        *(
            "redis://u:%@h",
            "redis://u:%4@h",
            "redis://u:%zz@h",
            "redis://u:%ff@h",
            "redis://%80:x@h",
            "redis://u:%ED%A0%80@h",
        ),
        *("redis://u:p/a@h", "redis://u:p?a@h", "redis://u:p#a@h", "redis://\u2100@h", f"redis://u:{'p' * 5000}@h"),
    ],
    ids=ascii,
)
def test_a_malformed_url_is_refused_by_the_call(url: str) -> None:
    with pytest.raises(InvalidError) as caught:
        redis.Bus(url)
    assert not isinstance(caught.value, InvalidTypeError)
    assert str(caught.value).startswith("url ")


@pytest.mark.parametrize("url", [None, 1, b"redis://h", ["redis://h"], object()])
def test_what_is_no_string_is_refused_by_the_call(url: object) -> None:
    with pytest.raises(InvalidTypeError, match="url must be a string, not "):
        redis.Bus(url)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("redis://h", None, None),
        ("redis://@h", None, None),
        ("redis://:@h", None, None),
        ("redis://u@h", "u", None),
        ("redis://u:@h", "u", None),
        ("redis://:p@h", None, "p"),
        ("redis://u:p@h", "u", "p"),
        ("redis://u:p:q@h", "u", "p:q"),
        ("redis://u:p@q@h", "u", "p@q"),
        ("redis://u%3Av:p%40%2f%3F%23%25%20%00@h", "u:v", "p@/?#% \0"),
        ("redis://%C3%BC:%E2%82%AC@h", "\u00fc", "\u20ac"),
        ("redis://\u00fc:\u20ac@h", "\u00fc", "\u20ac"),
        ("redis://u:p+q@h", "u", "p+q"),
    ],
)
def test_user_and_password_are_percent_decoded(url: str, user: str | None, password: str | None) -> None:
    target = parse_url(url)
    assert (target.user, target.password) == (user, password)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.sampled_from(["", "u"]))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_password_can_be_written(password: str, user: str) -> None:
    target = parse_url(f"redis://{user}:{quote(password, safe='')}@h.test:1/2")
    assert (target.user, target.password, target.url) == (user or None, password, "redis://h.test:1/2")


hosts = st.one_of(
    st.sampled_from(
        ["h.test", "127.0.0.1", "[::1]", "[", "]", "::", "\u00fc", "1.2", "0x1", "", "a..b", "[::1%a]", "\u3002"]
    ),
    st.ip_addresses(v=6).map("[{}]".format),
    st.text(max_size=8),
)
odd_urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["redis://", "rediss://", "REDIS://", "redis:", "http://", "", "redis:/"]),
    st.one_of(st.just(""), st.text(max_size=6).map("{}@".format), st.text("%2fF:@/?#[]", max_size=6).map("{}@".format)),
    hosts,
    st.one_of(st.sampled_from(["", ":", ":1", ":0", ":65535", ":65536"]), st.text(max_size=4).map(":{}".format)),
    st.one_of(st.sampled_from(["", "/", "/0", "/15", "/x"]), st.text(max_size=4).map("/{}".format)),
)


def test_whatever_a_url_is_it_is_taken_in_its_normal_form_or_refused() -> None:
    counts = {"taken": 0, "refused": 0}
    shown: set[bool] = set()

    @given(st.one_of(odd_urls, st.text(), st.text(string.printable)))
    @settings(max_examples=600, deadline=None, derandomize=True, database=None)
    def check(url: str) -> None:
        try:
            target = parse_url(url)
        except InvalidError as error:
            counts["refused"] += 1
            shown.add(error.__suppress_context__ or error.__context__ is None)
            return
        counts["taken"] += 1
        again = parse_url(target.url)
        assert (again.url, again.host, again.port, again.database) == (
            *(target.url, target.host, target.port),
            target.database,
        )
        assert target.url.isascii()
        assert 1 <= target.port <= 65535

    check()
    assert min(counts.values()) >= 20, counts
    assert shown == {True}


@pytest.mark.parametrize(
    "url",
    [
        *("redis://usr7:pwd8@h:x/0", "redis://usr7:pwd8@[::1", "redis://usr7:pwd8@h/x", "http://usr7:pwd8@h"),
        *("redis://usr7:pwd8@", "redis://usr7:pwd8@h?x", "redis://usr7:pwd8%@h", "redis://usr7:pwd8%ff@h"),
        *("redis://usr7:pwd8@1.2", "redis://usr7:pwd8/@h", "redis://usr7:pwd8\u2100@h", "usr7:pwd8@h"),
        *("redis://usr7:pwd8@\u00fc..", "redis://usr7:pwd8@h\n", "redis://usr7:pwd8\\@h"),
    ],
    ids=ascii,
)
def test_no_error_shows_user_or_password(url: str) -> None:
    with pytest.raises(InvalidError) as caught:
        redis.Bus(url)
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert "usr7" not in shown + repr(caught.value)
    assert "pwd8" not in shown + repr(caught.value)


def test_a_target_shows_no_user_and_no_password() -> None:
    assert repr(parse_url("redis://usr7:pwd8@h")) == (
        "Target(url='redis://h:6379/0', secure=False, host='h', port=6379, database=0)"
    )
