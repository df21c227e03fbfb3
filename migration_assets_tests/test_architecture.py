"""Imports flow one way, files hold one concept each, and nobody reads the environment behind the settings' back."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "migration_assets"
TESTS = Path(__file__).resolve().parent
LONGEST_FILE = 500
TICK_CONTEXTS = {"build_sensor_context", "build_schedule_context"}

# From the ground up. Each may import what stands before it, but for what BARRED says. A module directly below the
# package is a folder of its own.
HOUSE: tuple[str, ...] = (
    "domain", "settings", "postgres", "embedded", "runtime",
    "ledger", "quarters", "stream", "proof", "copying", "archive", "preflight", "retirement", "cutover",
    "watch", "evidence", "decommission", "readiness", "abandon",
    "defs", "definitions", "web", "terminal", "demo", "cli",
)  # fmt: skip
_FACES = {"defs", "definitions", "web", "terminal", "demo", "cli"}
BARRED: dict[str, set[str]] = {
    # Servers of a demonstration belong to nobody else.
    **{one: {"embedded"} for one in HOUSE if one not in {"embedded", "runtime", "terminal", "demo", "cli"}},
    "settings": {"postgres", "embedded"},
    "postgres": {"settings", "embedded"},
    "definitions": set[str](HOUSE) - {"defs", "runtime"},
    "web": set[str](HOUSE) - {"domain"},
    # One face does not know the other.
    "terminal": {"defs", "definitions", "web"},
    "demo": {"web"},
    "cli": {"defs", "definitions", "web"},
}
# Who may import these packages at all.
ONLY: dict[str, set[str]] = {
    "dagster": {"defs", "definitions", "terminal", "demo", "web"},
    "dagster_webserver": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "psycopg": set[str](HOUSE) - {"domain", "settings", "definitions", "web"},
    "rich": {"terminal", "demo", "cli"},
    "click": {"cli", "terminal", "embedded"},
    "pydantic_settings": {"settings"},
    "apprise": {"watch"},
    "duckdb": {"archive"},
    "adbc_driver_postgresql": {"postgres"},
}
# Where what a session runs, or calls itself, is compared with something, and never told; how often.
COMPARED = {
    "postgres/activity.py": 5,  # two look for our own sessions by name; three tell of others, in the one way
    "stream/foreign_publications.py": 2,
    "watch/legacy_reads.py": 2,
}
MAY_TOUCH_ENVIRONMENT = {
    "settings.py": "reads it",
    "cli.py": "sets what dagster.yaml reads",
    "demo/story.py": "sets what dagster.yaml reads, for its workers",
    "embedded/traffic.py": "hands its URL to a child process, since argument lists are public",
}

FILES = sorted(ROOT.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    layer = layer_of(path)
    if layer == "__init__":
        return
    below = (set[str](HOUSE[: HOUSE.index(layer)]) - BARRED.get(layer, set())) | {layer}
    for name in imported(parsed(path)):
        assert not name.startswith("dagster._"), f"{path}: {name} is the inside of Dagster"
        package, _, rest = name.partition(".")
        if package == "migration_assets":
            other = rest.split(".")[0]
            assert other in below, f"{path}: {layer} must not import {other}"
        elif package in ONLY:
            assert layer in ONLY[package], f"{path}: {layer} must not import {package}"


def modules() -> dict[str, Path]:
    """By the name that they are imported by."""
    return {".".join(["migration_assets", *path.relative_to(ROOT).with_suffix("").parts]): path for path in FILES}


def first_circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The first one that is met; none where everything flows one way."""
    seen: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in seen:
            return []
        seen.add(node)
        return next((found for one in sorted(edges.get(node, ())) if (found := walk(one, [*way, node]))), list[str]())

    return next((found for one in sorted(edges) if (found := walk(one, []))), list[str]())


def folder_of(name: str, known: Mapping[str, Path]) -> str:
    """Of a module its folder; a package, and a module that stands beside the folders, is one itself."""
    parent = name.rpartition(".")[0]
    return name if name not in known or parent == ROOT.name else parent


