"""Hostile servers: what each brings the client, on the wire, in time and in memory.

``python -m tests.hostile`` prints the same as a table.
"""

from __future__ import annotations

import pytest

from tests.hostile import _bombs, _handshakes, _vanishing, _violations
from tests.hostile._attack import Attack, Certificates, carry_out, check

ATTACKS = [*_handshakes.ATTACKS, *_violations.ATTACKS, *_vanishing.ATTACKS, *_bombs.ATTACKS]


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates.new()


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_over_tcp(attack: Attack) -> None:
    check(attack, await carry_out(attack))


# Where TLS makes a difference.
@pytest.mark.parametrize(
    "attack", [attack for attack in _vanishing.ATTACKS if not attack.tcp_only], ids=lambda attack: attack.name
)
async def test_over_tls(attack: Attack, certificates: Certificates) -> None:
    check(attack, await carry_out(attack, certificates))
