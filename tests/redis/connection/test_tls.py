"""TLS, to a relay in front of a server, and to the TLS that redis-server has itself."""

from __future__ import annotations

import datetime as dt
import random
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trustme

from csp import redis, testing
from csp.errors import ConnectionFailedError, Kind
from tests.redis._binaries import binaries
from tests.redis._fake import relay, saying, state_named

if TYPE_CHECKING:
    from pathlib import Path

    from tests.redis.conftest import SharedServer

CA = trustme.CA()
NO_REDIS = pytest.mark.skipif("redis" not in binaries(), reason="there is no redis-server: it is the one with TLS")


def of_server(certificate: trustme.LeafCert, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL
    if asks:
        CA.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def of_client(certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL
    if certificate is not None:
        certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL
    return context


SERVER = of_server(CA.issue_cert("127.0.0.1", "localhost"))


async def use(bus: redis.Bus[bytes]) -> None:
    """Send a value, and do it."""
    jobs = bus.queue("jobs")
    await jobs.send(b"x" * 100_000)
    async with jobs.work() as deliveries:
        with await deliveries.receive_value() as delivery:
            assert delivery.data == b"x" * 100_000
    assert await jobs.depth() == 0


async def refusal(url: str, context: ssl.SSLContext | None) -> str:
    """Return the text of why a server is not reached, which is to be tried again."""
    async with redis.Bus(url, ssl_context=context, min_delay="1ms") as bus:
        error = (await state_named(bus, "waiting", "closed", "open")).error
    assert isinstance(error, ConnectionFailedError)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error).startswith(f"connecting to {url} failed: ")
    return str(error)


async def test_a_bus_over_tls(shared_server: SharedServer) -> None:
    async with relay(shared_server.port, SERVER) as place:
        async with redis.Bus(place.url, ssl_context=of_client()) as bus:
            await use(bus)
            assert bus.url == place.url
            assert place.open == 1
        with trio.fail_after(10):
            while place.open:
                await trio.lowlevel.checkpoint()


async def test_a_name_in_the_url_is_that_of_the_certificate(shared_server: SharedServer) -> None:
    async with (
        relay(shared_server.port, SERVER) as place,
        redis.Bus(place.url.replace("127.0.0.1", "localhost"), ssl_context=of_client()) as bus,
    ):
        await use(bus)


async def test_a_relay_that_goes_away_is_a_connection_that_is_lost(shared_server: SharedServer) -> None:
    async with (
        relay(shared_server.port, SERVER) as place,
        redis.Bus(place.url, ssl_context=of_client(), min_delay="1ms") as bus,
    ):
        await state_named(bus, "open")
        await place.cut()
        await state_named(bus, "waiting")
        await use(bus)


async def test_a_certificate_of_another_name(shared_server: SharedServer) -> None:
    async with relay(shared_server.port, of_server(CA.issue_cert("other.test"))) as place:
        assert "certificate verify failed" in await refusal(place.url, of_client())


async def test_a_certificate_that_has_expired(shared_server: SharedServer) -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = CA.issue_cert("127.0.0.1", not_before=past, not_after=past + dt.timedelta(days=1))
    async with relay(shared_server.port, of_server(certificate)) as place:
        assert "certificate has expired" in await refusal(place.url, of_client())


async def test_a_certificate_of_an_authority_that_the_system_does_not_know(shared_server: SharedServer) -> None:
    async with relay(shared_server.port, SERVER) as place:
        assert "certificate verify failed" in await refusal(place.url, None)


async def test_a_client_without_tls_at_a_port_with_tls(shared_server: SharedServer) -> None:
    async with relay(shared_server.port, SERVER) as place:
        text = await refusal(place.url.replace("rediss", "redis"), None)
    assert text.endswith(("what answers there is no Redis server", "the server closed it"))


async def test_a_client_with_tls_at_a_port_without_tls(shared_server: SharedServer) -> None:
    # The server waits for the end of a line, and says nothing.
    url = shared_server.url.replace("redis:", "rediss:")
    async with redis.Bus(url, ssl_context=of_client(), dial_timeout="50ms") as bus:
        assert "no answer within dial_timeout" in str((await state_named(bus, "waiting")).error)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", random.Random(3).randbytes(500)])
async def test_what_speaks_no_tls_at_all(said: bytes) -> None:
    async with saying(said) as place:
        assert await refusal(place.url.replace("redis:", "rediss:"), of_client())


async def test_a_server_that_begins_no_tls_is_given_up_after_dial_timeout() -> None:
    async with saying(close=False) as place:
        url = place.url.replace("redis:", "rediss:")
        async with redis.Bus(url, ssl_context=of_client(), dial_timeout="50ms") as bus:
            error = (await state_named(bus, "waiting")).error
    assert "no answer within dial_timeout" in str(error)


async def test_a_client_with_a_certificate_where_one_is_asked_for(shared_server: SharedServer) -> None:
    context = of_server(CA.issue_cert("127.0.0.1"), asks=True)
    async with relay(shared_server.port, context) as place:
        async with redis.Bus(place.url, ssl_context=of_client(CA.issue_cert("client.test"))) as bus:
            await use(bus)
        assert await refusal(place.url, of_client())


@NO_REDIS
@pytest.mark.parametrize("asks", [False, True])
async def test_the_tls_of_redis_server(tmp_path: Path, asks: bool) -> None:
    certificate = CA.issue_cert("127.0.0.1")
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    port = random.randrange(32_000, 32_700)
    arguments = [
        *("--tls-port", str(port), "--tls-auth-clients", "yes" if asks else "no"),
        *("--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-cert-file", str(tmp_path / "server.pem")),
        *("--tls-key-file", str(tmp_path / "server.pem")),
    ]
    async with testing.redis_server(binary=binaries()["redis"], arguments=arguments):
        url = f"rediss://127.0.0.1:{port}/0"
        async with redis.Bus(url, ssl_context=of_client(CA.issue_cert("client.test") if asks else None)) as bus:
            await use(bus)
        if asks:
            assert await refusal(url, of_client())
        assert await refusal(url.replace("rediss", "redis"), None)
