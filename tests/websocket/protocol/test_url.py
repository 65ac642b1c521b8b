"""URLs: what they are normalised to, which are refused, and that no error shows a secret."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp import websocket
from csp.errors import InvalidError, InvalidTypeError, Kind
from trio_csp_websocket.protocol.url import Target, parse_url


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("ws://server.test", "ws://server.test/"),
        ("wss://server.test", "wss://server.test/"),
        ("WS://Server.TEST/Path", "ws://server.test/Path"),
        ("ws://server.test:80/", "ws://server.test/"),
        ("wss://server.test:443/", "wss://server.test/"),
        ("wss://server.test:80/", "wss://server.test:80/"),
        ("ws://server.test:443/", "ws://server.test:443/"),
        ("ws://server.test:/", "ws://server.test/"),
        ("ws://server.test:00080/", "ws://server.test/"),
        ("ws://server.test:65535/", "ws://server.test:65535/"),
        ("ws://server.test.:1/", "ws://server.test:1/"),
        ("ws://localhost/", "ws://localhost/"),
        ("ws://a_b.test/", "ws://a_b.test/"),
        ("ws://127.0.0.1:8080/", "ws://127.0.0.1:8080/"),
        ("ws://[::1]/", "ws://[::1]/"),
        ("ws://[0:0:0:0:0:0:0:1]:9/", "ws://[::1]:9/"),
        ("ws://[2001:DB8::A]:80/", "ws://[2001:db8::a]/"),
        ("ws://[::ffff:127.0.0.1]/", "ws://127.0.0.1/"),
        ("ws://[::FFFF:7F00:1]:80/", "ws://127.0.0.1/"),
        ("ws://[0:0:0:0:0:ffff:127.0.0.1]:8080/", "ws://127.0.0.1:8080/"),
        ("wss://[0000:0000:0000:0000:0000:FFFF:0000:0000]/", "wss://0.0.0.0/"),
        ("ws://[::ffff:255.255.255.255]/", "ws://255.255.255.255/"),
        # These only contain an IPv4 address: they lead elsewhere, or nowhere.
        ("ws://[::127.0.0.1]/", "ws://[::7f00:1]/"),
        ("ws://[::ffff:0:127.0.0.1]/", "ws://[::ffff:0:7f00:1]/"),
        ("ws://[64:ff9b::127.0.0.1]/", "ws://[64:ff9b::7f00:1]/"),
        ("ws://[2002:7f00:1::]/", "ws://[2002:7f00:1::]/"),
        ("ws://[fe80::ffff:127.0.0.1]/", "ws://[fe80::ffff:7f00:1]/"),
        ("ws://[0:0::0]/", "ws://[::]/"),
        ("ws://[1:0:0:2:0:0:0:3]/", "ws://[1:0:0:2::3]/"),
        ("ws://b\u00fccher.test/", "ws://xn--bcher-kva.test/"),
        ("ws://B\u00dcCHER.test/", "ws://xn--bcher-kva.test/"),
        ("ws://b\u00fccher\u3002test/", "ws://xn--bcher-kva.test/"),
        ("ws://XN--BCHER-KVA.test/", "ws://xn--bcher-kva.test/"),
        ("ws://server.test/%7Euser/%41%2d%2E%5f", "ws://server.test/~user/A-._"),
        ("ws://server.test/%2f%3a%c3%bc", "ws://server.test/%2F%3A%C3%BC"),
        ("ws://server.test/gr\u00fcn", "ws://server.test/gr%C3%BCn"),
        ("ws://server.test/a/./b/../c", "ws://server.test/a/c"),
        ("ws://server.test/a/b/..", "ws://server.test/a/"),
        ("ws://server.test/a/.", "ws://server.test/a/"),
        ("ws://server.test/../../a", "ws://server.test/a"),
        ("ws://server.test/..", "ws://server.test/"),
        ("ws://server.test/a/%2e%2E/b", "ws://server.test/b"),
        ("ws://server.test/a//b/", "ws://server.test/a//b/"),
        ("ws://server.test/.../..a/b..", "ws://server.test/.../..a/b.."),
        ("ws://server.test/a;b=c,d:e@f!$&'()*+=", "ws://server.test/a;b=c,d:e@f!$&'()*+="),
        ('ws://server.test/"<>[]^`{|}\\', "ws://server.test/%22%3C%3E%5B%5D%5E%60%7B%7C%7D%5C"),
        ("ws://server.test/%252e%252e/", "ws://server.test/%252e%252e/"),
        ("ws://server.test?a=b", "ws://server.test/?a=b"),
        ("ws://server.test/?", "ws://server.test/?"),
        ("ws://server.test/?%7e/../a?b=c&d", "ws://server.test/?%7e/../a?b=c&d"),
        ("ws://server.test/?gr\u00fcn", "ws://server.test/?gr%C3%BCn"),
        ("ws://user:pass@server.test/a", "ws://server.test/a"),
        ("ws://user@server.test/a", "ws://server.test/a"),
        ("ws://@server.test/a", "ws://server.test/a"),
        ("ws://a@b@server.test/", "ws://server.test/"),
        ("ws://server.test/a@b:c", "ws://server.test/a@b:c"),
    ],
)
def test_a_url_is_normalised(url: str, normalised: str) -> None:
    assert parse_url(url).url == normalised


def test_the_parts_are_those_that_are_dialled() -> None:
    assert parse_url("wss://user:pass@Server.test:8443/a?b") == Target(
        url="wss://server.test:8443/a?b",
        secure=True,
        host="server.test",
        port=8443,
        host_header="server.test:8443",
        resource="/a?b",
        authorization="Basic dXNlcjpwYXNz",
    )


@pytest.mark.parametrize(("url", "port"), [("ws://s.test", 80), ("wss://s.test", 443), ("wss://s.test:80", 80)])
def test_the_port_follows_the_scheme(url: str, port: int) -> None:
    assert parse_url(url).port == port
    assert parse_url(url).secure is url.startswith("wss")


def test_the_host_of_an_ipv6_url_is_without_brackets_and_its_header_with() -> None:
    target = parse_url("ws://[::1]:8080/")
    assert (target.host, target.host_header) == ("::1", "[::1]:8080")


@pytest.mark.parametrize(
    ("user_information", "credentials"),
    [
        ("user:pass", b"user:pass"),
        ("user", b"user:"),
        (":pass", b":pass"),
        ("user:", b"user:"),
        ("us%20er:p%3Ass", b"us er:p:ss"),
        ("user:a:b", b"user:a:b"),
        ("us%C3%BCr:p%C3%A4ss", "us\u00fcr:p\u00e4ss".encode()),
        ("us\u00fcr:p", "us\u00fcr:p".encode()),
        ("User:Pass", b"User:Pass"),
    ],
)
def test_credentials_become_basic_authorization(user_information: str, credentials: bytes) -> None:
    authorization = parse_url(f"ws://{user_information}@server.test/").authorization
    assert authorization is not None
    assert base64.b64decode(authorization.removeprefix("Basic ")) == credentials


def test_no_credentials_no_authorization() -> None:
    assert parse_url("ws://server.test/").authorization is None


MALFORMED = [
    "",
    "server.test",
    "//server.test/",
    "/path",
    "http://server.test/",
    "https://server.test/",
    "wsss://server.test/",
    "ws:server.test",
    "ws:/server.test",
    "ws://",
    "ws:///path",
    "ws://:80/",
    "ws://user@/",
    "ws://server.test:0/",
    "ws://server.test:65536/",
    "ws://server.test:-1/",
    "ws://server.test:port/",
    "ws://server.test:80:80/",
    "ws://server.test:\u0661/",
    "ws://server.test/#",
    "ws://server.test/#fragment",
    "ws://server.test#fragment",
    "ws://server.test/a b",
    " ws://server.test/",
    "ws://server.test/\r\nX: y",
    "ws://server.test/\x00",
    "ws://server.test/\x7f",
    "ws://ser\tver.test/",
    "ws://server.test/%",
    "ws://server.test/%4",
    "ws://server.test/%zz",
    "ws://server..test/",
    "ws://127.1/",
    "ws://2130706433/",
    "ws://0177.0.0.1/",
    "ws://0x7f000001/",
    "ws://127.0.0.0x1/",
    "ws://server.1/",
    "ws://1.2.3.4.5/",
    "ws://256.0.0.1/",
    "ws://.server.test/",
    "ws://.",
    "ws://ser%76er.test/",
    "ws://ser*er.test/",
    "ws://ser,ver.test/",
    "ws://server.test\\@other.test:80:/",
    "ws:\\\\server.test/",
    "ws:/\\server.test/",
    "ws:\\/server.test/",
    "\\ws://server.test/",
    "ws://\\server.test/",
    "ws://server.test\uff3c@other.test\uff3c/",
    f"ws://{'a' * 64}.test/",
    f"ws://{'a.' * 130}test/",
    "ws://[::1/",
    "ws://::1]/",
    "ws://[::g]/",
    "ws://[127.0.0.1]/",
    "ws://[::ffff:127.1]/",
    "ws://[::ffff:0177.0.0.1]/",
    "ws://[::ffff:0x7f.0.0.1]/",
    "ws://[::ffff:127.0.0.1%lo]/",
    "ws://[::ffff:127.0.0.1%25lo]/",
    "ws://::ffff:127.0.0.1/",
    "ws://[v1.a]/",
    "ws://[]/",
    "ws://[::1]x/",
    "ws://[::1]x:80/",
    "ws://x[::1]/",
    "ws://b\u00fc cher.test/",
    "ws://\u00fc\u00ad\u200d.test/",
    "ws://xn--\u00fc.test/",
    "ws://a%3Ab:pass@server.test/",
    "ws://server.test/\ud800",
    "ws://server.test/?\ud800",
    "ws://\ud800.test/",
    "ws://\ud800@server.test/",
]
# What pytest names a test may not contain a lone surrogate.


@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_malformed_url_is_invalid(url: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_url(url)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.retryable is False
    assert str(caught.value).startswith("url ")


@pytest.mark.parametrize(
    "url",
    [
        "ws://good.test\\@evil.test/",
        "wss://a\\b/",
        "ws://server.test\\",
        "ws://server.test\\path",
        "ws://server.test:80\\@evil.test/",
        "ws://server.test\\:80/",
        "ws://\\server.test/",
        "ws://\\\\server.test",
        "ws://us\\er:pass@server.test/",
        "ws://user:pa\\ss@server.test?query",
        "ws://[::1]\\@evil.test/",
    ],
)
def test_a_backslash_before_the_path_is_refused(url: str) -> None:
    for call in (websocket.connect, websocket.reconnecting):
        with pytest.raises(InvalidError, match=r"^url must not have a backslash before its path"):
            call(url)


def test_a_backslash_in_the_path_is_percent_encoded_and_stays_in_the_query() -> None:
    target = parse_url("ws://server.test/a\\..\\b?c\\d")
    assert target.resource == "/a%5C..%5Cb?c\\d"
    assert target.host == "server.test"


@pytest.mark.parametrize("url", [None, 1, b"ws://server.test/", ["ws://server.test/"]])
def test_what_is_no_string_is_a_type_error(url: object) -> None:
    with pytest.raises(InvalidTypeError, match="url must be a string"):
        parse_url(url)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("written", "zone"),
    [("%eth0", "eth0"), ("%25eth0", "eth0"), ("%25Eth-0._~", "Eth-0._~"), ("%3", "3"), ("%2525", "25"), ("%25", "25")],
)
def test_a_link_local_address_may_have_a_zone(written: str, zone: str) -> None:
    target = parse_url(f"ws://user:pass@[FE80::1{written}]:81/?token")
    assert (target.zone, target.host, target.looked_up) == (zone, "fe80::1", f"fe80::1%{zone}")
    assert target.url == "ws://[fe80::1]:81/?token"
    assert target.host_header == "[fe80::1]:81"
    assert target.shown == f"ws://[fe80::1%25{zone}]:81/?..."


@pytest.mark.parametrize("zone", ["\u00e9", "a%25b", "", "a b", "a\u200b"])
def test_a_zone_that_is_no_interface_is_refused_by_its_name(zone: str) -> None:
    with pytest.raises(InvalidError, match=r"url has an IPv6 zone that is not made of|url must not contain spaces"):
        parse_url(f"ws://[fe80::1%{zone}]/")


@pytest.mark.parametrize("address", ["::1", "2001:db8::1", "::ffff:127.0.0.1", "ff02::1"])
def test_an_address_that_is_not_link_local_may_have_no_zone(address: str) -> None:
    with pytest.raises(InvalidError, match=r"with a zone: only those of fe80::/10 may have one$"):
        parse_url(f"ws://[{address}%25eth0]/")


def test_a_host_whose_last_label_and_port_are_too_long_for_the_host_header_is_refused() -> None:
    # wsproto takes the whole header for a host name; without the refusal connecting would fail in it.
    for host in ("a" * 63, "server." + "a" * 63):
        with pytest.raises(InvalidError, match="too long"):
            parse_url(f"ws://{host}:8080/")
        assert parse_url(f"ws://{host}/").host == host


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"ws://user:{SECRET}@server.test:port/",
        f"ws://user:{SECRET}@server.test:70000/",
        f"ws://user:{SECRET}@server.test:0/",
        f"ws://user:{SECRET}@ser ver.test/",
        f"ws://user:{SECRET}@server..test/",
        f"ws://user:{SECRET}\\@server.test/",
        f"ws://user:{SECRET}@[::g]/",
        f"ws://user:{SECRET}@[::1/",
        f"ws://user:{SECRET}@/",
        f"ws://user:{SECRET}@server.test/#x",
        f"ws://user:{SECRET}@server.test/%",
        f"ws://us%3Aer:{SECRET}@server.test/",
        f"http://user:{SECRET}@server.test/",
        # Taken for the delimiter by a user who should have written %2F, %3F, %23, %5B.
        f"ws://user:{SECRET}/x@server.test/",
        f"ws://user:{SECRET}?x@server.test/",
        f"ws://user:{SECRET}#x@server.test/",
        f"ws://user:[{SECRET}]@server.test/",
        # urlsplit shows everything before the path in this error.
        f"ws://user:{SECRET}@ser\u2100ver.test/",
        f"ws://user:{SECRET}\u2100@server.test/",
        f"ws://user:{SECRET}\n@server.test/",
    ],
)
def test_no_error_shows_the_secret(url: str) -> None:
    with pytest.raises(InvalidError) as caught:
        websocket.connect(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_neither_url_nor_repr_of_a_target_needs_the_secret_in_the_clear() -> None:
    assert SECRET not in repr(parse_url(f"ws://user:{SECRET}@server.test/"))


# Any text -------------------------------------------------------------------------------------------------------------

labels = st.text(st.sampled_from("abcxyzABC019-_\u00fc\u00df\u4e2d"), min_size=1, max_size=8)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
paths = st.lists(st.one_of(st.text(max_size=6), st.sampled_from([".", "..", "%2e", "%2F", "%C3%bc", ""])), max_size=5)


def joined(scheme: str, user: str, host: str, port: str, path: list[str], query: str) -> str:
    return f"{scheme}://{user}{host}{port}/{'/'.join(path)}{query}"


urls = st.builds(
    joined,
    st.sampled_from(["ws", "wss", "WS", "Wss"]),
    st.one_of(st.just(""), st.text(max_size=5).map(lambda user: quote(user, safe="") + "@")),
    hosts,
    st.one_of(st.just(""), st.integers(0, 66_000).map(lambda port: f":{port}")),
    paths,
    st.one_of(st.just(""), st.text(max_size=8).map(lambda query: "?" + query)),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_the_ipv4_address_in_every_spelling(address: IPv4Address) -> None:
    mapped = IPv6Address((0xFFFF << 32) + int(address))
    for spelling in (str(mapped), mapped.exploded, mapped.exploded.upper(), f"::ffff:{address}"):
        assert parse_url(f"ws://[{spelling}]:81/") == parse_url(f"ws://{address}:81/")
        assert parse_url(f"wss://[{spelling}]").host == str(address)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.one_of(urls, st.text(max_size=30).map(lambda rest: "ws://" + rest), st.text(max_size=30)))
def test_any_text_is_refused_or_gives_a_url_that_stays_as_it_is(url: str) -> None:
    try:
        target = parse_url(url)
    except InvalidError:
        return
    assert parse_url(target.url) == Target(
        target.url, target.secure, target.host, target.port, target.host_header, target.resource, None
    )
    assert target.resource.startswith("/")
    assert 1 <= target.port <= 65535
    for part in (target.url, target.host, target.host_header, target.resource, target.authorization or ""):
        assert part.isascii()
        assert part.isprintable()
        assert " " not in part.removeprefix("Basic ")


# Lengths --------------------------------------------------------------------------------------------------------------


# What some of these would cost grows with the square of the length: in idna, and in Unicode's normal forms in urllib.
@pytest.mark.parametrize("host", ["\u0660", "a\u0301\u0316", "\u00fc.", "a"], ids=ascii)
@pytest.mark.parametrize("size", [254, 4000])
def test_a_host_of_more_than_253_characters_is_refused_before_anything_looks_into_it(host: str, size: int) -> None:
    name = (host * size)[:size].rstrip(".") + "b"
    with pytest.raises(InvalidError, match=f"invalid host name: it has {len(name)} characters, more than 253"):
        websocket.connect(f"ws://{name}/")
    with pytest.raises(InvalidError, match=r"server_hostname must be .*: it has .* more than 253"):
        websocket.connect("wss://server.test/", server_hostname=name)


def test_a_host_may_have_253_characters_and_a_dot_behind_them() -> None:
    name = "a." * 126 + "b"
    assert parse_url(f"ws://{name}/").host == name
    assert parse_url(f"ws://{name}./").host == name
    # These are more in ASCII.
    with pytest.raises(InvalidError, match="invalid host name"):
        parse_url("ws://" + "\u00fc." * 126 + "b/")


@pytest.mark.parametrize("before", ["ws:", "wss:", "", "a", "http:"])
@pytest.mark.parametrize("unit", ["a\u0301\u0316", "%00", "a@", ":", "[", "\u0660"], ids=ascii)
def test_credentials_host_and_port_are_at_most_4096_characters(unit: str, before: str) -> None:
    authority = (unit * 5000)[:4097]
    for behind in ("", "/", "?a", "#"):
        with pytest.raises(InvalidError, match="at most 4096 characters of credentials, host and port, not 4097"):
            websocket.connect(f"{before}//{authority}{behind}")
    secret = "a" * 4000
    assert parse_url(f"ws://{secret}@server.test/").host == "server.test"


def test_a_url_is_at_most_64_kib() -> None:
    url = "ws://server.test/?" + "a" * 65_518
    assert parse_url(url).url == url
    with pytest.raises(InvalidError, match="url must have at most 65536 characters, not 65537"):
        websocket.connect(url + "a")
