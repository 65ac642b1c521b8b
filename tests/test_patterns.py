"""Patterns of resources: which can never match what the drivers ask about, and what to write instead."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import InvalidError, InvalidTypeError
from csp.security import Policy
from trio_csp_redis.protocol.names import check_name
from trio_csp_redis.protocol.url import parse_url as parse_redis_url
from trio_csp_websocket.network.proxy import parse_proxy
from trio_csp_websocket.protocol.url import parse_url

URL_ACTION = "websocket.connect.url"
ADDRESS_ACTION = "websocket.connect.address"
PROXY_ACTION = "websocket.connect.proxy"
REDIS_URL_ACTION = "redis.connect.url"
WIDE_ACTIONS = [URL_ACTION, "*", "websocket.*", "websocket.connect*", "websocket.connect.*"]


def told(pattern: str, actions: str | list[str] = URL_ACTION) -> str:
    """Return the text of the error that a pattern is."""
    with pytest.raises(InvalidError) as caught:
        Policy(actions, ["*", pattern])
    assert not isinstance(caught.value, InvalidTypeError)
    assert str(caught.value).startswith("resources must ")
    return str(caught.value)


# URLs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", WIDE_ACTIONS)
@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        # The scheme and the host.
        ("WSS://api.example.com/*", "wss://api.example.com/*"),
        ("Ws://*", "ws://*"),
        ("WSS:*", "wss:*"),
        ("wss://API.example.com/", "wss://api.example.com/"),
        ("wss://api.example.com./*", "wss://api.example.com/*"),
        ("wss://user:pass@api.example.com/*", "wss://api.example.com/*"),
        ("wss://user:pass@api.example.com/@b", "wss://api.example.com/@b"),
        ("wss://[2001:DB8:0::1]/*", "wss://[2001:db8::1]/*"),
        ("wss://[::ffff:127.0.0.1]/*", "wss://127.0.0.1/*"),
        ("wss://[::ffff:7f00:1]:81/*", "wss://127.0.0.1:81/*"),
        # The port.
        ("wss://api.example.com:443/*", "wss://api.example.com/*"),
        ("ws://api.example.com:80/", "ws://api.example.com/"),
        ("ws://api.example.com:080/", "ws://api.example.com/"),
        ("ws://api.example.com:/", "ws://api.example.com/"),
        ("ws://api.example.com:0081/", "ws://api.example.com:81/"),
        # The path.
        ("wss://api.example.com", "wss://api.example.com/"),
        ("wss://api.example.com?a=b", "wss://api.example.com/?..."),
        ("wss://api.example.com?*", "wss://api.example.com/?..."),
        ("wss://api.example.com/%61dmin", "wss://api.example.com/admin"),
        ("wss://api.example.com/%7euser/*", "wss://api.example.com/~user/*"),
        ("wss://api.example.com/a%2fb*", "wss://api.example.com/a%2Fb*"),
        ("wss://api.example.com/a%c*", "wss://api.example.com/a%C*"),
        ("wss://api.example.com/gr\u00fcn/*", "wss://api.example.com/gr%C3%BCn/*"),
        ("wss://api.example.com/a\\b", "wss://api.example.com/a%5Cb"),
        ("wss://api.example.com/public/../admin", "wss://api.example.com/admin"),
        ("wss://api.example.com/public/../*", "wss://api.example.com/*"),
        ("wss://api.example.com/public/./*", "wss://api.example.com/public/*"),
        ("wss://api.example.com/public/..", "wss://api.example.com/"),
        ("wss://api.example.com/public/.", "wss://api.example.com/public/"),
        ("wss://api.example.com/%2e%2e/admin*", "wss://api.example.com/admin*"),
        ("wss://api.example.com/a?gr\u00fcn", "wss://api.example.com/a?..."),
    ],
)
def test_a_url_that_is_not_in_its_normal_form_is_told_the_form_to_write(actions: str, pattern: str, form: str) -> None:
    text = told(pattern, actions)
    assert text.startswith("resources must have URLs in their normal form, unlike ")
    assert text.endswith(f"write {form!r}")
    if "?..." not in form:
        assert Policy(actions, form).resources == (form,)


@pytest.mark.parametrize(
    "pattern",
    [
        "wss:",
        "wss:/",
        "wss:api.example.com/*",
        "wss:/api.example.com/*",
        "wss://",
        "wss:///a",
        "wss://:80/",
        "wss://b\u00fccher.test/*",
        "wss://a..b/*",
        "wss://-a.test/",
        f"wss://{'a' * 64}.test/",
        f"wss://{'a.' * 130}test/",
        "wss://127.1/*",
        "wss://0x7f000001/",
        "wss://[::1/",
        "wss://[127.0.0.1]/",
        "wss://[fe80::1%eth0]/",
        "wss://[::1]x/",
        "wss://a.test:0/",
        "wss://a.test:65536/",
        "wss://a.test:1234567890/",
        "wss://a.test:port/*",
        "wss://a\\b.test/",
        "wss://a.test/ /*",
        "wss://a.test/\ud800*",
        "wss://a.test/%zz",
        "wss://a.test/%4",
        "wss://a.test/%/*",
        "wss://a.test/#*",
        "wss://a.test/\n*",
    ],
    ids=ascii,
)
def test_a_url_without_a_normal_form_is_told_the_rules(pattern: str) -> None:
    assert "; its normal form has scheme and host in lower case, " in told(pattern)


@pytest.mark.parametrize("effect", ["allow", "deny"])
@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("wss://api.example.com*", "write 'wss://api.example.com/*'"),
        ("WSS://API.example.com*", "write 'wss://api.example.com/*'"),
        ("wss://api.*", "write 'wss://api/*'"),
        ("wss://a*", "write 'wss://a/*'"),
        ("ws://127.0.0.1:*", "write 'ws://127.0.0.1/*'"),
        ("ws://127.0.0.1:80*", "write 'ws://127.0.0.1/*'"),
        ("ws://127.0.0.1:8*", "write 'ws://127.0.0.1:8/*'"),
        ("ws://[::1]*", "write 'ws://[::1]/*'"),
        ("ws://user@api.test*", "write 'ws://api.test/*'"),
        ("ws://127.*", "its normal form has "),
        ("ws://[fd00:*", "its normal form has "),
        ("wss://b\u00fccher.test*", "its normal form has "),
    ],
)
def test_a_star_in_the_host_or_port_is_told_what_it_would_match(pattern: str, advice: str, effect: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Policy(URL_ACTION, pattern, effect)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text = str(caught.value)
    assert text.startswith("resources must not have a * in the host or port of a URL")
    assert "'wss://example.com.evil.example/'" in text
    assert f"; {advice}" in text


@pytest.mark.parametrize("actions", WIDE_ACTIONS)
@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "w*", "ws*", "wss*", "ws:*", "wss:/*", "ws://*", "wss://*"),
        *("wss://a.test/", "wss://a.test/*", "wss://a.test:8443/*", "ws://a.test:443/", "ws://[::1]:9/*", "ws://a_b/"),
        *("wss://a.test/public/*", "wss://a.test/a%2*", "wss://a.test/a%*", "wss://a.test/a%C3*", "wss://a.test/..*"),
        *("wss://a.test/.well-known/*", "wss://a.test/.*", "wss://a.test/a//b;c=d/*", "wss://a.test/*"),
        *("wss://a.test/?*", "wss://a.test/a?b=%7e/../&c@d:e*", "wss://a.test/a?%*", "wss://a.test/?"),
    ],
)
def test_a_url_in_its_normal_form_or_the_beginning_of_one_is_taken(actions: str, pattern: str) -> None:
    assert Policy(actions, pattern).resources == (pattern,)


@pytest.mark.parametrize("actions", ["read", "websocket.connect.url.", "websockets.*", "websocket.connectX*", []])
@pytest.mark.parametrize("pattern", ["WSS://api.test", "wss://api.test*", "ws://a.test:80/"])
def test_the_resources_of_other_actions_are_no_urls_of_ours(actions: str | list[str], pattern: str) -> None:
    assert Policy(actions, pattern).resources == (pattern,)


@pytest.mark.parametrize(
    "pattern", ["wss://user:hunter2@A.test/*", "wss://hunter2@a.test*", "wss://a:hunter2/b@c.test"]
)
def test_no_text_shows_a_password(pattern: str) -> None:
    assert "hunter2" not in told(pattern)


@pytest.mark.parametrize("pattern", ["wss://A.test/?hunter2", "wss://a.test?hunter2*", "wss://a..b/?hunter2"])
def test_no_text_shows_a_query(pattern: str) -> None:
    assert "hunter2" not in told(pattern)


# What the actions of the drivers are asked about ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "pattern"),
    [
        ("websocket.connect", "wss://api.test/*"),
        ("websocket.connect", "w*"),
        (URL_ACTION, ""),
        (URL_ACTION, "api.test"),
        (URL_ACTION, "https://api.test/*"),
        (URL_ACTION, "WSS*"),
        (URL_ACTION, "//api.test/*"),
        (URL_ACTION, " wss://api.test/*"),
        (["websocket.connect", URL_ACTION], "api.test"),
        (ADDRESS_ACTION, ""),
        (ADDRESS_ACTION, "localhost"),
        (ADDRESS_ACTION, "10.0.0.0/8"),
        (ADDRESS_ACTION, "10.0.0.0/8*"),
        (ADDRESS_ACTION, "127.1"),
        (ADDRESS_ACTION, "0177.0.0.1"),
        (ADDRESS_ACTION, "1.2.3.4.*"),
        (ADDRESS_ACTION, "1234.*"),
        (ADDRESS_ACTION, "[::1]"),
        (ADDRESS_ACTION, "0:0::1"),
        (ADDRESS_ACTION, "FE80:*"),
        (ADDRESS_ACTION, "fe80::1%lo"),
        (ADDRESS_ACTION, "::ffff:127.0.0.1"),
        (ADDRESS_ACTION, "::ffff:7f00:1"),
        (ADDRESS_ACTION, "::ffff:127.*"),
        (ADDRESS_ACTION, "wss://127.0.0.1/*"),
        ([ADDRESS_ACTION, URL_ACTION], "localhost"),
        (PROXY_ACTION, ""),
        (PROXY_ACTION, "proxy.test:3128"),
        (PROXY_ACTION, "socks://proxy.test"),
        (PROXY_ACTION, "wss://proxy.test"),
        (PROXY_ACTION, "ftp*"),
        (PROXY_ACTION, "HTTP://proxy.test"),
        (PROXY_ACTION, "http://Proxy.test:3128"),
        (PROXY_ACTION, "http://proxy.test."),
        (PROXY_ACTION, "http://proxy.test/"),
        (PROXY_ACTION, "http://proxy.test:"),
        (PROXY_ACTION, "http://proxy.test:80"),
        (PROXY_ACTION, "https://proxy.test:443"),
        (PROXY_ACTION, "socks5h://proxy.test:1080"),
        (PROXY_ACTION, "http://[2001:DB8::1]:3128"),
        (PROXY_ACTION, "http://127.1:3128"),
        ("redis.connect", "redis://h.test:6379/0"),
        ("redis.connect", "r*"),
        (REDIS_URL_ACTION, ""),
        (REDIS_URL_ACTION, "h.test:6379"),
        (REDIS_URL_ACTION, "wss://h.test/"),
        (REDIS_URL_ACTION, "REDIS*"),
        (REDIS_URL_ACTION, "redisss://h.test*"),
        ("redis.send", ""),
        ("redis.send", "{jobs}"),
        ("redis.receive", "{jobs*"),
        ("redis.receive", "n" * 501),
        ("redis.receive", "n" * 501 + "*"),
        (["redis.send", "redis.receive"], "jobs}"),
    ],
)
def test_what_such_actions_are_never_asked_about_is_told(actions: str | list[str], pattern: str) -> None:
    text = told(pattern, actions)
    first = actions if isinstance(actions, str) else actions[0]
    assert text.startswith(f"resources must not have {pattern!r}, which never matches: {first} is asked about ")
    # Some other action may be asked about it.
    others = [actions] if isinstance(actions, str) else actions
    assert Policy([*others, "read"], pattern).resources == (pattern,)


@pytest.mark.parametrize(
    ("actions", "pattern"),
    [
        *(("websocket.connect", pattern) for pattern in ("", "*")),
        *((ADDRESS_ACTION, pattern) for pattern in ("*", "1*", "127.*", "10.0.*", "1.2.3.4*", "127.0.0.1", "::1")),
        *((ADDRESS_ACTION, pattern) for pattern in ("::*", "fe80:*", "2001:db8::*", "::", "/run/*", "/a.sock")),
        (["websocket.connect", URL_ACTION], ["", "wss://api.test/*"]),
        ([URL_ACTION, ADDRESS_ACTION], ["wss://api.test/*", "192.0.2.1"]),
        *((PROXY_ACTION, pattern) for pattern in ("*", "http*", "socks5*", "http://*", "http://proxy.test:3*")),
        *(("redis.connect", pattern) for pattern in ("", "*")),
        *((REDIS_URL_ACTION, pattern) for pattern in ("*", "r*", "redis*", "redis:*", "rediss://*", "redis://*")),
        *(("redis.send", pattern) for pattern in ("*", "jobs", "jobs*", "n" * 500, "a b", "redis://H", "\u00fc")),
        (["redis.connect", REDIS_URL_ACTION], ["", "redis://h.test:6379/*"]),
        (["redis.connect", "redis.receive"], ["", "jobs"]),
        *((PROXY_ACTION, url) for url in ("http://proxy.test", "https://proxy.test:80", "socks4a://[::1]:9")),
    ],
)
def test_what_such_actions_are_asked_about_is_taken(actions: str | list[str], pattern: str | list[str]) -> None:
    assert Policy(actions, pattern).resources


def test_an_address_that_is_no_pattern_says_how_a_network_is_written() -> None:
    assert "for a network, write '192.0.2.*' or a condition" in told("10.0.0.0/8", ADDRESS_ACTION)


def test_a_proxy_whose_pattern_has_a_password_is_not_shown() -> None:
    assert "hunter2" not in told("http://user:hunter2@proxy.test", PROXY_ACTION)


# Redis ----------------------------------------------------------------------------------------------------------------

WIDE_REDIS_ACTIONS = [REDIS_URL_ACTION, "*", "redis.*", "redis.connect*", "redis.connect.*"]


@pytest.mark.parametrize("actions", WIDE_REDIS_ACTIONS)
@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        ("REDIS://h.test:6379/0", "redis://h.test:6379/0"),
        ("Redis://*", "redis://*"),
        ("REDISS:*", "rediss:*"),
        ("redis://H.test.:6379/*", "redis://h.test:6379/*"),
        ("redis://h.test", "redis://h.test:6379/0"),
        ("redis://h.test/", "redis://h.test:6379/0"),
        ("redis://h.test:6379", "redis://h.test:6379/0"),
        ("redis://h.test:6379/", "redis://h.test:6379/0"),
        ("rediss://h.test/3", "rediss://h.test:6379/3"),
        ("redis://h.test:/03", "redis://h.test:6379/3"),
        ("redis://h.test:06380/0", "redis://h.test:6380/0"),
        ("redis://h.test/*", "redis://h.test:6379/*"),
        ("redis://h.test/1*", "redis://h.test:6379/1*"),
        ("redis://h.test:6379/01*", "redis://h.test:6379/1*"),
        ("redis://u:p@h.test:6379/*", "redis://h.test:6379/*"),
        ("redis://[2001:DB8:0::1]:6379/*", "redis://[2001:db8::1]:6379/*"),
        ("redis://[::ffff:127.0.0.1]:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
    ],
)
def test_a_redis_url_that_is_not_in_its_normal_form_is_told_the_form_to_write(
    actions: str, pattern: str, form: str
) -> None:
    text = told(pattern, actions)
    assert text.startswith("resources must have URLs in their normal form, unlike ")
    assert text.endswith(f"write {form!r}")
    assert Policy(actions, form).resources == (form,)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "redis:",
            "redis:/",
            "redis:h.test",
            "redis://",
            "redis:///0",
            "redis://:6379/0",
            "redis://b\u00fccher.test/*",
        ),
        *(
            "redis://127.1:6379/0",
            "redis://0x7f000001/*",
            "redis://[::1",
            "redis://h.test:0/0",
            "redis://h.test:65536/*",
        ),
        *(
            "redis://h.test:port/*",
            "redis://h.test/x",
            "redis://h.test/0/",
            "redis://h.test:6379/0?a",
            "redis://h/2147483648",
        ),
        *("redis://h.test/x*", "redis://h.test:6379/0/*", "redis://h test/*", "redis://h.test/99999999999*"),
        *("redis://[fe80::1%eth0]:6379/*", "redis://h\\i/*"),
    ],
    ids=ascii,
)
def test_a_redis_url_without_a_normal_form_is_told_the_rules(pattern: str) -> None:
    text = told(pattern, REDIS_URL_ACTION)
    assert "; its normal form has scheme and host in lower case, " in text
    assert text.endswith("always the port and the number of a database")


@pytest.mark.parametrize("effect", ["allow", "deny"])
@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("redis://h.test*", "write 'redis://h.test:6379/*'"),
        ("REDISS://H.test*", "write 'rediss://h.test:6379/*'"),
        ("redis://h.test:*", "write 'redis://h.test:6379/*'"),
        ("redis://h.test:63*", "write 'redis://h.test:63/*'"),
        ("redis://h.test:6379*", "write 'redis://h.test:6379/*'"),
        ("redis://u:p@h.test*", "write 'redis://h.test:6379/*'"),
        ("redis://[::1]*", "write 'redis://[::1]:6379/*'"),
        ("redis://127.*", "its normal form has "),
    ],
)
def test_a_star_in_the_host_or_port_of_a_redis_url_is_told_what_it_would_match(
    pattern: str, advice: str, effect: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        Policy(REDIS_URL_ACTION, pattern, effect)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text = str(caught.value)
    assert text.startswith("resources must not have a * in the host or port of a URL")
    assert "'redis://example.com.evil.example:6379/0'" in text
    assert f"; {advice}" in text


@pytest.mark.parametrize("actions", WIDE_REDIS_ACTIONS)
@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "r*", "redis*", "redis:*", "redis://*", "rediss://*", "redis://h.test:6379/0", "redis://h.test:6379/*"),
        *("redis://h.test:6379/1*", "redis://127.0.0.1:1/15", "rediss://[::1]:6380/2147483647", "redis://a_b:1/0*"),
    ],
)
def test_a_redis_url_in_its_normal_form_or_the_beginning_of_one_is_taken(actions: str, pattern: str) -> None:
    assert Policy(actions, pattern).resources == (pattern,)


@pytest.mark.parametrize(
    "pattern", ["redis://user:hunter2@A.test/0", "redis://hunter2@a.test*", "redis://u:hunter2/@c"]
)
def test_no_text_shows_a_password_of_a_redis_url(pattern: str) -> None:
    assert "hunter2" not in told(pattern, REDIS_URL_ACTION)


redis_urls = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["redis", "rediss", "REDIS"]),
    st.sampled_from(["", "", "", "user:pass@"]),
    st.one_of(
        st.sampled_from(["h.test", "H.test.", "a_b", "127.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "a..b"]),
        st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
        st.text(max_size=4),
    ),
    st.sampled_from(["", ":", ":6379", ":06379", ":1", ":65536", ":0", ":x"]),
    st.sampled_from(["", "/", "/0", "/00", "/15", "/x", "/2147483648"]),
).filter(lambda url: "*" not in url)


def test_a_redis_url_is_taken_where_it_is_the_normal_form_of_the_driver_and_else_told_that_form() -> None:
    counts = {"taken": 0, "told": 0, "without": 0}

    @settings(max_examples=800, deadline=None, derandomize=True, database=None)
    @given(redis_urls)
    def compare(url: str) -> None:
        try:
            form = parse_redis_url(url).url
        except InvalidError:
            form = None
        if form is not None:
            beginning = form[: form.rindex("/") + 1]
            for pattern in (form, f"{form}*", f"{beginning}*"):
                assert Policy(REDIS_URL_ACTION, pattern).resources == (pattern,)
        if url == form:
            counts["taken"] += 1
            return
        text = told(url, REDIS_URL_ACTION)
        if form is None:
            counts["without"] += 1
        elif url.isascii():
            assert text.endswith(f"; write {form!r}")
            counts["told"] += 1

    compare()
    assert min(counts.values()) >= 3, counts


@pytest.mark.parametrize("name", ["", "a", "n" * 500, "n" * 501, "{a", "a}", "a b", "\n", "*"])
def test_a_name_is_taken_where_it_is_one_of_the_driver(name: str) -> None:
    try:
        check_name("name", name)
    except InvalidError:
        told(name, "redis.send")
    else:
        assert Policy("redis.send", name).resources == (name,)


# In step with the driver ----------------------------------------------------------------------------------------------

hosts = st.one_of(
    st.sampled_from(
        ["server.test", "SERVER.test.", "a_b", "xn--bcher-kva.test", "1.2.3", "-a", "a..b", "b\u00fccher.test"]
    ),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.ip_addresses(v=4).map(lambda address: f"[::ffff:{address}]"),
    st.text(max_size=5),
)
segments = st.one_of(
    st.sampled_from([".", "..", ".a", "%2e", "%2F", "%2f", "%7E", "%C3%BC", "%", "%4", "%zz", "", "a", "A;b", "\\"]),
    st.text(max_size=4),
)
odd_urls = st.builds(
    "{}://{}{}{}{}{}".format,
    st.sampled_from(["ws", "wss", "WS", "wSs"]),
    st.sampled_from(["", "", "user:pass@", "@"]),
    hosts,
    st.sampled_from(["", "", ":", ":80", ":443", ":081", ":65535", ":65536", ":0", ":x"]),
    st.lists(segments, max_size=4).map(lambda names: "".join(f"/{name}" for name in names)),
    st.one_of(st.just(""), st.text(max_size=5).map("?{}".format)),
)
# Of these many are in the normal form.
plain_urls = st.builds(
    "{}://{}{}/{}{}".format,
    st.sampled_from(["ws", "wss"]),
    st.sampled_from(["server.test", "127.0.0.1", "[::1]", "[2001:db8::1]", "a_b", "SERVER", "b\u00fccher.test"]),
    st.sampled_from(["", ":81", ":8443", ":80"]),
    st.lists(st.sampled_from(["a", "", "..b", ".", "..", "%2F", "%2", "%", "a;b"]), max_size=3).map("/".join),
    st.sampled_from(["", "?", "?a=%7e/..", "?%"]),
)
urls = st.one_of(odd_urls, plain_urls).filter(lambda url: "*" not in url)


def taken(pattern: str) -> bool:
    try:
        Policy(URL_ACTION, pattern)
    except InvalidError:
        return False
    return True


def normal_form(url: str) -> str | None:
    """Return the driver's normal form of a URL."""
    try:
        return parse_url(url).url
    except InvalidError:
        return None


