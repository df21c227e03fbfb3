"""The base's rows inside DuckDB: one branch a week, so that a condition prunes weeks on both sides."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import duckdb

from migration_assets.archive.cold_views import QUARTER, WEEK, folder_columns
from migration_assets.archive.quoting import identifier, literal
from migration_assets.archive.shown_values import as_shown, is_padded, plain_type
from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.stored_columns import Storage, StoredColumn, numbered_name

_ATTACHED = "hot"
# DuckDB quotes all parameters of a connection that failed, also the passphrase of a key and the secret of an OAuth
# client, which have no place in its own secrets.
_PARAMETERS = re.compile(r'(Unable to connect to Postgres) at ".*": ', re.DOTALL)
_SQL_TYPES = {Storage.DATE: "DATE", Storage.TIMESTAMP: "TIMESTAMP", Storage.TIMESTAMPTZ: "TIMESTAMPTZ"}


@dataclass(frozen=True)
class HotSide:
    """How DuckDB reaches the base, and the view to read there.

    Attributes:
        connection: libpq's parameters, without the password.
        password: Where the URL holds one; it is shown nowhere.
        schema: Of the view.
        view: Its name.
        control_column: The column that the bounds are of.
        weeks: Quarter, week, lower and upper bound of every week that is in the base.
        options: libpq's, for settings under which values are written as an archive has them.
    """

    connection: Mapping[str, str]
    schema: str
    view: str
    control_column: str
    weeks: Sequence[tuple[str, str, str, str]]
    options: str
    password: str | None = field(default=None, repr=False)


def hot_relation(duck: duckdb.DuckDBPyConnection, hot: HotSide, columns: Sequence[StoredColumn]) -> list[str]:
    """Attach the base read-only and give a SELECT for each week: the columns by their place, then what archives add.

    The view calls its columns by their place, too: `"a"` and `"A"` are the same to DuckDB. Conditions on values that
    it gives as they are go to the base, on texts with COLLATE "C"; all others DuckDB looks at itself.

    Raises:
        ArchiveError: The reader of PostgreSQL does not fit this DuckDB, or the base cannot be reached.
    """
    load_reader(duck)
    secret = ""
    if hot.password is not None:
        duck.execute(f"CREATE SECRET {_ATTACHED} (TYPE postgres, PASSWORD {literal(hot.password)})")
        secret = f", SECRET {_ATTACHED}"
    # READ_ONLY is DuckDB's own promise; this one is the server's, and holds for every transaction.
    given = hot.connection.get("options", "")
    options = f"{given} {hot.options} -c default_transaction_read_only=on".strip()
    parameters = {**hot.connection, "options": options}
    conninfo = " ".join(f"{name}={_conninfo_value(value)}" for name, value in parameters.items())
    try:
        duck.execute(f"ATTACH {literal(conninfo)} AS {_ATTACHED} (TYPE postgres, READ_ONLY{secret})")
    except duckdb.Error as error:
        raise ArchiveError(
            f"the base cannot be read by DuckDB: {without_parameters(error)}",
            where="query",
            state_left="nothing was touched",
            next_step="see whether the base runs, and whether MIGRATION_QUERY_URL is right where it is set",
        ) from None
    place = next(number for number, column in enumerate(columns) if column.name == hot.control_column)
    kind, control = _SQL_TYPES[columns[place].storage], numbered_name(place)
    names = map(numbered_name, range(len(columns)))
    shown = [f"{_shown(column, name)} AS {name}" for column, name in zip(columns, names, strict=True)]
    added = folder_columns(columns)
    source = f"{_ATTACHED}.{identifier(hot.schema)}.{identifier(hot.view)}"
    return [
        f"SELECT {', '.join([*shown, *_folders(added, quarter, week)])} FROM {source}"
        f" WHERE {control} >= {kind} {literal(lower)} AND {control} < {kind} {literal(upper)}"
        for quarter, week, lower, upper in hot.weeks
    ]


def load_reader(duck: duckdb.DuckDBPyConnection) -> None:
    """From the package that carries it: DuckDB would download it at run time."""
    folder = resources.files("duckdb_extension_postgres_scanner") / "extensions" / f"v{duckdb.__version__}"
    reader = folder / "postgres_scanner.duckdb_extension"
    if not reader.is_file():
        raise ArchiveError(
            f"the installed reader of PostgreSQL is not for DuckDB {duckdb.__version__}",
            state_left="nothing was touched",
            next_step="install duckdb and duckdb-extension-postgres-scanner in the same version, as constraints.txt"
            " says",
        )
    with resources.as_file(reader) as path:
        duck.execute(f"LOAD {literal(str(path))}")


def _folders(added: Sequence[str], quarter: str, week: str) -> list[str]:
    values = {QUARTER: quarter, WEEK: week}
    return [f"{literal(values[name])} AS {name}" for name in added]


def _shown(column: StoredColumn, name: str) -> str:
    """The view gives what an archive would have stored, and numbers within limits."""
    if column.storage is Storage.JSON:
        return f"CAST({name} AS JSON)"
    arrives_so = column.storage is not Storage.TEXT or plain_type(column) == "numeric" or is_padded(column)
    return name if arrives_so else as_shown(column, name, column)


def _conninfo_value(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def without_parameters(error: BaseException) -> str:
    """What DuckDB says, without the parameters of the connection to the base."""
    return _PARAMETERS.sub(r"\1: ", str(error)).strip()
