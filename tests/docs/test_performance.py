"""What is said about performance is what was measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("benchmarks", reason="the benchmarks are in the checkout only")

from benchmarks.design import BOUNDS, format_design
from benchmarks.meters.figures import NotFiguresError, read_figures
from benchmarks.meters.report import format_busy, format_results
from tests.docs._pages import PAGES, ROOT
from tests.docs._statements import SIZES, Statements, unmarked

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
RECORD = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
figures = read_figures(ROOT / "benchmarks" / "figures.json")


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_a_page_says_of_the_figures_is_what_they_say(path: Path) -> None:
    assert Statements(figures).wrong(path.read_text(encoding="utf-8")) == []


def test_every_comparison_of_the_page_is_held() -> None:
    _, _, measured = PAGE.partition("## One of many channels\n")
    text = "One is faster.\n\nOther. <!-- holds: True -->\n\n- costs 3\n- a\n\n1.5 and 2.5 <!-- 1.5 is: 3 / 2 -->"
    assert list(unmarked(text)) == ["One is faster.", "- costs 3", "2.5"]
    with pytest.raises(AssertionError, match="is met"):
        Statements(figures).wrong(f"<!-- holds: missed({BOUNDS[2].work!r}, {BOUNDS[2].peer!r}) -->")


def test_other_files_are_not_figures() -> None:
    path = ROOT / "benchmarks" / "counts.json"
    with pytest.raises(NotFiguresError, match=re.escape(str(path))):
        read_figures(path)
