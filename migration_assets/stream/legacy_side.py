"""The stream's objects on the legacy, besides the slot: replica identity, markers, TRUNCATE guard, publication."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from psycopg import sql

from migration_assets.domain.errors import StreamError
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalWeek
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.own_objects import MARKERS, require_no_collision
from migration_assets.ledger.session_locks import take_turn_at_objects
from migration_assets.postgres.activity import writers_of
from migration_assets.postgres.fingerprints import in_range
from migration_assets.postgres.refused_changes import refused_changes
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name

GUARD = "migration_assets_no_truncate"
# Without FULL every update and delete on the legacy would fail as soon as the publication has a row filter; with an
# index as identity, values that are stored out of line would arrive as NULL.
_FULL: Literal["f"] = "f"


def prepare_legacy(legacy: Connected, spec: TableSpec, publication: str, *, patience_seconds: float) -> str:
    """Create on the legacy what must exist before the publication; safe to repeat.

    The table is locked in ACCESS EXCLUSIVE mode for an instant. The lock is requested in short tries, each as long as
    the session's `lock_timeout`.

    Args:
        legacy: A session on the legacy with a short `lock_timeout`.
        spec: The table that is migrated.
        publication: The name our own publication will have: it is the only one that need not fit the new identity.
        patience_seconds: How long to go on trying to get the lock.

    Returns:
        The replica identity that the table had: `d`, `n`, `f`, or `i:` and the index's name.

    Raises:
        ForeignObjectError: Schema migration contains another owner's object with one of our names.
        StreamError: With REPLICA IDENTITY FULL another publication would make every update and delete of the legacy's
            applications fail. The table is unchanged.
        psycopg.errors.LockNotAvailable: The lock was not granted in time; nothing was changed.
    """
    with legacy.transaction():
        # Two bases may prepare the same legacy at once.
        take_turn_at_objects(legacy)
        _make_markers(legacy)
    former = replica_identity(legacy, spec)
    if former != _FULL or not has_guard(legacy, spec):
        retry_locked(lambda: _mark_table(legacy, spec, publication), patience_seconds=patience_seconds)
    return former


def _require_updates(legacy: Connected, spec: TableSpec, publication: str) -> None:
    """While the table's lock is held, nobody can alter the publication in between."""
    found = refused_changes(legacy, spec.table, identity=_FULL, own=publication)
    if found:
        raise StreamError(
            "the change stream needs REPLICA IDENTITY FULL, and then the applications' own changes would fail: "
            + "; ".join(one.what for one in found),
            where=spec.relation,
            state_left="the replica identity of the legacy's table is unchanged",
            next_step="on the legacy: " + " ".join(one.remedy for one in found) + "; then run this again",
        )


def replica_identity(legacy: Connected, spec: TableSpec) -> str:
    """Return the table's replica identity: `d`efault, `n`othing, `f`ull, or `i:name` of an index."""
    row = legacy.execute(
        "SELECT c.relreplident::text || coalesce((SELECT ':' || i.indexrelid::regclass::text FROM pg_index i"
        " WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'), '')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [spec.table.schema, spec.table.name],
    ).fetchone()
    return str(require_row(row, "the replica identity")[0])


def has_guard(legacy: Connected, spec: TableSpec) -> bool:
    """Whether the guard against TRUNCATE is there and fires in every session."""
    row = legacy.execute(
        "SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND t.tgname = %s AND t.tgenabled = 'A')",
        [spec.table.schema, spec.table.name, GUARD],
    ).fetchone()
    return bool(require_row(row, "EXISTS")[0])


def _make_markers(legacy: Connected) -> None:
    require_no_collision(legacy, {"markers", "marker_id", "refuse_truncate()"})
    if require_row(legacy.execute("SELECT to_regclass('migration.markers')").fetchone(), "to_regclass")[0] is None:
        legacy.execute("CREATE SCHEMA IF NOT EXISTS migration")
        legacy.execute("CREATE SEQUENCE migration.marker_id AS integer")
        legacy.execute("CREATE TABLE " + MARKERS)
        legacy.execute("COMMENT ON TABLE migration.markers IS 'migration_assets: markers of the change stream'")
        legacy.execute("COMMENT ON SEQUENCE migration.marker_id IS 'migration_assets: numbers the markers'")
    legacy.execute(
        "CREATE OR REPLACE FUNCTION migration.refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'TRUNCATE of %% would not reach the base: it is being migrated', TG_TABLE_NAME"
        " USING HINT = 'DELETE reaches the base; else stop the change stream of migration_assets first'; END $$",
        [],
    )
    legacy.execute("COMMENT ON FUNCTION migration.refuse_truncate() IS 'migration_assets: the guard against TRUNCATE'")


