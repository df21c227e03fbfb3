"""What giving a migration up means for the base's ledger: nothing is followed any more, and nothing may look so."""

from collections.abc import Callable, Sequence

from psycopg import sql

from migration_assets.domain.errors import StreamError
from migration_assets.domain.slice_state import SliceState
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import require_legacy_in_charge
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    read_slices,
)
from migration_assets.ledger.stream import StreamNames, StreamRecord, begin_stream
from migration_assets.postgres.retries import retry_locked
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.quarters.fences import OUR_TRIGGERS, drop_triggers
from migration_assets.stream.slots import drop_slot

REASON = "being abandoned"


def followed_weeks(base: Connected, relation: str) -> list[SliceRecord]:
    """Those that are under CDC."""
    return [record for record in read_slices(base, relation) if record.under_cdc]


def give_up(
    base: Connected,
    stream: StreamRecord,
    followed: Sequence[SliceRecord],
    run_id: str | None,
    begin: Callable[[], None],
) -> None:
    """The intent, and its meaning for the weeks, in one transaction with `begin`, before anything is taken away.

    Weeks under CDC are `copied` again: they hold what they held, nobody follows the legacy for them, and every proof
    and signature on them is over. This is the only way back from a later state, so that `may_become` does not know it.
    Weeks that had left the stream keep their state: their archives stand by themselves.
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
    """The stream's row goes last: as long as it is there, it says what is left to do. Its alerts end with it.

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
    """Refuse where the base is, or is about to become, the system of record.

    Raises:
        BaseInChargeError: The last one that opened a side opened the base, whatever became of it afterwards.
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
    """Gone afterwards: the reverse stream's parts on the base, and the triggers that held writes."""
    drop_slot(base, f"{name}_back")
    base.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(f"{name}_back")))

    def unhold() -> None:
        with base.transaction():
            base.execute("SET LOCAL lock_timeout = '200ms'")
            drop_triggers(base, spec.table)

    retry_locked(unhold, patience_seconds=patience_seconds)
