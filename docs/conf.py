"""How Sphinx builds the site: `python -m sphinx -W -n docs build/site`. No network is needed."""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.intersphinx import missing_reference

import csp
import csp.errors
import csp.redis
import csp.security
import csp.testing
import csp.websocket
import csp.websocket.telemetry

if TYPE_CHECKING:
    from docutils.nodes import Element, TextElement
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent

project = "trio-csp"
author = "The trio-csp developers"
release = version = csp.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = f"trio-csp {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "source_repository": "https://github.com/trio-csp/trio-csp/",
    "source_branch": "main",
    "source_directory": "docs/",
}
exclude_patterns = ["inventories"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3
# Docstrings name what they mean in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_use_rtype = False
copybutton_exclude = ".linenos, .gp, .go"


def inventory(name: str) -> str:
    """Return an inventory for intersphinx, made of the list in ``inventories/NAME.txt``.

    There a line has a role and an object's name; after ``# PAGE`` stand those that are described on that page.
    """
    lines = ["# Sphinx inventory version 2", f"# Project: {name}", "# Version: ", "# zlib"]
    entries: list[str] = []
    page = ""
    for line in (HERE / "inventories" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            page = line.removeprefix("# ")
        elif line:
            role, entry = line.split()
            entries.append(f"{entry} {role} 1 {page}#$ -")
    path = Path(tempfile.gettempdir()) / f"trio-csp-{name}-{sys.version_info.minor}.inv"
    path.write_bytes("\n".join([*lines, ""]).encode() + zlib.compress("\n".join([*entries, ""]).encode()))
    return str(path)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3", inventory("python")),
    "trio": ("https://trio.readthedocs.io/en/stable", inventory("trio")),
}


# What docstrings say --------------------------------------------------------------------------------------------------

FACES = [csp, csp.redis, csp.websocket, csp.websocket.telemetry, csp.errors, csp.security, csp.testing]
OTHERS = {
    "AbstractAsyncContextManager": "contextlib.AbstractAsyncContextManager",
    "AfterChannel": "csp.TimerChannel",
    "Buffer": "collections.abc.Buffer",
    "EllipsisType": "types.EllipsisType",
    "IPv4Address": "ipaddress.IPv4Address",
    "IPv4Network": "ipaddress.IPv4Network",
    "IPv6Address": "ipaddress.IPv6Address",
    "IPv6Network": "ipaddress.IPv6Network",
    "NeverChannel": "csp.Channel",
    "TickerChannel": "csp.TimerChannel",
}
"""What signatures name, and where that is described."""
UNDESCRIBED = {
    "Address",
    "Endpoint",
    "GivenHeaders",
    "MessageType",
    "MeterProvider",
    "Options",
    "PeerCertificate",
    "R",
    "Sink",
    "T",
    "T_co",
    "TracerProvider",
    "U",
    "ErrorT",
    "EllipsisType",
    "_OneKindError",
    "collections.abc.Mapping[str",
    "trio_csp_websocket.connection.endpoint.Endpoint",
}
"""Type variables, and types that are not public: shown, and not linked."""
MADE_BY_FUNCTIONS = {
    "csp.AfterChannel",
    "csp.Broadcast",
    "csp.ReceiveEnd",
    "csp.SendEnd",
    "csp.TickerChannel",
    "csp.TimerChannel",
    "csp.redis.DeadLetters",
    "csp.redis.Deliveries",
    "csp.redis.Delivery",
    "csp.redis.Queue",
    "csp.redis.Topic",
    "csp.redis.Updates",
    "csp.testing.RedisServer",
    "csp.testing.ServerConnection",
    "csp.websocket.Client",
    "csp.websocket.Connecting",
    "csp.websocket.Feed",
    "csp.websocket.Listening",
    "csp.websocket.MessageStream",
    "csp.websocket.Server",
    "csp.websocket.ServerConnection",
    "csp.websocket.telemetry.Instrumentation",
}
"""Classes whose constructors are not for users."""


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement) -> Element | None:
    """Resolve a name that stands without its module, or with the private one that defines it."""
    if node["reftarget"] in UNDESCRIBED:
        return content
    parts = node["reftarget"].split(".")
    for start, name in enumerate(parts):
        if name in UNDESCRIBED:
            return content
        if name in OTHERS:
            node["reftarget"] = OTHERS[name]
            return missing_reference(app, env, node, content) or resolve(app, env, node, content)
        for face in FACES:
            target = ".".join([face.__name__, *parts[start:]])
            if name in face.__all__ and target in env.domains.python_domain.objects:
                return env.domains.python_domain.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", target, node, content
                )
    return None


def hide_constructor(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Leave the signature out of classes that users do not construct."""
    return ("", "") if name in MADE_BY_FUNCTIONS else None


def mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Mark indented blocks as code, which docstrings have without the two colons of reStructuredText."""
    marked: list[str] = []
    for line in lines:
        text = [line for line in marked if line.strip()]
        if (
            line.startswith("    ")
            and text
            and not marked[-1].strip()
            and not text[-1].startswith((" ", "..", ":", "-", "*"))
        ):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-process-docstring", mark_code, priority=1000)