def continue_markers(legacy: Connected, after: int) -> None:
    """Continue the markers' numbers above the base's, since a restored legacy would begin at 1 again."""
    legacy.execute(
        "SELECT setval('migration.marker_id', %(after)s) FROM migration.marker_id"
        # A sequence that gave no number yet shows its first number as its last value.
        " WHERE last_value < %(after)s OR (NOT is_called AND last_value = %(after)s)",
        {"after": after},
    )


def _mark_table(legacy: Connected, spec: TableSpec, publication: str) -> None:
    table = table_name(spec.table)
    with legacy.transaction():
        # The lock that ALTER TABLE below needs, taken before the publications are read: nobody can alter them under it.
        legacy.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table))
        if replica_identity(legacy, spec) != _FULL:
            # Where it is FULL already, updates fail already: going on makes nothing worse, and the watch raises an
            # alert.
            _require_updates(legacy, spec, publication)
        legacy.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(table))
        legacy.execute(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {} BEFORE TRUNCATE ON {}"
                " FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_truncate()"
            ).format(sql.Identifier(GUARD), table)
        )
        legacy.execute(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table, sql.Identifier(GUARD)))


def row_filter(
    weeks: Iterable[FiscalWeek], description: TableDescription, spec: TableSpec, calendar: FiscalCalendar
) -> sql.Composed:
    """The union of the weeks' ranges, adjoining ranges merged; `false` where there is no week."""
    kind = description.control_kind(spec.control_column)
    ranges: list[list[Any]] = []
    for lower, upper in sorted(calendar.bound_values(week, kind) for week in weeks):
        if ranges and ranges[-1][1] == lower:
            ranges[-1][1] = upper
        else:
            ranges.append([lower, upper])
    if not ranges:
        return sql.Composed([sql.SQL("false")])
    return sql.SQL(" OR ").join(
        sql.SQL("({})").format(in_range(spec.control_column, (lower, upper))) for lower, upper in ranges
    )


def create_publication(legacy: Connected, name: str, spec: TableSpec, where: sql.Composable) -> None:
    """Publish the filtered table and this table's markers, but never TRUNCATE, which no row filter holds back."""
    legacy.execute(
        sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete')").format(
            sql.Identifier(name), _published(spec, where)
        )
    )


def alter_filter(legacy: Connected, name: str, spec: TableSpec, where: sql.Composable) -> None:
    """Replace the row filter. Only call it in the transaction that holds the table's SHARE lock for a cut."""
    legacy.execute(sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(sql.Identifier(name), _published(spec, where)))


def _published(spec: TableSpec, where: sql.Composable) -> sql.Composed:
    return sql.SQL("{} WHERE ({}), migration.markers WHERE (relation = {})").format(
        table_name(spec.table), where, sql.Literal(spec.relation)
    )


def drop_publication(legacy: Connected, name: str) -> None:
    """Drop it, if it is there."""
    legacy.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))


def published_filter(legacy: Connected, name: str, spec: TableSpec) -> str | None:
    """Return the table's row filter as the server prints it; None if the table is not in the publication."""
    row = legacy.execute(
        "SELECT coalesce(pg_get_expr(r.prqual, r.prrelid), '') FROM pg_publication_rel r"
        " JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s AND n.nspname = %s AND c.relname = %s",
        [name, spec.table.schema, spec.table.name],
    ).fetchone()
    return None if row is None else str(row[0])


def old_writers(legacy: Connected, spec: TableSpec, *, older_than_ms: float, sees_autovacuum: bool) -> Sequence[str]:
    """Sessions whose lock on the table a cut has to wait for, with their age and kind of command; the oldest first."""
    return writers_of(legacy, spec.table, older_than_ms=older_than_ms, sees_autovacuum=sees_autovacuum)
