"""Plots of what a run measured: ``python -m benchmarks.plots figures.json DIRECTORY``.

- ``fan_in``: what a value costs against the number of channels it is received from, one of them busy
- ``websocket``: messages a second of CPU time against their size
- ``websocket_relative``: what a message costs other clients, in multiples of what it costs csp
- ``websocket_served``: what other servers cost, in multiples of what csp's costs

Each is drawn for a light page and, as ``NAME_dark``, for a dark one. What was not measured is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.meters.figures import Figures, NotFiguresError, read_figures
from benchmarks.meters.measure import Spread, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.meters.measure import Result

Points: TypeAlias = dict[str, list[tuple[float, float]]]
"""Points by the name of their line."""

Ratios: TypeAlias = dict[str, list[float]]
"""What a peer's cost is in multiples of csp's, round by round, by the peer's name."""

_WAYS = ("receive", "send")
_SIZES_IN_BYTES = {"32 B": 32, "1 KiB": 1024, "16 KiB": 16 * 1024, "1 MiB": 1024 * 1024}
_FAN_IN_PEERS = {"clones": "Trio clones", "anyio clones": "anyio clones"}
_FAN_IN_VERSIONS = ("trio", "anyio", "aiochan", "Go")
_WEBSOCKET_VERSIONS = ("trio-websocket", "websockets", "uvloop", "aiohttp", "picows")
_VERSIONS = {"fan_in": _FAN_IN_VERSIONS, "websocket_served": (*_WEBSOCKET_VERSIONS, "hypercorn")}
SERVER_PANELS = {
    "WebSocket server, echo 32 B, 32 in flight": "Echo 32 B, by 32",
    "WebSocket server, echo 32 B, 1 in flight": "Echo 32 B, by 1",
    "WebSocket server, echo 16 KiB, 8 in flight": "Echo 16 KiB, by 8",
    "WebSocket server, echo 16 KiB, 1 in flight": "Echo 16 KiB, by 1",
    "WebSocket server, accept and close": "Accept and close",
    "memory, an idle connection of a WebSocket server": "Idle connection",
    "WebSocket server, one message to 500 connections": "One to 500",
    "WebSocket server, one message to 500 connections, one in ten not reading": "With 50 stalled",
}
_LABEL_GAP_POINTS = 12.5
_COLUMNS = 4
_WHICH_WAY = (
    "right of csp costs more, left of it less; less is better.\n"
    "Thin lines: the lowest to the highest round. Grey: the rounds disagree about which costs less."
)
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trio-csp",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "grid.linewidth": 0.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Look:
    """How a line is drawn; csp's are the thick ones."""

    color: str
    marker: str
    width: float = 1.4
    style: str = "-"


@dataclass(frozen=True)
class Theme:
    """The colours of a page.

    Those of the lines are told apart with any kind of colour blindness: Okabe and Ito's, darkened or brightened to be
    read as text.
    """

    suffix: str
    background: str
    text: str
    faint: str
    grid: str
    blue: str
    sky: str
    orange: str
    red: str
    green: str
    pink: str
    grey: str

    def settings(self) -> dict[str, object]:
        """Return what Matplotlib is told."""
        names = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
        frames = ("axes.edgecolor", "xtick.color", "ytick.color")
        grounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
        return {
            **_SETTINGS,
            **dict.fromkeys(frames, self.faint),
            **dict.fromkeys(names, self.text),
            **dict.fromkeys(grounds, self.background),
            "grid.color": self.grid,
        }

    def looks(self) -> dict[str, Look]:
        """Return how each line is drawn."""
        thick = 3.2
        return {
            "csp.Selector": Look(self.blue, "o", thick),
            "csp.select": Look(self.blue, "o", thick, "--"),
            "Trio clones": Look(self.text, "s"),
            "anyio clones": Look(self.pink, "v"),
            "aiochan select": Look(self.orange, "D"),
            "asyncio.wait": Look(self.green, "^"),
            "Go reflect.Select": Look(self.red, "P"),
            "csp": Look(self.blue, "o", thick),
            "trio-websocket": Look(self.text, "s"),
            "websockets (trio)": Look(self.pink, "v"),
            "websockets (asyncio)": Look(self.orange, "D"),
            "websockets (uvloop)": Look(self.red, "P"),
            "aiohttp": Look(self.green, "^"),
            "picows": Look(self.grey, "X"),
            "hypercorn": Look(self.sky, "*"),
        }


