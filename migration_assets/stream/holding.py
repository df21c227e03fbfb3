"""The steps on the change stream, each behind its gate: start it, stop it for a while, let it go on."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.ledger.preflights import require_preflight
from migration_assets.ledger.steps import run_step
from migration_assets.ledger.stream import StreamLock, StreamRecord, StreamStatus, set_status, stream_lock
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.runtime import Migration
from migration_assets.stream.claims import claimed
from migration_assets.stream.joining import Joined, join_stream
from migration_assets.stream.legacy_side import prepare_legacy
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.running import go_on, require_not_barred, require_running, require_stream
from migration_assets.stream.servers import require_servers
from migration_assets.stream.subscription import apply_worker, disable
from migration_assets.stream.true_up import OnWeek

# A person who types a command waits for the answer.
_TIMEOUTS = Timeouts(lock=30_000)


def hold_stream(plan: StreamPlan, reason: str) -> str:
    """Stop the stream until a person resumes it; the legacy retains its WAL meanwhile.

    Returns:
        What was done, in one sentence.

    Raises:
        StreamError: It does not run, another step works on it, a cutover has it, or the base is in charge.
    """
    with plan.databases.session("base", "hold", _TIMEOUTS) as base, _alone_with_stream(base, plan):
        record = require_stream(base, plan.relation)
        if record.status is StreamStatus.HELD:
            return f"the stream was held already ({record.reason})"
        record = require_running(base, plan.relation)
        with base.transaction():
            set_status(base, plan.relation, StreamStatus.HELD, reason)
            disable(base, record.subscription)
    return "the stream is held; `migration-assets stream resume` lets it go on; until then the legacy keeps its WAL"


def continue_stream(plan: StreamPlan) -> str:
    """Let a stream go on that was held, paused or disabled; finish a join or rebuild that was interrupted.

    Returns:
        What was done, in one sentence.

    Raises:
        StreamError: There is no stream, its subscription is gone, its first activation was never finished, a cutover
            has it, or the base is in charge.
        ServerChangedError: A server was replaced or went back in time; the stream stays at rest.
    """
    with plan.databases.session("base", "resume", _TIMEOUTS) as base, _alone_with_stream(base, plan):
        record = require_stream(base, plan.relation)
        if record.status in {StreamStatus.LIVE, StreamStatus.PAUSED, StreamStatus.HELD}:
            # The legacy may have become another server while the stream stood and nobody looked.
            require_servers(plan.databases, base, plan.relation)
            _guard_again(plan, base, record)
            worker = apply_worker(base, record.subscription)
            if record.status is StreamStatus.LIVE and worker is not None and worker.enabled:
                return "the stream runs already"
            go_on(base, record)
            was = record.status if record.status is not StreamStatus.LIVE else "disabled by hand"
            return f"the stream goes on (it was {was}{f': {record.reason}' if record.reason else ''})"
    # Nothing less is safe: the publication may already include the new weeks, and not all their rows are exact.
    done = join_stream(plan, None, rebuild=True)
    return f"a {record.status} that was never finished: {len(done.weeks)} weeks are {done.how}, exact since {done.lsn}"


@contextmanager
def _alone_with_stream(base: Connected, plan: StreamPlan) -> Generator[None]:
    """Hold the stream's lock; a cutover is refused before the wait and after it, since one may begin meanwhile."""
    require_not_barred(base, plan.relation)
    with stream_lock(base, plan.relation):
        require_not_barred(base, plan.relation)
        yield


def _guard_again(plan: StreamPlan, base: Connected, stream: StreamRecord) -> None:
    """Make again what protects the stream on the legacy, in case that somebody took it away by hand."""
    timeouts = Timeouts(lock=plan.limits.cut_lock_timeout_ms)
    with (
        plan.databases.session("legacy", "resume", timeouts) as legacy,
        claimed(legacy, stream.slot, holder=base, lock=StreamLock.STREAM),
    ):
        prepare_legacy(legacy, plan.spec, stream.publication, patience_seconds=plan.limits.cut_patience_seconds)


def start_stream(
    migration: Migration,
    quarter: FiscalQuarter,
    *,
    rebuild: bool = False,
    run_id: str | None = None,
    on_week: OnWeek | None = None,
    confirmed_deletes: Mapping[FiscalWeek, int] | None = None,
) -> Joined:
    """Bring the quarter under CDC; started again from the beginning if a server was lost for a while.

    Raises:
        PreflightError: Preflight is missing or blocks.
        MigrationError: As `join_stream`.
    """
    plan = StreamPlan.of(migration, run_id, confirmed_deletes)

    def gate(base: Connected) -> None:
        require_not_barred(base, migration.spec.relation, mending=rebuild)
        require_preflight(base, migration.spec.relation)

    return run_step(
        migration,
        f"change stream of {quarter.key}",
        lambda: join_stream(plan, quarter, rebuild=rebuild, on_week=on_week),
        gate=gate,
    )


def pause_stream(migration: Migration, reason: str) -> str:
    """Stop the stream until `resume_stream`; see `hold_stream`."""
    return run_step(migration, "pause of the change stream", lambda: hold_stream(StreamPlan.of(migration), reason))


def resume_stream(
    migration: Migration, run_id: str | None = None, confirmed_deletes: Mapping[FiscalWeek, int] | None = None
) -> str:
    """Let the stream go on, and finish a join that never was finished; see `continue_stream`."""
    return run_step(
        migration,
        "resumption of the change stream",
        lambda: continue_stream(StreamPlan.of(migration, run_id, confirmed_deletes)),
    )