def imports_of_folders(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which folders each folder imports, at every depth."""
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{ROOT.name}."):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    there = folder_of(whole if whole in known else node.module, known)
                    if there != (here := folder_of(name, known)):
                        edges.setdefault(here, set()).add(there)
    return edges


def test_no_folders_import_each_other_in_a_circle_at_any_depth() -> None:
    edges = imports_of_folders(modules())
    assert first_circle(edges) == []
    # It would be seen: the ground floor asks the top.
    edges["migration_assets.ledger"].add("migration_assets.watch")
    assert first_circle(edges)[0] == first_circle(edges)[-1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_says_what_belongs_into_it_and_holds_one_concept(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(parsed(path)), f"{path} has no docstring"
    assert len(text.splitlines()) <= LONGEST_FILE, f"{path} has {len(text.splitlines())} lines: one concept each"


def test_only_the_settings_read_the_environment() -> None:
    touching = {
        str(path.relative_to(ROOT))
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert touching == set(MAY_TOUCH_ENVIRONMENT)


def test_the_name_of_our_schema_stands_in_texts_alone() -> None:
    """Texts are renamed where MIGRATION_OWN_SCHEMA says so; a name as a value would be the usual one for ever."""
    found = [
        str(path.relative_to(ROOT))
        for path in FILES
        if layer_of(path) not in _FACES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and node.value in {"migration", "migration_quarantine"}
    ]
    assert found == ["domain/schema_name.py", "evidence/writing.py"]  # in the name of a pack


def test_every_layer_is_known() -> None:
    assert {layer_of(path) for path in FILES} - {"__init__"} == set(HOUSE)


@pytest.mark.parametrize("root", [ROOT, TESTS], ids=lambda p: p.name)
def test_the_context_of_a_tick_is_closed_where_it_was_opened(root: Path) -> None:
    """Left to the garbage collector, it puts back what Dagster knew before: an instance that may be gone by then."""
    for path in sorted(root.rglob("*.py")):
        nodes = list(ast.walk(parsed(path)))
        closed = {item.context_expr for node in nodes if isinstance(node, ast.With) for item in node.items}
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TICK_CONTEXTS:
                assert node in closed, f"{path}:{node.lineno}: {node.func.attr} without a `with`"


def test_statements_and_chosen_names_of_others_are_told_in_one_way_only() -> None:
    """What they run holds their data; what they call themselves may be markup for a chat."""
    found = {
        str(path.relative_to(ROOT)): len(re.findall(r"\b\w\.(?:query|application_name)\b", path.read_text()))
        for path in FILES
    }
    assert {path: count for path, count in found.items() if count} == COMPARED


def _handled(tree: ast.Module) -> Iterator[tuple[str, ast.ExceptHandler]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type:
            yield node.name, node


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_servers_error_is_told_without_what_it_holds_of_rows(path: Path) -> None:
    """By `told` or `named`: neither put into a text, nor given to a log, nor chained where Dagster keeps it."""
    if layer_of(path) == "embedded":
        return  # servers of our own, whose bookings are made up
    for name, handler in _handled(parsed(path)):
        caught = ast.unparse(handler.type) if handler.type else ""
        if not re.search(r"psycopg|\berrors\.|\bBaseException\b", caught):
            continue
        for node in ast.walk(handler):
            where = f"{path.name}:{getattr(node, 'lineno', '?')} {ast.unparse(node)}"
            if isinstance(node, ast.FormattedValue):
                assert not (isinstance(node.value, ast.Name) and node.value.id == name), where
            if isinstance(node, ast.Call):
                to = ast.unparse(node.func)
                given = any(isinstance(one, ast.Name) and one.id == name for one in node.args)
                assert not (given and (to in {"str", "repr"} or to.startswith(("log.", "context.log.")))), where
                assert to not in {"log.exception", "context.log.exception"}, where
            if isinstance(node, ast.Raise) and node.cause is not None and layer_of(path) == "defs":
                assert ast.unparse(node.cause) == "None", where