def test_a_url_is_taken_where_it_is_the_normal_form_of_the_driver_and_else_told_that_form() -> None:
    counts = {"taken": 0, "told": 0, "international": 0, "without": 0}

    @settings(max_examples=600, deadline=None, derandomize=True, database=None)
    @given(urls)
    def compare(url: str) -> None:
        form = normal_form(url)
        if form is not None:
            assert taken(form)
        if url == form:
            counts["taken"] += 1
            return
        text = told(url)
        if form is None:
            counts["without"] += 1
        elif url.partition("//")[2].partition("/")[0].partition("?")[0].isascii():
            path, mark, _ = form.partition("?")
            assert text.endswith(f"; write {path + mark + '...' * bool(mark)!r}")
            counts["told"] += 1
        else:
            counts["international"] += 1

    compare()
    assert min(counts.values()) >= 10, counts


def test_every_beginning_of_a_normal_form_behind_its_host_is_taken_and_no_other_that_ends_in_the_authority() -> None:
    counts = [0]

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(urls)
    def check(url: str) -> None:
        form = normal_form(url)
        if form is None or "*" in form:
            return
        counts[0] += 1
        authority = form.index("://") + 3
        path = form.index("/", authority)
        for end in range(len(form) + 1):
            assert taken(f"{form[:end]}*") is (end <= authority or end > path)

    check()
    assert counts[0] >= 50


