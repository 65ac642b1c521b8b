"""The site's drawings: `python docs/drawings.py` writes them to ``_static``, each for light and for dark pages."""  # noqa: INP001  # a script

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent / "_static"


class Colours(NamedTuple):
    """The colours of a drawing."""

    ink: str
    faint: str
    box: str
    accent: str
    accent_box: str
    paper: str


THEMES = {
    "light": Colours("#1f2328", "#59636e", "#f3f5f7", "#0a58ca", "#dfeafc", "#ffffff"),
    "dark": Colours("#e6e6e6", "#a0a8b0", "#262a2f", "#79b0ff", "#1d3352", "#131416"),
}


class Drawing:
    """Boxes, arrows and words, in the order in which they are drawn."""

    def __init__(self, width: int, height: int, title: str, colours: Colours) -> None:
        self.colours = colours
        self.parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" font-family="system-ui, sans-serif" font-size="14" role="img">'
            ),
            f"<title>{escape(title)}</title>",
            "<defs>",
            *(
                f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
                f' orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="{colour}"/></marker>'
                for name, colour in (("ink", colours.ink), ("accent", colours.accent))
            ),
            "</defs>",
            f'<rect width="{width}" height="{height}" fill="{colours.paper}"/>',
        ]

    def text(self, x: float, y: float, words: str, *, anchor: str = "middle", faint: bool = False, bold: bool = False,
             code: bool = False, accent: bool = False) -> None:  # fmt: skip
        """Write lines of text; ``y`` is the base line of the first."""
        colour = self.colours.accent if accent else self.colours.faint if faint else self.colours.ink
        style = (' font-weight="600"' if bold else "") + (' font-family="ui-monospace, monospace"' if code else "")
        for number, line in enumerate(words.splitlines()):
            self.parts.append(
                f'<text x="{x:g}" y="{y + 18 * number:g}" text-anchor="{anchor}" fill="{colour}"{style}>'
                f"{escape(line)}</text>"
            )

    def box(self, x: float, y: float, width: float, height: float, words: str = "", *, accent: bool = False,
            dashed: bool = False, code: bool = False, bold: bool = False) -> None:  # fmt: skip
        """Draw a box, with lines of text in its middle."""
        colours = self.colours
        fill = "none" if dashed else colours.accent_box if accent else colours.box
        dashes = ' stroke-dasharray="4 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}"'
            f' stroke="{colours.accent if accent else colours.faint}" stroke-width="1.3"{dashes}/>'
        )
        lines = len(words.splitlines())
        self.text(x + width / 2, y + height / 2 + 5 - 9 * (lines - 1), words, code=code, bold=bold, faint=dashed)

    def arrow(self, *points: tuple[float, float], accent: bool = False, dashed: bool = False) -> None:
        """Draw an arrow through points, to the last of them."""
        colour, name = (self.colours.accent, "accent") if accent else (self.colours.ink, "ink")
        dashes = ' stroke-dasharray="4 4"' if dashed else ""
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}'
            f' marker-end="url(#{name})"/>'
        )

    def svg(self) -> str:
        """Return the file."""
        return "\n".join([*self.parts, "</svg>", ""])


def waiting(colours: Colours) -> Drawing:
    """A select waits in the queues of its cases, and is woken by one of them."""
    d = Drawing(860, 372, "How a select waits and wakes", colours)
    for column, title in enumerate(("1. it waits", "2. another task sends", "3. it goes on")):
        left = 20 + 285 * column
        d.text(left + 125, 30, title, bold=True)
        for row, name in enumerate("abt"):
            y = 58 + 58 * row
            d.text(left, y + 25, name, anchor="start", code=True)
            d.text(left + 22, y + 25, "waiting:", anchor="start", faint=True)
            others = ["V"] if name == "b" else []
            for place, waiter in enumerate([*others, "W"] if column < 2 else others):
                d.box(left + 86 + 50 * place, y, 42, 38, waiter, accent=waiter == "W" and column == 0,
                      dashed=waiter == "W" and column == 1, code=True)  # fmt: skip
    d.box(20, 252, 250, 52, "select(a, b, t)\nparked, as the waiter W", accent=True)
    d.text(145, 330, "one waiter, in every queue;\nV has waited for b before", faint=True)
    d.box(305, 252, 250, 52, 'await a.send("hello")', code=True)
    d.arrow((530, 252), (530, 77), (446, 77))
    d.text(430, 330, "W leaves all the queues, then\nits task gets the value", faint=True)
    d.box(590, 252, 250, 52, 'r.channel is a\nr.value == "hello"', accent=True, code=True)
    d.arrow((555, 278), (588, 278), accent=True)
    d.text(715, 330, "the value is the wake-up:\nno other task can take it", faint=True)
    return d


