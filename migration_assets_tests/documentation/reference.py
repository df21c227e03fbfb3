"""Writes the reference pages of the documentation from the code; `make reference` runs it.

A page says what the code says: settings, commands, assets, checks, jobs, metadata, alerts, errors, the ledger's tables.
`test_reference` compares the committed pages with what this module would write.
"""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import dagster as dg

from migration_assets import cli
from migration_assets.definitions import build_defs
from migration_assets.domain import errors
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.samples import ALERTS
from migration_assets.postgres.sessions import Connected
from migration_assets.settings import PREFIX, MigrationSettings

PROJECT = Path(__file__).resolve().parents[2]
PAGES = PROJECT / "docs" / "reference"
_MADE = "<!-- Made by `make reference` from the code. Do not edit. -->"
_COLUMNS = """
SELECT c.relname, obj_description(c.oid, 'pg_class'), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'migration'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""


def _cell(text: object) -> str:
    """A text inside a table: one line, and no mark of a table in it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _page(title: str, about: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", _MADE, about, *parts]) + "\n"


def settings_page() -> str:
    """Every `MIGRATION_*` variable: its default, its bounds, and what it means."""
    rows: list[Sequence[object]] = []
    for name, field in MigrationSettings.model_fields.items():
        bounds = [f"{sign} {getattr(one, attribute)}" for one in field.metadata
                  for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
                  if hasattr(one, attribute)]  # fmt: skip
        default = field.get_default(call_default_factory=True)
        shown = "" if default in {None, ()} else f"`{default}`"
        bounded = f"{shown} ({', '.join(bounds)})" if bounds else shown
        rows.append([f"`{PREFIX}{name.upper()}`", field.description or "", bounded])
    return _page(
        "Settings",
        "Settings come from the environment or from `.env` in the working folder. `migration-assets settings` lists"
        " their values. A value that may hold a password can lie in a file: `<NAME>_FILE` names it, or"
        f" `{PREFIX}SECRETS_FOLDER` names a folder of files that are called like their variables. An empty default"
        " means that nothing is set.",
        _table(["variable", "meaning", "default (bounds)"], rows),
    )


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def commands() -> dict[str, click.Command]:
    """Every command by its whole name."""
    return dict(_commands(cli.main, "migration-assets"))


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts: list[str] = []
    for name, command in commands().items():
        context = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(context))
        rows = [found for one in command.params if isinstance(one, click.Option)
                if (found := one.get_help_record(context)) is not None]  # fmt: skip
        text = inspect.cleandoc(command.help or "").replace("\b\n", "")
        options = _table(["option", "meaning"], [(f"`{option}`", meaning) for option, meaning in rows]) if rows else ""
        parts.append(
            f"## {name.removeprefix('migration-assets ')}\n\n```\n{name} {usage}\n```\n\n{text}\n\n{options}".rstrip()
        )
    return _page(
        "Commands",
        "Weeks are written `FY25-Q2` (all 13), `FY25-Q2 W05`, `FY25-Q2 W03-W07` or `'FY25-Q2|W05'`. Exit code 0: all is"
        " well. 1: the answer is no (a mismatch, a finding that blocks, a refused sign-off). 2: it could not be done;"
        " the message says what happened, what state is left, and what to do next.",
        *parts,
    )


def _graph() -> Any:
    return build_defs().get_repository_def().asset_graph


def _partitions(definition: dg.PartitionsDefinition[Any] | None) -> str:
    if definition is None:
        return "none"
    return "week" if isinstance(definition, dg.MultiPartitionsDefinition) else "quarter"


def assets_page() -> str:
    """Every asset and every asset check."""
    graph = _graph()
    keys = sorted(graph.get_all_asset_keys(), key=lambda key: (graph.get(key).group_name, key.to_user_string()))
    rows: list[Sequence[object]] = []
    for key in keys:
        node = graph.get(key)
        needs = ", ".join(f"`{parent.to_user_string()}`" for parent in sorted(node.parent_keys)) or "nothing"
        rows.append([f"`{key.to_user_string()}`", _partitions(node.partitions_def), needs, node.description or ""])
    checks = sorted(graph.asset_check_keys, key=lambda key: (key.asset_key.to_user_string(), key.name))
    found = [
        [f"`{key.name}`", f"`{key.asset_key.to_user_string()}`", graph.get(key).description or ""] for key in checks
    ]
    return _page(
        "Assets and checks",
        "A materialization states a fact; the description says which. Gates stand in the assets' bodies and read the"
        " ledger, so that they also hold where a run is started in another way.",
        "## Assets",
        _table(["asset", "partition", "needs", "what its materialization means"], rows),
        "## Checks",
        _table(["check", "of", "green means"], found),
    )


def _config(job: dg.JobDefinition) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for node in sorted(job.nodes, key=lambda node: node.name):
        definition: Any = node.definition
        schema = definition.config_schema.as_field() if hasattr(definition, "config_schema") else None
        known: Mapping[str, Any] = getattr(getattr(schema, "config_type", None), "fields", None) or {}
        fields += [(f"`{name}`", one.description or "") for name, one in known.items()]
    return list(dict.fromkeys(fields))


