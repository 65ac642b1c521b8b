"""The drawings: what is committed is what `docs/drawings.py` writes."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, cast

from tests.docs._pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_the_files_are_what_the_script_writes() -> None:
    files = cast("dict[Path, str]", runpy.run_path(str(ROOT / "docs" / "drawings.py"))["files"]())
    assert len(files) == 6
    for path, svg in files.items():
        assert path.read_text(encoding="utf-8") == svg, "run `python docs/drawings.py`"
        ET.fromstring(svg)
