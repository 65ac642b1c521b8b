"""Plots of what a run measured: ``python -m benchmarks.plots figures.json DIRECTORY``.

``fan_in``: what a value costs against the number of channels it is selected from, one of them busy. ``websocket``:
messages a second of CPU time against their size. Each as SVG and as PNG; what was not measured is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.meters.measure import load

Costs: TypeAlias = dict[str, dict[str, float]]
"""Median microseconds by row and by side, csp or a peer."""

Points: TypeAlias = dict[str, list[tuple[float, float]]]
"""Points by the name of their line."""

_SIZES_IN_BYTES = {"32 B": 32, "1 KiB": 1024, "16 KiB": 16 * 1024, "1 MiB": 1024 * 1024}
_FAN_IN_PEERS = {"clones": "Trio clones", "anyio clones": "anyio clones"}
_LABEL_GAP_POINTS = 13.0
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trio-csp",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class NotFiguresError(Exception):
    """The file is not what ``python -m benchmarks --json`` writes."""


@dataclass(frozen=True)
class Look:
    """How a line is drawn; csp's are the thick ones."""

    color: str
    marker: str
    width: float = 1.4
    style: str = "-"


# Colours that are told apart with any kind of colour blindness: Okabe and Ito's, the bright ones darkened to be read
# as text.
_BLUE, _SKY, _ORANGE, _RED = "#0072B2", "#3E9BD1", "#C28100", "#D55E00"
_GREEN, _PINK, _BLACK, _GREY = "#00825F", "#B9628F", "#000000", "#7F7F7F"
_THICK = 3.2
_LOOKS = {
    "csp.Selector": Look(_BLUE, "o", _THICK),
    "csp.select": Look(_BLUE, "o", _THICK, "--"),
    "Trio clones": Look(_BLACK, "s"),
    "anyio clones": Look(_PINK, "v"),
    "aiochan select": Look(_ORANGE, "D"),
    "asyncio.wait": Look(_GREEN, "^"),
    "Go reflect.Select": Look(_RED, "P"),
    "csp": Look(_BLUE, "o", _THICK),
    "trio-websocket": Look(_BLACK, "s"),
    "websockets (trio)": Look(_PINK, "v"),
    "websockets (asyncio)": Look(_ORANGE, "D"),
    "websockets (uvloop)": Look(_RED, "P"),
    "aiohttp": Look(_GREEN, "^"),
    "picows": Look(_GREY, "X"),
    "picows.websockets": Look(_SKY, "p"),
}
_ORDER = list(_LOOKS)


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description="Plots of what a run measured.")
    parser.add_argument("figures", type=Path, help="what python -m benchmarks --json wrote")
    parser.add_argument("directory", type=Path, help="where the plots go; made if it is missing")
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("drawing takes matplotlib, which is not installed")
    try:
        costs = read_costs(options.figures)
        drawn = draw(costs, options.directory)
    except (OSError, NotFiguresError) as error:
        sys.exit(str(error))
    print("\n".join(str(path) for path in drawn))


