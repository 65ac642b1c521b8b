"""The TLS context of connections without one of their own: when it is kept, when it is made anew, what it offers."""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trustme

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.websocket._peers import CLOSE, Peer, close_frame, raw_server
from trio_csp_websocket.network import verifying
from trio_csp_websocket.network.verifying import verifying_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Leave no context of these tests to others."""
    yield
    verifying._context.cache_clear()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that holds the system's authorities: none yet, as there is no file."""
    file, folder = tmp_path / "authorities.pem", tmp_path / "authorities"
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    return file


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


def put(authority: trustme.CA, bundle: Path) -> None:
    """Replace the bundle, as systems do: the new file takes the name of the old one."""
    new = bundle.with_suffix(".new")
    authority.cert_pem.write_to_path(str(new))
    new.replace(bundle)


def touched(path: Path) -> None:
    """Change the time of a change, which may otherwise be that of the one before. Not all systems count nanoseconds."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


# The context ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bundle")
def test_it_verifies_as_the_default_of_python_does() -> None:
    context, default = verifying_context(), ssl.create_default_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (context.options, context.verify_flags, context.minimum_version) == (
        default.options,
        default.verify_flags,
        default.minimum_version,
    )


def test_it_is_kept_while_nothing_changes(bundle: Path, authorities: tuple[trustme.CA, trustme.CA]) -> None:
    assert verifying_context() is verifying_context()
    put(authorities[0], bundle)
    assert verifying_context() is verifying_context()


def test_it_is_made_anew_when_the_file_comes_is_replaced_is_changed_and_goes(
    bundle: Path, authorities: tuple[trustme.CA, trustme.CA]
) -> None:
    contexts = [verifying_context()]
    put(authorities[0], bundle)
    contexts.append(verifying_context())
    put(authorities[1], bundle)
    contexts.append(verifying_context())
    touched(bundle)
    contexts.append(verifying_context())
    bundle.unlink()
    contexts.append(verifying_context())
    assert len(set(contexts)) == 5
    assert [len(context.get_ca_certs()) for context in contexts] == [0, 1, 1, 1, 0]


def test_it_is_made_anew_when_a_folder_changes(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join(map(str, folders)))
    for folder in folders:
        before = verifying_context()
        touched(folder)
        assert verifying_context() is not before


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_it_is_made_anew_when_the_environment_names_others(
    variable: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = verifying_context()
    monkeypatch.setenv(variable, str(bundle.with_name("others")))
    named = verifying_context()
    monkeypatch.delenv(variable)
    assert len({before, named, verifying_context()}) == 3


def test_only_one_is_kept(bundle: Path, authorities: tuple[trustme.CA, trustme.CA]) -> None:
    for authority in authorities * 2:
        put(authority, bundle)
        verifying_context()
    assert verifying._context.cache_info().currsize == 1


# Connections ----------------------------------------------------------------------------------------------------------


def serving(authority: trustme.CA, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    context.set_alpn_protocols(protocols)
    return context


async def serve_until_close(peer: Peer) -> None:
    await peer.accept()
    await peer.expect(CLOSE)
    await peer.send(close_frame(1000))


async def connects(url: str) -> bool:
    try:
        async with websocket.connect(url):
            return True
    except ConnectionFailedError as error:
        return "not trusted" not in str(error)


async def test_a_connection_trusts_the_authorities_of_the_moment(
    bundle: Path, authorities: tuple[trustme.CA, trustme.CA]
) -> None:
    async def serve(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # of a client that does not trust it
            await serve_until_close(peer)

    async with raw_server(serve, tls=serving(authorities[0])) as url:
        outcomes = [await connects(url)]
        for authority in (authorities[0], authorities[1], authorities[0]):
            put(authority, bundle)
            outcomes.append(await connects(url))
    assert outcomes == [False, True, False, True]


@pytest.mark.parametrize("own", [False, True], ids=["default", "the user's"])
async def test_http_1_1_is_offered_unless_the_user_gives_the_context(
    own: bool, bundle: Path, authorities: tuple[trustme.CA, trustme.CA]
) -> None:
    put(authorities[0], bundle)
    chosen: list[str | None] = []

    async def serve(peer: Peer) -> None:
        await serve_until_close(peer)
        chosen.append(cast("trio.SSLStream[trio.SocketStream]", peer.stream).selected_alpn_protocol())

    context = ssl.create_default_context() if own else None
    async with (
        raw_server(serve, tls=serving(authorities[0], "h2", "http/1.1")) as url,
        websocket.connect(url, ssl_context=context),
    ):
        pass
    assert chosen == [None if own else "http/1.1"]
