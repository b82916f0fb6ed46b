"""The rooms of the design: imports point one way, and nothing is larger than it should be."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"

ROOMS = (
    {"errors", "addresses", "rights", "kinds", "settings", "host", "findings", "forks", "apart"},
    {
        "paths",
        "periods",
        "journal",
        "meters",
        "servers",
        "aof",
        "clients",
        "cluster",
        "sentinel",
        "checks",
        "connections",
        "dispatch",
        "acl",
        "entries",
        "ledger",
    },
    {
        "follower",
        "pending",
        "progress",
        "posting",
        "housekeeping",
        "bookkeeper",
        "audit",
        "auditor",
        "tree",
        "sectionaudit",
        "routeaudit",
        "counting",
        "counter",
        "apikeys",
        "report",
        "ingest",
        "client",
    },
    {"logs", "tracing", "routes", "middleware", "asgi", "intake", "testrun", "web"},
    {"embedded", "hostchecks", "doctor", "supervision", "serve", "webserver", "cli", "__main__"},
    {"__init__"},
)
"""The first word of each module's name, by floor: a room uses its own floor and those before it."""

COUNTING_NEEDS = {"redis"}
"""All that somebody else's application must install to count its hits."""

MOST_FUNCTION_LINES = 70
MOST_MODULE_LINES = 500


@dataclass(frozen=True)
class Import:
    """One import of a module of ours: from where, of what, and whether a function hides it."""

    module: str
    imported: str
    line: int
    hidden: bool


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module by its dotted name, parsed."""
    found = {}
    for path in sorted((SOURCE / "hitledger").rglob("*.py")):
        words = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(words[:-1] if words[-1] == "__init__" else words)] = ast.parse(path.read_text())
    return found


def imports_of(module: str) -> Iterator[Import]:
    """Yield what a module imports at run time."""
    waiting: list[tuple[ast.AST, bool]] = [(modules()[module], False)]
    while waiting:
        node, hidden = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, hidden) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(module, whole if whole in modules() else str(node.module), node.lineno, hidden)
        inside = hidden or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


def all_imports() -> list[Import]:
    """Return the imports of all modules."""
    return [each for module in modules() for each in imports_of(module)]


def floor_of(module: str) -> int:
    """Return the floor that a module of ours is on."""
    room = [*module.split("."), "__init__"][1]
    for floor, rooms in enumerate(ROOMS):
        if room in rooms:
            return floor
    pytest.fail(f"{module} has no room: add it to ROOMS, where the design has its place")


def test_imports_point_one_way() -> None:
    """A module imports from its own floor and from those below, never from above."""
    ours = [each for each in all_imports() if each.imported.split(".")[0] == "hitledger"]
    wrong = [each for each in ours if floor_of(each.imported) > floor_of(each.module)]
    assert len(ours) > 20
    assert not wrong


def test_no_import_cycle() -> None:
    """No module imports itself by way of others."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for each in all_imports():
        if each.imported in graph and not each.hidden:
            graph[each.module].add(each.imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_hidden_imports_are_excused() -> None:
    """An import inside a function says beside it why it is there."""
    for each in all_imports():
        if each.hidden:
            path = SOURCE / Path(*each.module.split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            line = path.read_text().splitlines()[each.line - 1]
            assert "noqa: PLC0415 - " in line, f"{each.module}:{each.line} hides {each.imported}"


def test_counting_needs_redis_only() -> None:
    """`from hitledger import CountHits, Counter` imports nothing beyond the standard library and redis-py."""
    seen, waiting, foreign = set(), ["hitledger", "hitledger.middleware", "hitledger.counter"], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for each in imports_of(module):
            if each.hidden:
                continue
            if each.imported in modules():
                waiting += [each.imported] if each.imported not in seen else []
            elif (root := each.imported.split(".")[0]) not in sys.stdlib_module_names:
                foreign.add(root)
    assert "hitledger.journal" in seen
    assert foreign == COUNTING_NEEDS


def test_code_map_is_complete() -> None:
    """The code map in CONTRIBUTING.md names every room, and none that is gone."""
    text = (SOURCE.parent / "CONTRIBUTING.md").read_text()
    named = {name.rstrip("/") for line in re.findall(r"^  (\S.*?)  ", text, re.MULTILINE) for name in line.split(", ")}
    rooms = {module.split(".")[1] for module in modules() if "." in module}
    assert named == (rooms - {"__main__"}) | {"lua"}


def test_functions_and_modules_are_short() -> None:
    """No function has over 70 lines, and no module over 500 unless its head says why."""
    long = []
    for module, tree in modules().items():
        lines = max((getattr(node, "end_lineno", 0) or 0 for node in tree.body), default=0)
        if lines > MOST_MODULE_LINES and "500 lines" not in (ast.get_docstring(tree) or ""):
            long.append(f"{module}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.body[0].lineno + 1
                if size > MOST_FUNCTION_LINES:
                    long.append(f"{module}.{node.name}: {size} lines")
    assert not long