def read_costs(path: Path) -> Costs:
    """Return the medians of what was measured in microseconds."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            workload["name"]: {
                "csp": float(workload["csp"]["median"]),
                **{name: float(peer["median"]) for name, peer in workload["peers"].items()},
            }
            for workload in document["workloads"]
            if workload["unit"] == "us"
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotFiguresError(f"{path} is not what python -m benchmarks --json writes") from error


def fan_in_points(costs: Costs) -> Points:
    """Return the cost of a value by number of channels, for each way to receive it."""
    points: Points = {}
    for row, sides in costs.items():
        found = re.fullmatch(r"(Selector|select), 1 busy of (\d+)", row)
        if found is None:
            continue
        for side, cost in sides.items():
            line = f"csp.{found[1]}" if side == "csp" else _FAN_IN_PEERS.get(side, side)
            # Both rows have the clones; those of Selector's are enough.
            if line in _LOOKS and not (found[1] == "select" and side == "clones"):
                points.setdefault(line, []).append((int(found[2]), cost))
    return _in_order(points)


def websocket_points(costs: Costs, way: str) -> Points:
    """Return the messages a second of CPU time by their size in bytes, for each library."""
    points: Points = {}
    for text, size in _SIZES_IN_BYTES.items():
        for side, cost in costs.get(f"WebSocket {way}, {text}", {}).items():
            if side in _LOOKS:
                points.setdefault(side, []).append((size, 1e6 / cost))
    return _in_order(points)


def _in_order(points: Points) -> Points:
    return {line: sorted(points[line]) for line in _ORDER if line in points}


def draw(costs: Costs, directory: Path) -> list[Path]:
    """Draw the plots there are figures for, and return the files written."""
    fan_in = fan_in_points(costs)
    websocket = {way: websocket_points(costs, way) for way in ("receive", "send")}
    if not fan_in and not any(websocket.values()):
        raise NotFiguresError("nothing to draw: neither '1 busy of' rows nor WebSocket rows were measured")
    pyplot = load("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pyplot.rcParams.update(_SETTINGS)
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    if fan_in:
        drawn += _save(_draw_fan_in(pyplot, fan_in), directory / "fan_in")
    if any(websocket.values()):
        drawn += _save(_draw_websocket(pyplot, websocket), directory / "websocket")
    return drawn


def _draw_fan_in(pyplot: Any, points: Points) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout="constrained")
    _draw_lines(axes, points)
    sizes = sorted({size for line in points.values() for size, _ in line})
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.set_xlabel("channels, one of them busy")
    axes.set_ylabel("CPU time a value, µs")
    axes.set_title("Receiving from one of many channels", loc="left", fontweight="bold")
    _label_ends(figure, axes, points)
    return figure


def _draw_websocket(pyplot: Any, points: dict[str, Points]) -> Any:
    figure, both = pyplot.subplots(1, 2, figsize=(8, 4.8), sharey=True, layout="constrained")
    for axes, (way, lines) in zip(both, points.items(), strict=True):
        _draw_lines(axes, lines)
        axes.set_xticks(list(_SIZES_IN_BYTES.values()), list(_SIZES_IN_BYTES))
        axes.set_xlabel("size of a message")
        axes.set_title(way.capitalize(), loc="left", fontweight="bold")
    both[0].set_ylabel("messages a second of CPU time")
    by_name = {label: handle for axes in both for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [name for name in _ORDER if name in by_name]
    figure.legend([by_name[name] for name in names], names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_lines(axes: Any, points: Points) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_plain)
    axes.minorticks_off()
    # csp's lines come first, and lie on top.
    for depth, (name, line) in enumerate(reversed(points.items()), start=2):
        look = _LOOKS[name]
        x, y = zip(*line, strict=True)
        axes.plot(
            x, y, look.style, color=look.color, marker=look.marker, linewidth=look.width, label=name, zorder=depth
        )


def _plain(value: float, _position: object) -> str:
    """Return the number at a tick without an exponent."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _label_ends(figure: Any, axes: Any, points: Points) -> None:
    """Write each line's name at its right end, moved up or down as far as it takes to keep the names apart."""
    figure.canvas.draw()
    points_a_pixel = 72 / figure.dpi
    ends = sorted((axes.transData.transform(line[-1])[1] * points_a_pixel, name) for name, line in points.items())
    placed: list[float] = []
    for height, _ in ends:
        placed.append(max(height, placed[-1] + _LABEL_GAP_POINTS) if placed else height)
    for (height, name), label_height in zip(ends, placed, strict=True):
        look = _LOOKS[name]
        axes.annotate(
            name,
            points[name][-1],
            xytext=(9, label_height - height),
            textcoords="offset points",
            va="center",
            color=look.color,
            fontweight="bold" if name.startswith("csp") else "normal",
            annotation_clip=False,
        )


def _save(figure: Any, stem: Path) -> list[Path]:
    """Write a figure twice; the same figures give the same bytes."""
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    figure.savefig(png, dpi=140, metadata={"Software": None})
    return [svg, png]


if __name__ == "__main__":
    main()
