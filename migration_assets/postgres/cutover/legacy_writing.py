"""What every repair of the legacy needs: the right to do it, alone; and a transaction that passes the hold."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from psycopg import sql

from migration_assets.domain.cutover_state import CutoverError
from migration_assets.postgres.change_stream.records import stream_lock
from migration_assets.postgres.cutover.facts import read_cutover_facts
from migration_assets.postgres.cutover.plan import CutoverPlan
from migration_assets.postgres.cutover.takeover import alone
from migration_assets.postgres.own_writes import own_writes
from migration_assets.postgres.server_identity import require_same_servers
from migration_assets.postgres.sessions import Connected, Timeouts, require_row
from migration_assets.postgres.sql_text import table_name

PURPOSE = "repair-legacy"
ROWS_AT_ONCE = 5_000
_TIMEOUTS = Timeouts(lock=10_000, statement=0, idle_in_transaction=0)


@contextmanager
def both_sides(plan: CutoverPlan, *, mending: bool = False) -> Generator[tuple[Connected, Connected]]:
    """Sessions on base and legacy, while the base is in charge and nobody else works on the cutover or the stream.

    Args:
        plan: Which table.
        mending: The reverse stream is made anew, which mends what another server in the place of one has done.

    Raises:
        CutoverError: The legacy is in charge or decommissioned, or a cutover is not finished.
        ServerChangedError: A server is another one than the stream was built on, or went back.
        StreamError: Somebody else is at work.
    """
    databases = plan.stream.databases
    with ExitStack() as stack:
        base = stack.enter_context(databases.session("base", PURPOSE, _TIMEOUTS))
        _require_base_in_charge(base, plan)
        legacy = stack.enter_context(databases.session("legacy", PURPOSE, _TIMEOUTS))
        stack.enter_context(alone(plan, base, legacy))
        if not mending:
            require_same_servers(base, plan.relation, legacy)
        # So that the watch sees that somebody has the stream at rest.
        stack.enter_context(stream_lock(base, plan.relation))
        _require_base_in_charge(base, plan)
        yield base, legacy


def _require_base_in_charge(base: Connected, plan: CutoverPlan) -> None:
    facts = read_cutover_facts(base, plan.relation)
    if facts.in_charge == "legacy":
        what = "the legacy is in charge: its rows are the truth"
        then = "`migration-assets repair QUARTER WEEK` shows what differs in the base, and with --apply mends it"
    elif facts.decommissioned is not None:
        what, then = "the legacy is decommissioned: nobody goes back to it", "nothing"
    elif facts.under_way is not None:
        what = f"{facts.under_way.name} is not finished"
        then = "let it end; where its process died: `migration-assets release-writes`; then run this again"
    else:
        return
    raise CutoverError(what, where=plan.relation, state_left="nothing was changed", next_step=then)


@contextmanager
def writing(plan: CutoverPlan, legacy: Connected) -> Generator[None]:
    """A transaction on the legacy that nobody else writes in, that passes the hold, and fires no ordinary trigger.

    Raises:
        TriggersFireError: Our role may not keep triggers from firing, and there are some.
    """
    table = plan.stream.spec.table
    with legacy.transaction():
        legacy.execute("SET LOCAL synchronous_commit = on")
        # Readers go on. Whoever writes past the hold waits.
        legacy.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table_name(table)))
        with own_writes(legacy, [table], side="legacy"):
            yield


def transaction_of(legacy: Connected) -> str:
    """The number of the session's transaction."""
    return str(require_row(legacy.execute("SELECT pg_current_xact_id()::text").fetchone(), "a transaction")[0])