def message(colours: Colours) -> Drawing:
    """The way of a message from the socket to the application, and back."""
    d = Drawing(860, 372, "A message's way from the socket to async for, and from send to the socket", colours)
    d.box(150, 20, 560, 332, "", dashed=True)
    d.text(166, 42, "the data plane", anchor="start", faint=True)
    d.box(14, 66, 104, 240, "server")
    d.box(168, 66, 104, 240, "transport\n\nTCP or TLS,\nor memory")
    d.box(318, 66, 104, 56, "decoder", accent=True)
    d.box(456, 66, 104, 56, "delivery", accent=True)
    d.box(594, 66, 104, 56, "channel", accent=True)
    d.box(742, 66, 104, 56, "async for", code=True)
    for start, end in ((118, 168), (272, 318), (422, 456), (560, 594), (698, 742)):
        d.arrow((start, 94), (end - 2, 94), accent=True)
    d.text(
        532,
        142,
        "one task reads, and puts messages into\nthe channel; those for which there is\nno room wait at the delivery",
        faint=True,
    )
    d.box(318, 250, 380, 56, "writer, with its encoder")
    d.box(742, 250, 104, 56, "send", code=True)
    d.arrow((742, 278), (700, 278))
    d.arrow((318, 278), (274, 278))
    d.arrow((168, 278), (120, 278))
    d.arrow((370, 122), (370, 248), dashed=True)
    d.text(360, 205, "pongs", anchor="end", faint=True)
    d.text(508, 330, "no frame is cut in two, and messages keep their order", faint=True)
    d.box(456, 192, 242, 34, "trio-websocket: the handshakes")
    d.arrow((640, 226), (640, 248), dashed=True)
    d.text(630, 243, "our close frame", anchor="end", faint=True)
    return d


def backpressure(colours: Colours) -> Drawing:
    """What fills up, and in which order, while nobody receives."""
    d = Drawing(860, 300, "What fills up while nobody receives", colours)
    places = (
        (14, "server", "4. its sends wait"),
        (190, "sockets", "3. nothing is read;\nthe system's buffers fill"),
        (366, "read-ahead", "2. up to 256 KiB,\nor 4096 messages"),
        (542, "channel", "1. up to\nchannel_capacity: 16"),
        (718, "consumer", "does not receive"),
    )
    d.text(430, 30, "messages", accent=True, bold=True)
    for number, (left, name, what) in enumerate(places):
        d.box(left, 62, 128, 62, name, accent=0 < number < 4, bold=True)
        if number:
            d.arrow((left - 48, 93), (left - 2, 93), accent=True)
        d.text(left + 64, 150, what, faint=True)
    d.arrow((782, 200), (782, 226), (78, 226), (78, 200))
    d.text(430, 250, "it does not receive, so they wait", bold=True)
    d.text(430, 276, "Pongs, pings and a close behind messages are seen as far as the read-ahead goes.", faint=True)
    return d


DRAWINGS: dict[str, Callable[[Colours], Drawing]] = {
    "waiting": waiting,
    "message": message,
    "backpressure": backpressure,
}


def files() -> dict[Path, str]:
    """Return what is to be in the files."""
    return {
        HERE / f"{name}-{theme}.svg": draw(colours).svg()
        for name, draw in DRAWINGS.items()
        for theme, colours in THEMES.items()
    }


if __name__ == "__main__":
    for path, svg in files().items():
        path.write_text(svg, encoding="utf-8")
