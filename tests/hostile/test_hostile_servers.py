"""Hostile servers: what each brings the client, on the wire, in time and in memory.

``python -m tests.hostile`` prints the same as a table.
"""

from __future__ import annotations

import pytest

from tests.hostile import _bombs, _handshakes, _proxies, _redirects, _vanishing, _violations, _work
from tests.hostile._attack import Attack, Certificates, carry_out, check

ATTACKS = [
    *_proxies.ATTACKS,
    *_handshakes.ATTACKS,
    *_redirects.ATTACKS,
    *_violations.ATTACKS,
    *_vanishing.ATTACKS,
    *_bombs.ATTACKS,
    *_work.ATTACKS,
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.new(tmp_path_factory.mktemp("tls") / "keys")


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if not attack.tls_only], ids=lambda attack: attack.name
)
async def test_over_tcp(attack: Attack) -> None:
    check(attack, await carry_out(attack))


# Where TLS makes a difference.
@pytest.mark.parametrize(
    "attack",
    [attack for attack in ATTACKS if attack.tls_only or (attack in _vanishing.ATTACKS and not attack.tcp_only)],
    ids=lambda attack: attack.name,
)
async def test_over_tls(attack: Attack, certificates: Certificates) -> None:
    check(attack, await carry_out(attack, certificates))
