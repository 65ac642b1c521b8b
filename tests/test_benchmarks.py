"""The benchmarks' rooms: each lists its files from the bottom, and a file imports only what is listed earlier.

`core/whole/test_layers.py` asks the same of the product. Imports inside functions and those for type checkers count.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

benchmarks = pytest.importorskip("benchmarks", reason="the benchmarks are in the checkout only")

FOLDER = Path(benchmarks.__file__).parent


def listed(room: Path) -> list[str]:
    """Return what the docstring of a room lists, from the bottom."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert docstring is not None
    return re.findall(r"^- `(\w+)`: ", docstring, re.MULTILINE)


ROOMS = [FOLDER / name for name in listed(FOLDER) if (FOLDER / name / "__init__.py").exists()]
ORDER: list[tuple[str, ...]] = [
    ("benchmarks", name, *rest)
    for name in listed(FOLDER)
    for rest in ([(file,) for file in listed(FOLDER / name)] if FOLDER / name in ROOMS else [()])
]
"""The modules, from the bottom."""


def imported(module: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return the modules of the benchmarks that a module imports."""
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(FOLDER.parent.joinpath(*module).with_suffix(".py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            package = tuple(node.module.split("."))
            names.add(package)
            names.update((*package, alias.name) for alias in node.names)
    return names & set(ORDER)


def test_the_benchmarks_list_their_rooms_and_programs() -> None:
    present = {path.stem for path in FOLDER.glob("*.py")} | {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert sorted(listed(FOLDER)) == sorted(present - {"__init__"})


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_of_the_benchmarks_lists_its_files(room: Path) -> None:
    assert sorted(listed(room)) == sorted(path.stem for path in room.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", ORDER, ids=".".join)
def test_an_import_of_the_benchmarks_points_further_down(module: tuple[str, ...]) -> None:
    assert {other for other in imported(module) if ORDER.index(other) >= ORDER.index(module)} == set()


def test_the_arrows_of_the_benchmarks_are_seen() -> None:
    assert ("benchmarks", "topics", "channels") in imported(("benchmarks", "counts"))
    assert ("benchmarks", "meters", "measure") in imported(("benchmarks", "topics", "timers"))
    assert ("benchmarks", "meters", "measure") in imported(("benchmarks", "counts"))  # for type checkers only


def test_the_benchmarks_run_as_they_always_have() -> None:
    for program in ("benchmarks", "benchmarks.counts", "benchmarks.plots"):
        helped = subprocess.run(
            [sys.executable, "-m", program, "--help"], cwd=FOLDER.parent, capture_output=True, check=False
        )
        assert (program, helped.returncode, helped.stderr) == (program, 0, b"")
        assert helped.stdout.decode().startswith(f"usage: python -m {program} ")


def test_a_side_is_measured_in_a_process_of_its_own() -> None:
    from benchmarks.meters.measure import Result, run  # there may be no benchmarks
    from benchmarks.topics import channels

    def not_here(_count: int) -> float:
        raise AssertionError("measured in this process")  # pragma: no cover  # that is what is tested

    (row,) = (each for each in channels.WORKLOADS if each.name == "1 to 1, unbuffered")
    only = {"memory channel": not_here}
    (result,) = run([replace(row, csp=not_here, peers=only, count=200)], rounds=1, quick=False)
    assert isinstance(result, Result)
    assert len(result.csp) == len(result.peers["memory channel"]) == 1
    assert 0.1 < result.ratios("memory channel")[0] < 10


def test_a_side_that_fails_is_told() -> None:
    from benchmarks.meters.apart import SideError, measure_apart

    with pytest.raises(SideError, match=r"nobody of 'ping-pong' failed:\n[\s\S]*KeyError: 'nobody'"):
        measure_apart("ping-pong", "nobody", 1, 0, {})
