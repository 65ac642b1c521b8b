from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from csp import redis
from csp.errors import InvalidError, InvalidTypeError
from trio_csp_redis.protocol import codec as module
from trio_csp_redis.protocol.codec import check_codec, encoded

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


@pytest.mark.parametrize("value", [b"", b"\0\xff", "", "\u20ac", bytearray(b"ab"), memoryview(b"ab")])
async def test_bytes_go_as_they_are_and_a_str_as_utf_8(shared_server: SharedServer, value: Any) -> None:
    async with redis.Bus(shared_server.url) as bus:
        await bus.queue("jobs").send(value)
        async with bus.queue("jobs").work() as deliveries:
            with await deliveries.receive_value() as delivery:
                assert delivery.data == (value.encode() if isinstance(value, str) else bytes(value))
                assert type(delivery.data) is bytes


@pytest.mark.parametrize("value", [1, None, ["a"], {"a": 1}])
async def test_other_values_need_a_codec(shared_server: SharedServer, value: Any) -> None:
    async with redis.Bus(shared_server.url) as bus:
        with pytest.raises(InvalidTypeError, match=r"data must be bytes or a str, not .*; a codec takes other values"):
            await bus.queue("jobs").send(value)
        assert await bus.queue("jobs").depth() == 0


@pytest.mark.parametrize("value", [None, 1.5, "\u20ac", ["a", {"b": [True]}], {}])
def test_json_and_back(value: object) -> None:
    data = encoded(redis.JSON, value)
    assert redis.JSON[1](data) == value
    assert b" " not in data


def test_what_cannot_be_encoded_is_invalid_and_its_text_shows_nothing_of_the_value() -> None:
    with pytest.raises(InvalidError, match=r"^the value cannot be encoded: TypeError$") as caught:
        encoded(redis.JSON, {"secret8"})
    assert isinstance(caught.value.__cause__, TypeError)
    assert type(caught.value) is InvalidError


def test_what_encode_says_itself_comes_out_as_it_is() -> None:
    def encode(_value: object) -> bytes:
        raise InvalidError("no")

    with pytest.raises(InvalidError, match=r"^no$"):
        encoded((encode, bytes), b"x")


def test_a_surrogate_cannot_be_written() -> None:
    with pytest.raises(InvalidError, match="the value cannot be written as UTF-8: it has a surrogate"):
        encoded(redis.BYTES, "\ud800")


def test_encode_must_return_bytes_or_a_str() -> None:
    with pytest.raises(InvalidTypeError, match="encode must return bytes or a str, not int"):
        encoded((len, bytes), b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_value_may_be_as_long_as_redis_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_BYTES == 512 * 1024 * 1024
    monkeypatch.setattr(module, "MAX_BYTES", 3)
    assert encoded(redis.BYTES, "\u20ac") == b"\xe2\x82\xac"
    with pytest.raises(InvalidError, match="a value must be at most 3 bytes, which is what Redis takes, not 4"):
        encoded(redis.BYTES, b"abcd")


@pytest.mark.parametrize("codec", [None, "ab", (str,), (str, bytes, str), [str, bytes], (str, None), (1, str)])
def test_a_codec_is_a_pair_of_functions(codec: object) -> None:
    with pytest.raises(InvalidTypeError, match=r"^codec must be a pair of functions \(encode, decode\), not "):
        check_codec(codec)
