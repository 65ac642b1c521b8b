"""Hostile clients: what each brings the server, in its log, in time and in memory, while another client is served.

``python -m tests.hostile`` prints the same as a table.
"""

from __future__ import annotations

import pytest

from tests.hostile import _crowds, _frames, _requests
from tests.hostile._attack import Certificates
from tests.hostile._field import ClientAttack, carry_out, check

ATTACKS = [*_requests.ATTACKS, *_frames.ATTACKS, *_crowds.ATTACKS]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.new(tmp_path_factory.mktemp("tls") / "keys")


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if not attack.tls_only], ids=lambda attack: attack.name
)
async def test_over_tcp(attack: ClientAttack) -> None:
    check(attack, await carry_out(attack))


# Where TLS makes a difference: violations of the protocol are the same beneath it.
@pytest.mark.parametrize(
    "attack",
    [
        attack
        for attack in ATTACKS
        if not attack.tcp_only and (attack not in _frames.ATTACKS or attack in _frames.OVER_TLS)
    ],
    ids=lambda attack: attack.name,
)
async def test_over_tls(attack: ClientAttack, certificates: Certificates) -> None:
    check(attack, await carry_out(attack, certificates))
