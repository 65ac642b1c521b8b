"""What each peer could: a pytest plugin that notes how the tests end, and makes a table of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Matrix:
    """Runs the tests of some peers alone, and notes how they end.

    Args:
        names: the peers.
        left_out: why some of them could not be brought.
    """

    def __init__(self, names: Sequence[str], left_out: Mapping[str, str]) -> None:
        self._names = names
        self._left_out = left_out
        self._places: dict[str, tuple[str, str]] = {}
        """Row and peer by test."""
        self._cells: dict[str, dict[str, str]] = {}
        """Outcomes by row and peer."""
        self._reasons: list[str] = []
        self._versions: dict[str, object] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept: list[pytest.Item] = []
        for item in items:
            assert isinstance(item, pytest.Function)
            # A test's peer is its first parameter.
            peer, *others = item.callspec.params.values()
            if str(peer) in self._names:
                row = item.originalname.removeprefix("test_").replace("_", " ")
                self._places[item.nodeid] = (": ".join([row, *map(str, others)]), str(peer))
                kept.append(item)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row, peer = self._places[report.nodeid]
        cells = self._cells.setdefault(row, {})
        if report.failed:
            cells[peer] = "FAILED"
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            reason = self._left_out.get(peer) or report.longrepr[2].removeprefix("Skipped: ")
            if reason not in self._reasons:
                self._reasons.append(reason)
            cells[peer] = f"({self._reasons.index(reason) + 1})"
        elif report.when == "call":
            cells[peer] = "ok"
        self._versions.update((peer, value) for name, value in report.user_properties if name == "version")

    def lines(self) -> Iterator[str]:
        """Return the table: a row for what was asked, a column for each peer; below it why some were not asked."""
        for peer, version in self._versions.items():
            yield f"{peer}: {version}"
        yield ""
        width = max(map(len, self._cells), default=0)
        yield "  ".join([" " * width, *self._names])
        for row, cells in self._cells.items():
            yield "  ".join(
                [row.ljust(width), *(cells.get(name, "").ljust(len(name)) for name in self._names)]
            ).rstrip()
        yield ""
        for number, reason in enumerate(self._reasons, 1):
            yield f"({number}) skipped: {reason}"