def runs_page() -> str:
    """Jobs with their configuration, sensors and schedules."""
    repository = build_defs().get_repository_def()
    parts = ["## Jobs"]
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if job.name.startswith("__"):
            continue
        config = _config(job)
        table = _table(["config", "meaning"], config) if config else ""
        parts.append(f"### {job.name}\n\n{_cell(job.description or '')}\n\n{table}".rstrip())
    sensors = [(f"`{one.name}`", one.description or "") for one in repository.sensor_defs]
    schedules = [(f"`{one.name}`", one.cron_schedule, one.description or "") for one in repository.schedule_defs]
    return _page(
        "Jobs, sensors, schedules",
        "The launchpad asks for a job's configuration. Sensors and schedules are switched on and off on the page"
        " *Automation*.",
        *parts,
        "## Sensors",
        _table(["sensor", "what it does"], sensors),
        "## Schedules",
        _table(["schedule", "when", "what it does"], schedules),
    )


def _metadata() -> Iterator[tuple[str, str, str]]:
    """Key, type, and the file whose assets show it: where a key stands beside a value of Dagster's metadata."""
    for path in sorted((PROJECT / "migration_assets" / "defs").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            pairs: list[tuple[ast.expr | None, ast.expr]] = []
            if isinstance(node, ast.Dict):
                pairs = list(zip(node.keys, node.values, strict=True))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                pairs = [(node.targets[0].slice, node.value)]
            for key, value in pairs:
                if not isinstance(key, ast.Constant) or not isinstance(value, ast.Call):
                    continue
                called = ast.unparse(value.func)
                if called.startswith("dg.MetadataValue."):
                    yield str(key.value), called.rpartition(".")[2], path.stem


def metadata_page() -> str:
    """The keys of metadata that assets, checks and observations carry."""
    known: dict[tuple[str, str], set[str]] = {}
    for key, kind, where in _metadata():
        known.setdefault((key, kind), set()).add(where)
    rows = [(f"`{key}`", kind, ", ".join(sorted(where))) for (key, kind), where in sorted(known.items())]
    return _page(
        "Metadata keys",
        "Numbers are numbers, so that Dagster plots them over partitions and over time. The last column names the"
        " module of `migration_assets/defs` that writes the key.",
        _table(["key", "type", "written by"], rows),
    )


def alerts_page() -> str:
    """Every problem that the watch can tell of."""
    rows = [(f"`{code.value}`", meaning) for code, meaning in ALERTS.items()]
    return _page(
        "Alerts",
        "The watch raises an alert once, tells it again where it gets worse, reminds after `MIGRATION_REALERT_MINUTES`,"
        " and takes it back when the problem is gone. Each alert carries its own figures and the next step. The how-tos"
        " [the change stream is in trouble](../how-to/stream-trouble.md) and [the day of the"
        " cutover](../how-to/cutover-day.md) begin with these names.",
        _table(["alert", "what is the case"], rows),
    )


def errors_page() -> str:
    """The tree of errors."""
    found: list[tuple[type[MigrationError], int]] = []

    def walk(one: type[MigrationError], depth: int) -> None:
        found.append((one, depth))
        for below in sorted(one.__subclasses__(), key=lambda other: other.__name__):
            if below.__module__.startswith("migration_assets."):
                walk(below, depth + 1)

    walk(errors.MigrationError, 0)
    lines = [
        f"{'    ' * depth}- **{one.__name__}** — {inspect.cleandoc(one.__doc__ or '').partition(chr(10) * 2)[0]}"
        for one, depth in found
    ]
    return _page(
        "Errors",
        "Every error on purpose says what happened, where, what state is left, and what to do next. None holds a value"
        " of a row, a statement of somebody else, or a secret.",
        "\n".join(" ".join(line.split("\n")) for line in lines),
    )


def ledger_page(base: Connected) -> str:
    """The ledger's tables, as a base has them."""
    tables: dict[str, list[Sequence[object]]] = {}
    about: dict[str, str] = {}
    for table, comment, column, kind, needed, meaning in base.execute(_COLUMNS):
        about[table] = comment or ""
        tables.setdefault(table, []).append([f"`{column}`", kind, "yes" if needed else "", meaning or ""])
    parts = [
        f"## {table}\n\n{about[table]}\n\n{_table(['column', 'type', 'not null', 'meaning'], rows)}"
        for table, rows in tables.items()
    ]
    return _page(
        "The ledger's tables",
        "The ledger is the schema `migration` in the base (`MIGRATION_OWN_SCHEMA` gives it another name). Its rows are"
        " written in the transaction of the data that they speak of. Read them as you like; nothing but this program"
        " may write them.",
        *parts,
    )


FROM_CODE: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "assets.md": assets_page,
    "runs.md": runs_page,
    "metadata.md": metadata_page,
    "alerts.md": alerts_page,
    "errors.md": errors_page,
}
LEDGER = "ledger.md"


def main() -> None:
    """Write all pages; the ledger's needs a server, which is started for it."""
    from migration_assets.ledger.schema import ensure_ledger  # noqa: PLC0415 - of this program alone
    from migration_assets.postgres.sessions import Databases  # noqa: PLC0415
    from migration_assets_tests.server_pairs import quick_pair  # noqa: PLC0415

    PAGES.mkdir(parents=True, exist_ok=True)
    for name, make in FROM_CODE.items():
        (PAGES / name).write_text(make())
    with quick_pair() as pair:
        pair.recreate_database("base", "reference")
        databases = Databases(pair.base_url("reference"), pair.base_url("reference"))
        with databases.session("base", "reference") as base:
            ensure_ledger(base)
            (PAGES / LEDGER).write_text(ledger_page(base))


if __name__ == "__main__":
    main()
