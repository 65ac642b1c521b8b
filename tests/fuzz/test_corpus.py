"""What the fuzzer that is guided by coverage has found, once more: ``python -m tests.fuzz`` adds to it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz._targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def files(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(files(target) for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_once_is_still_read_as_it_should(target: str) -> None:
    for path in files(target):
        TARGETS[target](path.read_bytes())


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is installed")
def test_without_atheris_the_command_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--target", "url", "--seconds", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (ended.returncode, ended.stderr) == (
        1,
        "this needs the package atheris, which is not installed: pip install atheris\n",
    )