_LIGHT = Theme(
    suffix="",
    background="white",
    text="#1a1a1a",
    faint="#666666",
    grid="#e4e4e4",
    blue="#0072B2",
    sky="#3E9BD1",
    orange="#B07500",
    red="#D55E00",
    green="#00825F",
    pink="#B9628F",
    grey="#767676",
)
_DARK = Theme(
    suffix="_dark",
    background="none",
    text="#e6e6e6",
    faint="#a0a0a0",
    grid="#3a3d41",
    blue="#4FB3F0",
    sky="#56B4E9",
    orange="#E8AC2F",
    red="#FF8A4C",
    green="#2FC79A",
    pink="#E796C4",
    grey="#A6A6A6",
)
_ORDER = list(_LIGHT.looks())


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description="Plots of what a run measured.")
    parser.add_argument("figures", type=Path, help="what python -m benchmarks --json wrote")
    parser.add_argument("directory", type=Path, help="where the plots go; made if it is missing")
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("drawing takes matplotlib, which is not installed")
    try:
        drawn = draw(read_figures(options.figures), options.directory)
    except (OSError, NotFiguresError) as error:
        sys.exit(str(error))
    print("\n".join(str(path) for path in drawn))


# What is drawn --------------------------------------------------------------------------------------------------------


def fan_in_points(results: Sequence[Result]) -> Points:
    """Return the cost of a value by number of channels, for each way to receive it."""
    points: Points = {}
    for result in results:
        found = re.fullmatch(r"(Selector|select), 1 busy of (\d+)", result.workload.name)
        if found is None:
            continue
        for side, cost in _costs(result).items():
            line = f"csp.{found[1]}" if side == "csp" else _FAN_IN_PEERS.get(side, side)
            # Both rows have the clones; those of Selector's are enough.
            if line in _ORDER and not (found[1] == "select" and side == "clones"):
                points.setdefault(line, []).append((int(found[2]), cost))
    return _in_order(points)


def websocket_points(results: Sequence[Result], way: str) -> Points:
    """Return the messages a second of CPU time by their size in bytes, for each library."""
    points: Points = {}
    for text, size in _SIZES_IN_BYTES.items():
        for result in results:
            if result.workload.name == f"WebSocket {way}, {text}":
                for side, cost in _costs(result).items():
                    points.setdefault(side, []).append((size, 1e6 / cost))
    return _in_order(points)


def ratios(results: Sequence[Result], row: str) -> Ratios:
    """Return what an operation costs each peer."""
    for result in results:
        if result.workload.name == row:
            return {name: [1 / ratio for ratio in result.ratios(name)] for name in _ORDER if name in result.peers}
    return {}


def _costs(result: Result) -> Mapping[str, float]:
    """Return the medians by side, csp or a peer."""
    return {name: statistics.median(costs) for name, costs in {"csp": result.csp, **result.peers}.items()}


def _in_order(points: Points) -> Points:
    return {line: sorted(points[line]) for line in _ORDER if line in points}


