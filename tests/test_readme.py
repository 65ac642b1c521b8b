"""The README's claims that a program can check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import csp
from csp import errors, redis, testing, websocket

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for room in ("benchmarks", "docs", "tests") for path in (ROOT / room).rglob("*.md"))]
)

REPOSITORY = re.compile(
    r"https://(?:github\.com/trio-csp/trio-csp/(?:blob|tree)|raw\.githubusercontent\.com/trio-csp/trio-csp)/main/(.+)"
)
"""A link to a file or folder of the project."""


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def links(text: str) -> list[str]:
    """Return where the links and images of a document lead."""
    without_code = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]*)\)", without_code)


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a document: of each its rows, of each row its cells."""
    without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks = re.findall(r"(?:^\|.*\n)+", without_code, re.MULTILINE)
    # What stands behind the last bar is no cell.
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_ci_runs_the_test_command_as_printed() -> None:
    test_command = next(block for block in code_blocks("sh") if "pytest" in block)
    assert test_command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the site is in the checkout only")
def test_the_commands_for_windows_are_those_of_the_readme() -> None:
    page = (ROOT / "docs" / "reference" / "platforms.md").read_text(encoding="utf-8")
    blocks = [
        block for block in re.findall(r"^```powershell\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "venv" in block
    ]
    here = [re.sub(r"^(py|\.venv\\Scripts\\python) ", "", line) for block in blocks for line in block.splitlines()]
    there = [
        re.sub(r"^(python3|\.venv/bin/python) ", "", command)
        for block in code_blocks("sh")
        if "venv" in block
        for command in block.strip().split(" && ")
    ]
    assert len(there) > 4
    assert [line.replace("\\", "/") for line in here] == there


def test_no_link_of_the_readme_is_relative() -> None:
    assert len(links(README)) > 20
    assert [link for link in links(README) if not link.startswith(("https://", "#"))] == []


@pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="not the whole project is here")
def test_what_the_readme_links_to_in_the_project_exists() -> None:
    paths = [found[1] for link in links(README) if (found := REPOSITORY.fullmatch(link))]
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_on_a_package_index_is_whole() -> None:
    markdown = pytest.importorskip("readme_renderer.markdown", reason="readme_renderer is not installed")
    page = markdown.render(README)
    assert page is not None
    places = {f"#{place}" for place in re.findall(r'id="([^"]*)"', page)}
    targets = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert len(targets) >= len(links(README))
    assert [target for target in targets if not target.startswith("https://") and target not in places] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_row_of_a_table_has_as_many_cells_as_its_header(path: Path) -> None:
    for header, separator, *rows in tables(path.read_text(encoding="utf-8")):
        assert [cell for cell in separator if not re.fullmatch(r" *:?-+:? *", cell)] == [], header
        assert len(separator) == len(header), header
        assert [row for row in rows if len(row) != len(header)] == []


def test_tables_are_read() -> None:
    assert tables("x\n| a | b |\n|---|---|\n| `c\\|d` | e |\n\n| f |\n") == [
        [[" a ", " b "], ["---", "---"], [" `c\\|d` ", " e "]],
        [[" f "]],
    ]


def test_the_docstring_of_connect_lists_the_options() -> None:
    docstring = websocket.connect.__doc__ or ""
    assert re.findall(r"^ +- (\w+):", docstring, re.MULTILINE) == list(websocket.ConnectOptions.__annotations__)


def test_the_tests_readme_names_what_exists() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 20
    for path, test in named:
        file = ROOT / "tests" / path
        assert file.exists(), path
        assert not test or re.search(rf"def {test}\(", file.read_text(encoding="utf-8")), test


def test_every_public_name_exists() -> None:
    for module in (csp, errors, redis, testing, websocket):
        for name in module.__all__:
            assert hasattr(module, name)