@pytest.mark.parametrize("port", ["", ":80", ":443", ":1080", ":3128"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h", "socks4", "socks4a"])
def test_a_proxys_url_is_taken_where_it_is_the_normal_form_of_the_driver(scheme: str, port: str) -> None:
    for host in ("proxy.test", "192.0.2.1", "[::1]", "Proxy.test", "proxy.test.", "[0::1]", "[::ffff:127.0.0.1]"):
        url = f"{scheme}://{host}{port}"
        normal = parse_proxy(url).url
        assert Policy(PROXY_ACTION, normal).resources == (normal,)
        if url != normal:
            told(url, PROXY_ACTION)


def test_a_beginning_that_is_taken_can_match() -> None:
    counts = [0]

    @settings(max_examples=600, deadline=None, derandomize=True, database=None)
    @given(urls)
    def check(url: str) -> None:
        if not taken(f"{url}*"):
            return
        counts[0] += 1
        # What the driver makes of some URL begins like this.
        followed = [normal_form(f"{url}{rest}") for rest in ("x", "", "F", "2F", "server.test/")]
        assert any(form is not None and form.startswith(url) for form in followed)

    check()
    assert counts[0] >= 50


def test_a_form_that_is_told_is_taken() -> None:
    counts = [0]

    @settings(max_examples=600, deadline=None, derandomize=True, database=None)
    @given(urls, st.sampled_from(["", "*"]))
    def check(url: str, star: str) -> None:
        if taken(f"{url}{star}"):
            return
        advice = re.search(r"; write '([^']*)'\Z", told(f"{url}{star}"))
        if advice is not None and "..." not in advice[1]:
            counts[0] += 1
            assert taken(advice[1])

    check()
    assert counts[0] >= 50
