"""The README's claims that a program can check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

import csp
from csp import errors, testing, websocket

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_test_command_as_printed() -> None:
    test_command = next(block for block in code_blocks("sh") if "pytest" in block)
    assert test_command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", code_blocks("python"))
def test_every_python_block_compiles(block: str) -> None:
    compile(block, "README.md", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_option_table_lists_the_options() -> None:
    table = README[README.index("| option | meaning |") : README.index("Timeouts are milliseconds")]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(websocket.ConnectOptions.__annotations__)


def test_the_docstring_of_connect_lists_the_options() -> None:
    docstring = websocket.connect.__doc__ or ""
    assert re.findall(r"^ +- (\w+):", docstring, re.MULTILINE) == list(websocket.ConnectOptions.__annotations__)


def test_error_table_names_the_error_classes() -> None:
    table = README[README.index("| condition | class") : README.index("## Checkpoints")]
    named = set(re.findall(r"`(\w+Error)`", table)) - {
        "ValueError",
        "TypeError",
        "RuntimeError",
        "ConnectionError",
        "PermissionError",
        "TimeoutError",
    }
    assert named == {name for name in errors.__all__ if name.endswith("Error")} - {"Error"}


def test_feature_table_names_tests_that_exist() -> None:
    table = README[README.index("## Features compared") : README.index("## Deviations")]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert rows
    for row in rows:
        found = re.search(r"`([\w/]+\.py)::(test_\w+)` \|$", row)
        assert found is not None, row
        file = ROOT / "tests" / found[1]
        assert re.search(rf"def {found[2]}\(", file.read_text(encoding="utf-8")), row


def test_the_tests_readme_names_what_exists() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 20
    for path, test in named:
        file = ROOT / "tests" / path
        assert file.exists(), path
        assert not test or re.search(rf"def {test}\(", file.read_text(encoding="utf-8")), test


def test_every_public_name_exists() -> None:
    for module in (csp, errors, testing, websocket):
        for name in module.__all__:
            assert hasattr(module, name)


async def test_source_of_your_own_works_in_a_select_and_a_selector() -> None:
    (block,) = [block for block in code_blocks("python") if "class Latest" in block]
    names: dict[str, object] = {"csp": csp, "trio": trio}
    exec(block, names)
    source_class = names["Latest"]
    assert isinstance(source_class, type)
    latest = source_class()
    latest.put(b"old")
    latest.put(b"new")
    r = await csp.select(latest.case_receive(), csp.never().case_receive())
    assert (r.channel, r.value, r.ok) == (latest, b"new", True)
    with csp.Selector(latest.case_receive()) as selector:
        latest.put(b"again")
        assert (await selector.select()).value == b"again"
