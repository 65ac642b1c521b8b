"""CONTRIBUTING.md: the files it sends a contributor to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "csp").exists(), reason="not the whole project is here")


def named_paths() -> list[str]:
    """Return what stands in backticks, alone or in a command, and looks like a file or folder."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    words = [word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()]
    return [word for word in words if re.fullmatch(r"[\w./-]+(\.py|\.md|\.toml|/)|[\w.]+(/\w+)+", word)]


def test_the_files_it_names_exist() -> None:
    paths = [path for path in named_paths() if "NAME" not in path and not path.startswith((".venv/", "build/"))]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_a_new_file_goes_where_there_is_a_folder_for_it() -> None:
    paths = [path for path in named_paths() if "NAME" in path]
    assert len(paths) > 5
    # The folder above the first part that has the name.
    folders = {path[: path.index("NAME")].rpartition("/")[0] for path in paths}
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_it_names_the_rooms() -> None:
    rooms = {path.parent for path in (ROOT / "csp").glob("*/__init__.py")}
    named = {(ROOT / path).parent for path in named_paths() if path.endswith("__init__.py")}
    assert rooms <= named
