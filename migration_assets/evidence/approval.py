"""The sign-off of a quarter: a named person approves what the ledger proves, or learns what is missing."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version

import psycopg

from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.domain.sign_off_evidence import SignedOff
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.ledger.charge import legacy_leads
from migration_assets.ledger.definitions import table_states
from migration_assets.ledger.steps import open_ledger, run_step
from migration_assets.ledger.stream import read_stream
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.proof.sign_offs import (
    SeenNow,
    SignOffState,
    hold_quarter,
    read_sign_off,
    record_sign_off,
)
from migration_assets.runtime import Migration
from migration_assets.stream.servers import require_same_servers, require_servers
from migration_assets.watch.look import LookLimits, observe_stream

__all__ = ["SignOffState", "SignedOff", "sign_off_quarter", "sign_off_state"]

# A single observation cannot tell a worker that is down from one that is restarting. The alert therefore begins as a
# warning, but the sign-off refuses in that case too.
_STOPS_AS_A_WARNING = ProblemCode.WORKER_DOWN
log = logging.getLogger(__name__)


def sign_off_quarter(
    migration: Migration,
    quarter: FiscalQuarter,
    approved_by: str,
    note: str = "",
    *,
    run_id: str | None = None,
    stream_problems: Sequence[str] | None = None,
) -> SignedOff:
    """Sign the quarter off, if everything is proven; signing again adds a signature and removes none.

    Args:
        migration: The migration.
        quarter: The quarter to sign off.
        approved_by: The person who approves.
        note: That person's note.
        run_id: Recorded in the ledger.
        stream_problems: Problems of the stream that were observed already; by default the stream is observed now.

    Raises:
        SignOffRefusedError: A SignOffError that lists everything that is missing.
        SliceBusyError: Another run works on one of the weeks.
        StreamError: Another run works on the stream.
        BaseInChargeError: The base is in charge: a signature says that it equals the legacy, which only follows now.
    """
    spec = migration.spec
    why_not = (
        "a sign-off says that a quarter equals the legacy, which follows now; those given before the cutover stand, and"
        " weeks that are over are archived without one"
    )

    def once() -> SignedOff:
        with migration.databases.session("base", f"{quarter.key}:sign-off") as base:
            require_servers(migration.databases, base, spec.relation)
            with hold_quarter(base, spec, quarter):
                seen = _look(migration, base, stream_problems)
                require_same_servers(base, spec.relation)  # as the look found them
                return record_sign_off(
                    base,
                    spec,
                    quarter,
                    approved_by=approved_by,
                    note=note,
                    max_age=timedelta(hours=migration.settings.validation_max_age_hours),
                    seen=seen,
                    run_id=run_id,
                )

    return run_step(migration, f"sign-off of {quarter.key}", once, gate=legacy_leads(spec.relation, why_not))


def sign_off_state(migration: Migration, quarter: FiscalQuarter) -> SignOffState:
    """The newest sign-off, whether it stands, and if not, why."""
    with open_ledger(migration, f"{quarter.key}:sign-off") as base:
        return read_sign_off(base, migration.spec, quarter)


def _look(migration: Migration, base: Connected, given: Sequence[str] | None) -> SeenNow:
    """The legacy's version and table, and what stops the stream now; a legacy that cannot be reached does so, too.

    A legacy that cannot be reached is such a problem. The ledger's own status is judged by the gate. Other warnings do
    not prevent a sign-off: the present lag says nothing about a cut.
    """
    package, problems = version("migration-assets"), list(given or ())
    if given is None and read_stream(base, migration.spec.relation) is not None:
        limits = LookLimits(heartbeat_seconds=migration.settings.heartbeat_seconds)
        sample = observe_stream(migration.databases, migration.spec, limits)
        found = evaluate(
            View(sample, thresholds=migration.thresholds, own_schema=migration.settings.own_schema)
        ).problems
        stops = [p for p in found if p.severity is Severity.CRITICAL or p.code is _STOPS_AS_A_WARNING]
        problems += [problem.what for problem in stops]
        if sample.legacy_error is not None:
            return SeenNow(package, "", None, problems)
    try:
        with migration.databases.session("legacy", "sign-off") as legacy:
            row = legacy.execute("SELECT current_setting('server_version')").fetchone()
            table = table_states(legacy, [migration.spec.table]).get(migration.spec.table)
    except (psycopg.OperationalError, ServerChangedError) as error:
        return SeenNow(package, "", None, [*problems, f"the legacy cannot be asked: {told(error)}"])
    return SeenNow(package, str(require_row(row, "the legacy's version")[0]), table, problems)
