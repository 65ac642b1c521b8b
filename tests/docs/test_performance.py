"""What is said about performance is what was measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("benchmarks", reason="the benchmarks are in the checkout only")

from benchmarks import plots
from benchmarks.design import BOUNDS, format_design
from benchmarks.meters.figures import Figures, NotFiguresError, read_figures
from benchmarks.meters.report import format_busy, format_results
from tests.docs._pages import PAGES, ROOT
from tests.docs._statements import SIZES, Statements, unmarked

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
RECORD = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
without_servers = read_figures(ROOT / "benchmarks" / "figures.json")
of_servers = read_figures(ROOT / "benchmarks" / "served.json")
across = read_figures(ROOT / "benchmarks" / "across.json")
RUNS = {"without servers": without_servers, "of servers": of_servers, "across machines": across}
figures = Figures(
    {**across.environment, **of_servers.environment, **without_servers.environment},
    [result for run in RUNS.values() for result in run.results],
)


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_a_page_says_of_the_figures_is_what_they_say(path: Path) -> None:
    assert Statements(figures).wrong(path.read_text(encoding="utf-8")) == []


def test_every_comparison_of_the_page_is_held() -> None:
    _, _, measured = PAGE.partition("## One of many channels\n")
    assert list(unmarked(measured)) == []


@pytest.mark.parametrize("figures", RUNS.values(), ids=RUNS)
def test_the_record_has_the_tables_of_the_figures(figures: Figures) -> None:
    assert format_design(figures.results) in RECORD
    assert format_results(figures.results) in RECORD
    assert format_busy(figures.results) in RECORD
    assert "\n".join(f"- {name}: {version}" for name, version in figures.environment.items()) in RECORD
    assert f"- rounds: {len(figures.results[0].csp)}\n" in RECORD


def test_the_record_explains_each_bound_that_is_not_met_and_no_other() -> None:
    _, _, rest = RECORD.partition("### What is not met, and why\n")
    section, _, _ = rest.partition("\n### ")
    statements = Statements(figures)
    assert statements.wrong(section) == []
    assert len(statements.not_met) == statements.bounds(met=False)
    assert [item for item in section.split("\n- ")[1:] if " is: missed(" not in item] == []


@pytest.mark.parametrize("other", [of_servers, across], ids=["of servers", "across machines"])
def test_other_runs_were_measured_with_the_same_versions(other: Figures) -> None:
    # A machine's system is brought up to date, and each was measured at another commit.
    changing = {"system", "trio-csp"}
    common = without_servers.environment.keys() & other.environment.keys() - changing
    assert {"machine", "python", "trio", "trio-websocket", "websockets", "picows"} < common
    assert [name for name in common if without_servers.environment[name] != other.environment[name]] == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "plots").glob("*.svg")), ids=lambda path: path.name)
def test_a_plot_tells_its_machine_its_versions_and_which_way_is_better(path: Path) -> None:
    plot = path.read_text(encoding="utf-8")
    environment = figures.environment
    assert f"{environment['machine']}, {environment['python']}, csp " in plot
    versions = ("trio-websocket", "websockets", "aiohttp", *(["hypercorn"] if "served" in path.name else []))
    for name in ("trio", "anyio", "Go") if "fan_in" in path.name else versions:
        assert re.search(rf"\b{name} {environment[name]}\b", plot), name
    assert re.search(r"(lower|higher|less) is better", plot)


def test_the_plots_of_ratios_have_those_of_the_figures() -> None:
    results = {result.workload.name: result for result in figures.results}
    statements = Statements(figures)
    clients = [f"WebSocket {way}, {size}" for way in ("receive", "send") for size in SIZES]
    for name, rows in {"websocket_relative": clients, "websocket_served": list(plots.SERVER_PANELS)}.items():
        drawn = [(row, peer) for row in rows for peer in plots.ratios([results[row]], row)]
        assert {peer for _, peer in drawn} > {"trio-websocket", "websockets (asyncio)", "aiohttp", "picows"}
        asked = [f"{1 / statements.ratio(row, peer):#.2g}".rstrip(".") for row, peer in drawn]
        for suffix in ("", "_dark"):
            plot = (ROOT / "benchmarks" / "plots" / f"{name}{suffix}.svg").read_text(encoding="utf-8")
            shown = re.findall(r">([\d.]+)</text>", plot)
            assert [number for number in shown if number in asked] == asked


def test_statements_can_be_wrong() -> None:
    row = '"WebSocket receive, 32 B"'
    for text in (
        f"9.7 times\n<!-- 9.7 is: times({row}, 'trio-websocket') -->",
        f"9.7 times\n<!-- 9.8 is: times({row}, 'trio-websocket') -->",
        f"9.8 times\n<!-- is: times({row}, 'trio-websocket') -->",
        f"9.8 times\n\n<!-- 9.8 is: times({row}, 'trio-websocket') -->",
        f"<!-- holds: cheaper('picows', {row}) -->",
        f"<!-- holds: dearer('trio-websocket', {row}) -->",
        f"<!-- holds: unclear('picows', {row}) -->",
        "<!-- holds: cheaper('picows') -->",
        "<!-- not measured: -->",
        "AMD EPYC, 2 cores, trio 0.1.0 <!-- holds: environment() -->",
        "<!-- costs: WebSocket -->\n\n| | csp, µs | picows |\n|---|---|---|\n| receive, 32 B | 1.77 | 0.3 |\n",
    ):
        assert len(Statements(figures).wrong(text)) == 1, text
    assert Statements(figures).wrong(f"9.8 times\n<!-- 9.8 is: times({row}, 'trio-websocket') -->") == []
    text = "One is faster.\n\nOther. <!-- holds: True -->\n\n- costs 3\n- a\n\n1.5 and 2.5 <!-- 1.5 is: 3 / 2 -->"
    assert list(unmarked(text)) == ["One is faster.", "- costs 3", "2.5"]
    with pytest.raises(AssertionError, match="is met"):
        Statements(figures).wrong(f"<!-- holds: missed({BOUNDS[2].work!r}, {BOUNDS[2].peer!r}) -->")


def test_other_files_are_not_figures() -> None:
    path = ROOT / "benchmarks" / "counts.json"
    with pytest.raises(NotFiguresError, match=re.escape(str(path))):
        read_figures(path)
