"""The layers: an import never points down the list in ``csp/__init__.py``, and only drivers know their libraries."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import csp
import trio_csp_websocket

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where they are imported from: the checkout, or wherever they are installed.
CSP = Path(csp.__file__).parent
DRIVER = Path(trio_csp_websocket.__file__).parent
FACES = [CSP / "testing.py", CSP / "websocket.py"]
"""The core's files that name a driver."""
CORE = sorted(path for path in CSP.glob("**/*.py") if path not in FACES)
DRIVERS = sorted(DRIVER.glob("**/*.py"))
DRIVERS_LIBRARIES = {"trio_websocket", "wsproto", "h11"}
DRIVERS_PACKAGES = {DRIVER.name}
# Checkers and tests are not part of the product.
PRODUCT = [*CORE, *FACES]


def runtime_imports(path: Path) -> Iterator[str]:
    """Yield the dotted names a file imports when it runs; not those under ``if TYPE_CHECKING``."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def all_imports(path: Path) -> set[str]:
    """Return the top-level names of everything a file imports, for type checking too."""
    tops: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            tops.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            tops.add(node.module.split(".")[0])
    return tops


def listed_layers() -> dict[str, int]:
    """Return the place of each module in the list of ``csp/__init__.py``'s docstring, bottom first."""
    docstring = ast.get_docstring(ast.parse((CSP / "__init__.py").read_text(encoding="utf-8")))
    assert docstring is not None
    bullets = [line for line in docstring.splitlines() if line.startswith("- ")]
    return {
        module.removeprefix("csp."): level
        for level, bullet in enumerate(bullets)
        for module in re.findall(r"`+([\w.]+)`+", bullet.split(":")[0])
    }


def test_the_walk_sees_what_it_is_meant_to_see(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import hidden\nelse:\n    import other\n"
        "def late():\n    from csp import _select\n",
        encoding="utf-8",
    )
    assert set(runtime_imports(file)) == {"typing", "typing.TYPE_CHECKING", "other", "csp", "csp._select"}
    assert all_imports(file) == {"typing", "hidden", "other", "csp"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_imports_trio_outcome_and_the_standard_library_only(path: Path) -> None:
    import sys

    assert all_imports(path) - sys.stdlib_module_names <= {"csp", "trio", "outcome"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_knows_no_driver(path: Path) -> None:
    assert not all_imports(path) & (DRIVERS_LIBRARIES | DRIVERS_PACKAGES | {"drivers", "trio_csp_websocket"})
    assert not {name for name in runtime_imports(path) if name.startswith(("csp.testing", "csp.websocket"))}


def test_only_drivers_import_their_libraries() -> None:
    guilty = [path.name for path in PRODUCT if path.exists() and all_imports(path) & DRIVERS_LIBRARIES]
    assert guilty == []


@pytest.mark.parametrize("path", DRIVERS, ids=lambda path: path.name)
def test_drivers_use_the_public_core(path: Path) -> None:
    assert [name for name in runtime_imports(path) if name.startswith("csp._")] == []


def test_every_core_module_is_in_the_list() -> None:
    modules = {path.stem for path in CORE if path.stem != "__init__"}
    assert modules <= listed_layers().keys()


@pytest.mark.parametrize("path", [path for path in CORE if path.stem != "__init__"], ids=lambda path: path.name)
def test_an_import_never_points_to_a_higher_layer(path: Path) -> None:
    layers = listed_layers()
    higher = {
        name
        for name in runtime_imports(path)
        if name.startswith("csp.") and layers.get(name.split(".")[1], -1) > layers[path.stem]
    }
    assert higher == set()


@pytest.mark.parametrize("path", [path for path in CORE if path.stem != "__init__"], ids=lambda path: path.name)
def test_core_modules_import_from_modules(path: Path) -> None:
    # "from csp import Channel" would point to the top of the list, whatever Channel is.
    names = {name.split(".")[1] for name in runtime_imports(path) if name.startswith("csp.")}
    assert names <= listed_layers().keys()


def test_importing_the_core_loads_no_driver() -> None:
    import subprocess
    import sys

    code = (
        f"import sys; sys.path.insert(0, {str(CSP.parent)!r}); import csp; "
        f"print(sorted({DRIVERS_LIBRARIES | DRIVERS_PACKAGES!r} & set(sys.modules)))"
    )
    # In a process of its own: this one may have loaded them for another test.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
