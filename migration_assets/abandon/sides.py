"""What giving a migration up does on each side.

On the legacy everything of ours is taken away: slot, publication, guard, replica identity, markers. In the base's
ledger nothing is followed any more. Each statement may be repeated, and may be the last one before a crash.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import errors, sql

from migration_assets.domain.errors import StreamError
from migration_assets.domain.states import SliceState
from migration_assets.domain.table_spec import TableSpec, parse_identifiers, quote_identifier
from migration_assets.ledger.charge import require_legacy_in_charge
from migration_assets.ledger.own_objects import drop_own_objects, is_ours, own_trigger_functions
from migration_assets.ledger.session_locks import others_at_work, take_turn_at_objects
from migration_assets.ledger.slices import SliceRecord, begin_attempt, end_attempt, read_slices
from migration_assets.ledger.stream import StreamNames, StreamRecord, begin_stream
from migration_assets.postgres.catalogue import relation_oid
from migration_assets.postgres.own_schema import ON_LEGACY, in_own_schema
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, require_row, set_limits
from migration_assets.postgres.sql_text import table_name
from migration_assets.quarters.fences import HOLD, HOLD_ROWS, OUR_TRIGGERS, drop_triggers
from migration_assets.stream.legacy_side import GUARD, drop_publication, replica_identity
from migration_assets.stream.servers import read_identity
from migration_assets.stream.slots import OUR_SLOTS, drop_slot
from migration_assets.stream.way import drop_left_behind

PREFIX = "migration_assets_"
_WORDS = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}


@dataclass(frozen=True)
class Remains:
    """What of one migration is on the legacy now.

    Attributes:
        table: Whether the table exists.
        slot: Whether the slot exists.
        publication: Whether the publication exists.
        guard: Whether the table has a trigger of ours: against TRUNCATE, or one that a rehearsed cutover left.
        identity: The table's replica identity: `d`, `n`, `f`, or `i:index`; None without a table.
        markers: Rows of this table among the markers; None where there is no table of markers.
        objects: Whether anything of ours is in our schema; a run that died early made only the table of locks.
        table_shared_with: Other publications of ours that publish the table: they need its guard and identity, too.
        markers_used_by: What else needs our schema, so that it stays. Empty where nothing does.
    """

    table: bool
    slot: bool
    publication: bool
    guard: bool
    identity: str | None
    markers: int | None
    objects: bool
    table_shared_with: tuple[str, ...]
    markers_used_by: tuple[str, ...]


def examine_remains(legacy: Connected, spec: TableSpec, name: str) -> Remains:
    """Look at the legacy; `name` is the name of publication and slot."""
    there = relation_oid(legacy, spec.table) is not None
    row = legacy.execute(
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(name)s),"
        " EXISTS (SELECT FROM pg_publication WHERE pubname = %(name)s),"
        " EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s) AND tgname = ANY(%(guards)s))",
        {"name": name, "table": str(spec.table), "guards": [GUARD, HOLD, HOLD_ROWS]},
    ).fetchone()
    slot, publication, guard = require_row(row, "what is there")
    return Remains(
        table=there,
        slot=slot,
        publication=publication,
        guard=guard,
        identity=replica_identity(legacy, spec) if there else None,
        markers=_markers(legacy, spec),
        objects=_has_objects(legacy),
        table_shared_with=tuple(one for one in publications_of(legacy, spec) if one != name),
        markers_used_by=_markers_used_by(legacy, spec, name),
    )


def own_numbers(legacy: Connected, spec: TableSpec, name: str) -> dict[str, Any]:
    """What tells database, table, publication and triggers from others of the same names: their ids, as JSON values."""
    row = legacy.execute(
        "SELECT to_regclass(%(table)s)::oid::text,"
        " (SELECT ARRAY[oid::text, xmin::text] FROM pg_publication WHERE pubname = %(name)s),"
        " (SELECT array_agg(oid::text ORDER BY oid) FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s)"
        "   AND tgname = ANY(%(guards)s))",
        {"name": name, "table": str(spec.table), "guards": [GUARD, HOLD, HOLD_ROWS]},
    ).fetchone()
    server = read_identity(legacy, "legacy")
    return {"server": [server.system_identifier, server.database_oid], "there": list(require_row(row, "what is there"))}


def publications_of(legacy: Connected, spec: TableSpec) -> list[str]:
    """All publications of ours, of this and of other migrations, that publish the table or its markers."""
    rows = legacy.execute(
        "SELECT DISTINCT p.pubname::text FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid"
        " WHERE p.pubname LIKE %(ours)s AND (r.prrelid = to_regclass(%(table)s)"
        "  OR (r.prrelid = to_regclass('migration.markers')"
        # In the filter, as the server prints it, the relation is a literal.
        "      AND position(quote_literal(%(relation)s) IN pg_get_expr(r.prqual, r.prrelid)) > 0)) ORDER BY 1",
        {"ours": OUR_SLOTS, "table": str(spec.table), "relation": spec.relation},
    )
    return [str(row[0]) for row in rows]


def orphaned_slots(legacy: Connected) -> list[str]:
    """Slots of ours in this database whose publication is gone: it cannot be said which migration they belong to."""
    rows = legacy.execute(
        "SELECT slot_name::text FROM pg_replication_slots s WHERE slot_name LIKE %s AND database = current_database()"
        " AND NOT EXISTS (SELECT FROM pg_publication p WHERE p.pubname = s.slot_name) ORDER BY 1",
        [OUR_SLOTS],
    )
    return [str(row[0]) for row in rows]


def reverse_subscriptions(legacy: Connected, spec: TableSpec) -> list[str]:
    """Subscriptions of the legacy that write to the table: it follows a base, so a cutover is under way or done."""
    rows = legacy.execute(
        "SELECT p.subname::text FROM pg_subscription p JOIN pg_subscription_rel r ON r.srsubid = p.oid"
        " WHERE r.srrelid = to_regclass(%s)"
        " AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1",
        [str(spec.table)],
    )
    return [str(row[0]) for row in rows]


def identity_text(identity: str) -> str:
    """The replica identity as `REPLICA IDENTITY …` has it."""
    return f"USING INDEX {quote_identifier(_index_of(identity))}" if identity.startswith("i") else _WORDS[identity]


def _index_of(identity: str) -> str:
    return parse_identifiers(identity.removeprefix("i").removeprefix(":"))[-1]


def _has_markers(legacy: Connected) -> bool:
    """Whether the tables of markers are ours on a legacy; a base and other programs may have such tables, too."""
    return is_ours(legacy, "marker_id") and is_ours(legacy, "markers")


def _markers(legacy: Connected, spec: TableSpec) -> int | None:
    if not _has_markers(legacy):
        return None
    row = legacy.execute("SELECT count(*) FROM migration.markers WHERE relation = %s", [spec.relation]).fetchone()
    return int(require_row(row, "a count")[0])


def _has_objects(legacy: Connected) -> bool:
    if _has_markers(legacy):
        return True
    # Where the schema has a ledger, its objects belong to a base.
    row = legacy.execute("SELECT to_regclass('migration.slices') IS NULL").fetchone()
    return bool(require_row(row, "to_regclass")[0]) and any(is_ours(legacy, name) for name in ON_LEGACY)


def _markers_used_by(legacy: Connected, spec: TableSpec, name: str) -> tuple[str, ...]:
    at_work = tuple(f"backend {pid}, which is at work" for pid in others_at_work(legacy, besides=name))
    if not _has_markers(legacy):
        return at_work
    rows = legacy.execute(
        "SELECT DISTINCT 'publication ' || p.pubname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid ="
        " p.oid WHERE r.prrelid = to_regclass('migration.markers') AND p.pubname <> %(name)s"
        " UNION ALL SELECT DISTINCT format('the guard of %%s', t.tgrelid::regclass) FROM pg_trigger t"
        " WHERE t.tgfoid IN (SELECT to_regprocedure(f) FROM unnest(%(functions)s::text[]) f)"
        " AND t.tgrelid IS DISTINCT FROM to_regclass(%(table)s)"
        " UNION ALL SELECT DISTINCT 'markers of ' || relation FROM migration.markers WHERE relation <> %(relation)s"
        " UNION ALL SELECT 'a ledger' WHERE to_regclass('migration.slices') IS NOT NULL ORDER BY 1",
        {
            "name": name,
            "table": str(spec.table),
            "relation": spec.relation,
            "functions": own_trigger_functions(legacy),
        },
    ).fetchall()
    return *(str(row[0]) for row in rows), *at_work


def remove_publication(legacy: Connected, name: str, *, patience_seconds: float) -> None:
    """Drop the publication, where it exists."""
    drop_left_behind(legacy)
    retry_locked(lambda: drop_publication(legacy, name), patience_seconds=patience_seconds)


def unmark_table(legacy: Connected, spec: TableSpec, former: str | None, *, patience_seconds: float) -> str | None:
    """Drop the guard and set the replica identity back, in one transaction with a short lock that is tried again.

    Returns:
        A note if the former identity could not be set because its index is gone; else None.
    """
    table, note = table_name(spec.table), None

    def once() -> None:
        nonlocal note
        note = None
        with legacy.transaction():
            for trigger in (GUARD, HOLD, HOLD_ROWS):
                legacy.execute(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger), table))
            if former is None or replica_identity(legacy, spec) == former:
                return
            try:
                with legacy.transaction():
                    legacy.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(table, _identity(former)))
            except (errors.UndefinedObject, errors.WrongObjectType, errors.InvalidObjectDefinition) as error:
                note = f"the former identity {identity_text(former)} cannot be set ({error.diag.message_primary}):"
                note += " it is DEFAULT now"
                legacy.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY DEFAULT").format(table))

    retry_locked(once, patience_seconds=patience_seconds)
    return note


def _identity(former: str) -> sql.Composable:
    if former.startswith("i"):
        return sql.SQL("USING INDEX {}").format(sql.Identifier(_index_of(former)))
    return {"d": sql.SQL("DEFAULT"), "n": sql.SQL("NOTHING"), "f": sql.SQL("FULL")}[former]


def remove_markers(legacy: Connected, spec: TableSpec, name: str, *, patience_seconds: float) -> tuple[str, ...]:
    """Delete this table's markers; drop our tables and schema too, where nothing else needs them.

    Returns:
        What still needs them; empty where they are gone.
    """

    def once() -> tuple[str, ...]:
        with legacy.transaction():
            if not _has_objects(legacy):
                return ()
            # With the lock of the steps that make them: another base may begin at this moment.
            take_turn_at_objects(legacy)
            if _has_markers(legacy):
                legacy.execute("DELETE FROM migration.markers WHERE relation = %s", [spec.relation])
            if is_ours(legacy, "reverse_markers"):
                legacy.execute("DELETE FROM migration.reverse_markers WHERE relation = %s", [spec.relation])
            users = _markers_used_by(legacy, spec, name)
            return users or _drop_carriers(legacy)

    return retry_locked(once, patience_seconds=patience_seconds)


def _drop_carriers(legacy: Connected) -> tuple[str, ...]:
    try:
        with legacy.transaction():
            drop_own_objects(legacy)
    except errors.DependentObjectsStillExist as error:
        return (f"what somebody built on it ({error.diag.message_detail})",)
    return _drop_schema(legacy)


def _drop_schema(legacy: Connected) -> tuple[str, ...]:
    """Drop the schema, without CASCADE: it stays if it has other objects, rights or a comment, which are not ours."""
    row = legacy.execute(
        "SELECT nspacl IS NOT NULL OR obj_description(oid, 'pg_namespace') IS NOT NULL FROM pg_namespace"
        " WHERE nspname = 'migration'"
    ).fetchone()
    if row is None:
        return ()
    if row[0]:
        return ("the schema has rights or a comment of somebody's",)
    try:
        with legacy.transaction():
            legacy.execute("DROP SCHEMA migration")
    except errors.DependentObjectsStillExist:
        return (in_own_schema(legacy, "other objects in schema migration"),)
    return ()


REASON = "being abandoned"


def followed_weeks(base: Connected, relation: str) -> list[SliceRecord]:
    """The weeks that are under CDC."""
    return [record for record in read_slices(base, relation) if record.under_cdc]


def give_up(
    base: Connected,
    stream: StreamRecord,
    followed: Sequence[SliceRecord],
    run_id: str | None,
    begin: Callable[[], None],
) -> None:
    """Note the intent, and what it means for the weeks, in one transaction with `begin`; before anything is removed.

    Weeks under CDC become `copied` again: they keep their rows, no stream follows the legacy for them, and every proof
    and sign-off of them is void. Only this leads back from a later state, so `may_become` does not allow it. Weeks that
    had left the stream keep their state: they have their archives.
    """
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        begin()
        begin_stream(base, stream.relation, StreamNames(stream.publication, stream.slot, stream.subscription), REASON)
        for record in followed:
            attempt = begin_attempt(base, record, "join", run_id)
            end_attempt(
                base, attempt, "interrupted",
                error=f"abandoned: the change stream no longer follows this week, which was {record.state}",
            )  # fmt: skip
            base.execute(
                "UPDATE migration.slices SET state = %s, validated_at = NULL, validated_equal = NULL,"
                " validated_marker = NULL, validated_lsn = NULL, validated_changes = NULL, verified_at = NULL,"
                " verified_equal = NULL, changed_at = clock_timestamp(), run_id = %s, updated_at = clock_timestamp()"
                " WHERE lock_key = %s",
                [SliceState.COPIED, run_id, record.lock_key],
            )


def forget_stream(base: Connected, relation: str) -> None:
    """Delete the stream's row and clear its alerts. To be done last: as long as it exists, it says what is left to do.

    The base's markers stay: a later stream must not give a marker a number that a cut in the ledger has.
    """
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        base.execute("DELETE FROM migration.streams WHERE relation = %s", [relation])
        base.execute("DELETE FROM migration.servers WHERE relation = %s", [relation])
        base.execute(
            "UPDATE migration.alerts SET cleared_at = clock_timestamp() WHERE relation = %s AND cleared_at IS NULL",
            [relation],
        )


def require_no_cutover(base: Connected, relation: str) -> None:
    """Refuse where the base is the system of record, or is about to become it.

    Raises:
        BaseInChargeError: The last side that was opened is the base, however that cutover ended.
        StreamError: A cutover or rollback is under way.
    """
    require_legacy_in_charge(base, relation, "the migration is done, and not to be given up")
    there = base.execute("SELECT to_regclass('migration.cutovers') IS NOT NULL").fetchone()
    if not require_row(there, "to_regclass")[0]:
        return
    row = base.execute(
        "SELECT kind, state, started_at::text FROM migration.cutovers WHERE relation = %s AND outcome = 'running'",
        [relation],
    ).fetchone()
    if row is None:
        return
    kind, state, started = row
    raise StreamError(
        f"a {kind}, begun {started}, is under way ({state})",
        where=relation,
        state_left="nothing was changed",
        next_step="finish it (`migration-assets release-writes` where its process died); this can be done while the"
        " legacy is in charge",
    )


def leftovers_of_cutovers(base: Connected, spec: TableSpec, name: str) -> bool:
    """Whether rehearsals or rollbacks left a slot, a publication or a trigger on the base."""
    row = base.execute(
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(name)s)"
        " OR EXISTS (SELECT FROM pg_publication WHERE pubname = %(name)s)"
        " OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s) AND tgname = ANY(%(ours)s))",
        {"name": f"{name}_back", "table": str(spec.table), "ours": list(OUR_TRIGGERS)},
    ).fetchone()
    return bool(require_row(row, "EXISTS")[0])


def clear_leftovers(base: Connected, spec: TableSpec, name: str, *, patience_seconds: float) -> None:
    """Drop the reverse stream's parts on the base, and the triggers that held writes."""
    drop_slot(base, f"{name}_back")
    base.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(f"{name}_back")))

    def unhold() -> None:
        with base.transaction():
            set_limits(base, lock=200)
            drop_triggers(base, spec.table)

    retry_locked(unhold, patience_seconds=patience_seconds)