def _describe(environment: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the machine and the versions, in two lines."""
    csp = environment["trio-csp"].replace(", from the checkout at ", ", commit ")
    versions = [f"{name} {environment[name]}" for name in names if name in environment]
    return f"{environment['machine']}, {environment['python']}, csp {csp}\n{', '.join(versions)}"


# How it is drawn ------------------------------------------------------------------------------------------------------


def draw(figures: Figures, directory: Path) -> list[Path]:
    """Draw the plots there are figures for, and return the files written."""
    fan_in = fan_in_points(figures.results)
    rates = {way: websocket_points(figures.results, way) for way in _WAYS}
    clients = {
        f"{way.capitalize()} {size}": ratios(figures.results, f"WebSocket {way}, {size}")
        for way in _WAYS
        for size in _SIZES_IN_BYTES
    }
    servers = {title: ratios(figures.results, row) for row, title in SERVER_PANELS.items()}
    plots: dict[str, Callable[[Any, Theme, str], Any]] = {}
    if fan_in:
        plots["fan_in"] = lambda pyplot, theme, footer: _draw_fan_in(pyplot, theme, footer, fan_in)
    if any(rates.values()):
        plots["websocket"] = lambda pyplot, theme, footer: _draw_rates(pyplot, theme, footer, rates)
        title = "What a message costs other WebSocket clients"
        explanation = f"CPU time in multiples of csp's: {_WHICH_WAY}"
        plots["websocket_relative"] = partial(_draw_ratios, title, explanation, clients)
    if any(servers.values()):
        title = "What other WebSocket servers cost"
        explanation = f"CPU time of the server, or its memory, in multiples of csp's: {_WHICH_WAY}"
        plots["websocket_served"] = partial(_draw_ratios, title, explanation, servers)
    if not plots:
        raise NotFiguresError("nothing to draw: neither '1 busy of' rows nor WebSocket rows were measured")
    pyplot = load("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    for theme in (_LIGHT, _DARK):
        pyplot.rcParams.update(theme.settings())
        for name, plot in plots.items():
            versions = _VERSIONS.get(name, _WEBSOCKET_VERSIONS)
            figure = plot(pyplot, theme, _describe(figures.environment, versions))
            drawn.append(directory / f"{name}{theme.suffix}.svg")
            # The same figures give the same bytes.
            figure.savefig(drawn[-1], metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
    return drawn


def _entitle(figure: Any, theme: Theme, title: str, explanation: str, footer: str) -> None:
    """Write what is shown and which way is better above a plot, and what it was measured on below."""
    lines = explanation.count("\n") + 1
    # The layout makes room for these alone.
    figure.suptitle("\n" * (lines + 1), x=0.01, ha="left", size=12)
    figure.supxlabel(footer, x=0.01, ha="left", size=8.5, color=theme.faint, linespacing=1.4)
    points = 1 / 72 / figure.get_figheight()
    figure.text(0.01, 1 - 8 * points, title, ha="left", va="top", weight="bold", size=12)
    figure.text(0.01, 1 - 28 * points, explanation, ha="left", va="top", color=theme.faint, linespacing=1.4)


def _draw_fan_in(pyplot: Any, theme: Theme, footer: str, points: Points) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 5.2), layout="constrained")
    explanation = "CPU time a value, in microseconds: lower is better"
    _entitle(figure, theme, "Receiving from one of many channels", explanation, footer)
    _draw_lines(axes, theme, points)
    sizes = sorted({size for line in points.values() for size, _ in line})
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.set_xlabel("channels, one of them busy")
    _label_ends(figure, axes, theme, points)
    return figure


def _draw_rates(pyplot: Any, theme: Theme, footer: str, points: dict[str, Points]) -> Any:
    figure, both = pyplot.subplots(1, 2, figsize=(9.4, 5.6), sharey=True, layout="constrained")
    explanation = "Messages a second of CPU time, by their size: higher is better"
    _entitle(figure, theme, "WebSocket clients", explanation, footer)
    for axes, (way, lines) in zip(both, points.items(), strict=True):
        _draw_lines(axes, theme, lines)
        axes.set_xticks(list(_SIZES_IN_BYTES.values()), list(_SIZES_IN_BYTES))
        axes.set_title(way.capitalize())
    for axes, lines in zip(both, points.values(), strict=True):
        _label_ends(figure, axes, theme, lines)
    return figure


def _draw_lines(axes: Any, theme: Theme, points: Points) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_plain)
    axes.minorticks_off()
    looks = theme.looks()
    # csp's lines come first, and lie on top.
    for depth, (name, line) in enumerate(reversed(points.items()), start=2):
        look = looks[name]
        x, y = zip(*line, strict=True)
        axes.plot(x, y, look.style, color=look.color, marker=look.marker, linewidth=look.width, zorder=depth)


def _plain(value: float, _position: object) -> str:
    """Return the number at a tick without an exponent."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _label_ends(figure: Any, axes: Any, theme: Theme, points: Points) -> None:
    """Write each line's name at its right end, moved up or down as far as it takes to keep the names apart."""
    figure.canvas.draw()
    points_a_pixel = 72 / figure.dpi
    ends = sorted((axes.transData.transform(line[-1])[1] * points_a_pixel, name) for name, line in points.items())
    for (height, name), label_height in zip(ends, _apart([height for height, _ in ends]), strict=True):
        color = theme.looks()[name].color
        axes.annotate(
            name,
            points[name][-1],
            xytext=(22, label_height - height),
            textcoords="offset points",
            va="center",
            size=9.5,
            color=color,
            fontweight="bold" if name.startswith("csp") else "normal",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _apart(heights: Sequence[float]) -> list[float]:
    """Return heights that are a label apart, in the same order and around the same middles."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1]) < _bottom(groups[-2]) + len(groups[-2]) * _LABEL_GAP_POINTS:
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group) + place * _LABEL_GAP_POINTS for group in groups for place in range(len(group))]


def _bottom(group: Sequence[float]) -> float:
    """Return where the lowest of labels goes that stand close together."""
    return statistics.fmean(group) - (len(group) - 1) * _LABEL_GAP_POINTS / 2


def _draw_ratios(
    title: str, explanation: str, ratios: Mapping[str, Ratios], pyplot: Any, theme: Theme, footer: str
) -> Any:
    """Draw a panel for each row, four beside one another; panels by their titles."""
    figure, panels = pyplot.subplots(
        len(ratios) // _COLUMNS, _COLUMNS, figsize=(9.4, 6.2), sharex=True, sharey=True, layout="constrained"
    )
    _entitle(figure, theme, title, explanation, footer)
    names = [name for name in _ORDER if any(name in peers for peers in ratios.values())]
    heights = {name: -place for place, name in enumerate(names)}
    for axes, (panel, peers) in zip(panels.flat, ratios.items(), strict=True):
        axes.set_title(panel)
        _draw_bars(axes, theme, peers, heights)
    panels.flat[0].set_yticks(list(heights.values()), list(heights))
    return figure


def _draw_bars(axes: Any, theme: Theme, peers: Ratios, heights: Mapping[str, int]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.12, 34)
    axes.minorticks_off()
    axes.set_xticks([0.2, 1, 5, 25], ["÷ 5", "csp", "× 5", "× 25"])  # noqa: RUF001 - signs, not letters
    for label in axes.get_xticklabels()[1:2]:  # only the panels at the bottom have them
        label.set(color=theme.blue, fontweight="bold")
    axes.tick_params(left=False)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for name, values in peers.items():
        height = heights[name]
        spread = Spread.of(values)
        # Where rounds disagree, which is cheaper is not told by a colour.
        color = theme.sky if spread.lowest > 1 else theme.orange if spread.highest < 1 else theme.grey
        axes.barh(height, spread.median - 1, 0.62, left=1, color=color, zorder=2)
        axes.hlines(height, spread.lowest, spread.highest, color=theme.text, linewidth=1, zorder=3)
        number = f"{spread.median:#.2g}".rstrip(".")
        axes.annotate(
            number,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            size=9.5,
        )
    axes.axvline(1, color=theme.blue, linewidth=2, zorder=4)


if __name__ == "__main__":
    main()
