"""The steps of cutover and rollback: they check the gate, report each state, and let an interrupt undo the run."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import psycopg

from migration_assets.cutover import machine, writes
from migration_assets.cutover.observing import ReverseHealth, look_at_reverse
from migration_assets.cutover.plan import CutoverPlan, OnState, cutover_plan
from migration_assets.cutover.writes import HeldWrites
from migration_assets.domain.confirmation import Deed, GivenCode
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.findings import Finding, blocking
from migration_assets.domain.states import BEFORE_OPEN, CutoverError, CutoverKind, CutoverState, SideName
from migration_assets.ledger.charge import in_charge, read_cutover_facts
from migration_assets.ledger.confirmations import Confirmation, Examined, examined_sides, give_code
from migration_assets.ledger.cutovers import CutoverRecord, read_cutovers, unfinished_cutover
from migration_assets.ledger.schema import require_ledger
from migration_assets.ledger.steps import open_ledger, prepare_ledger
from migration_assets.postgres.foreign_keys import Orphans, count_orphans, orphans_of, read_foreign_keys
from migration_assets.postgres.retries import interruptible
from migration_assets.postgres.server_messages import told
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.runtime import Migration

__all__ = ["CutoverRecord", "HeldWrites", "NotReadyError", "OnState", "ReverseHealth", "RollbackPreview", "broken_keys",
           "confirmation_of", "cut_over", "cutover_plan", "cutovers", "give_code_for", "hold_again",
           "preview_rollback", "release_writes", "reverse_health", "reverse_problems", "roll_back",
           "rollback_begins", "side_in_charge", "writes_held"]  # fmt: skip

_COUNT_SECONDS = 30.0


class NotReadyError(CutoverError):
    """Readiness found something that blocks the cutover; nothing was touched. Has all findings, worst first."""

    def __init__(self, findings: tuple[Finding, ...], *, where: str) -> None:
        self.findings = findings
        stops = blocking(findings)
        super().__init__(
            f"not ready for the cutover, {len(stops)} findings block it:\n"
            + "\n".join(f"- {one.area}: {one.code}: {one.evidence}. Remedy: {one.remedy}" for one in stops),
            where=where,
            state_left="nothing was touched",
            next_step="repair what is listed (`migration-assets readiness` shows it again), then run this again",
        )


def cut_over(
    migration: Migration,
    approved_by: str,
    *,
    rehearse: bool = True,
    confirm: str = "",
    run_id: str | None = None,
    on_state: OnState | None = None,
) -> CutoverRecord:
    """Move the writes to the base, or rehearse it; see `machine.cut_over`.

    What a dead process left is finished or undone first, whatever readiness says. Then readiness must find nothing that
    blocks. That is so for a rehearsal, too: it holds the applications' writes just the same, and it shows something
    only where the real cutover could follow. An interrupt undoes the cutover, unless the base is open already.

    Args:
        migration: Which migration.
        approved_by: The person who approved it.
        rehearse: Do everything but open the base, then undo it.
        confirm: The code of a rehearsal, for a real cutover.
        run_id: Noted in the ledger.
        on_state: Called with every state before its work begins.

    Returns:
        The ledger's record. That of a rehearsal that succeeded has the code that the real cutover asks for.

    Raises:
        NotReadyError: Something blocks; nothing was touched.
        ConfirmationError: A real cutover was asked for, and the code is missing or not good; nothing was touched.
        CutoverError: It stopped. The error names the state it stopped at and the side that accepts writes.
        StreamError, SliceBusyError: Another process works on the stream or a week, or another cutover is under way.
    """
    prepare_ledger(migration, "cutover:gate")
    confirmation = None if rehearse else confirmation_of(migration, CutoverKind.CUTOVER, confirm)

    def run(plan: CutoverPlan) -> CutoverRecord:
        done = _settle_and_gate(migration, plan, confirmation) if approved_by.strip() else None
        begins = replace(plan, on_begin=confirmation and confirmation.spend)
        return done or machine.cut_over(begins, approved_by=approved_by, rehearse=rehearse)

    done = _run(migration, CutoverKind.CUTOVER, run, run_id, on_state)
    if not rehearse:
        return done
    return replace(done, confirmation=give_code_for(migration, CutoverKind.CUTOVER, run_id))


def roll_back(
    migration: Migration,
    approved_by: str,
    *,
    confirm: str = "",
    run_id: str | None = None,
    on_state: OnState | None = None,
) -> CutoverRecord:
    """Move the writes back to the legacy, with nothing lost; see `machine.roll_back`.

    Readiness is not asked: a rollback is the way out. It needs the code of `preview_rollback`, unless it only finishes
    one whose process died.
    """
    prepare_ledger(migration, "cutover:gate")
    confirmation = confirmation_of(migration, CutoverKind.ROLLBACK, confirm)

    def run(plan: CutoverPlan) -> CutoverRecord:
        if approved_by.strip() and rollback_begins(migration):
            with migration.databases.session("base", "cutover:gate") as base:
                confirmation.require(base)
        return machine.roll_back(replace(plan, on_begin=confirmation.spend), approved_by=approved_by)

    return _run(migration, CutoverKind.ROLLBACK, run, run_id, on_state)


def _settle_and_gate(
    migration: Migration, plan: CutoverPlan, confirmation: Confirmation | None
) -> CutoverRecord | None:
    """Settle an unfinished run, then check the gate. The record if that run is what was asked for; None to begin."""
    with migration.databases.session("base", "cutover:gate") as base:
        left = unfinished_cutover(base, plan.relation)
    settled = None if left is None else machine.settle(plan)
    if side_in_charge(migration) == "base":
        asked = settled is not None and settled.kind is CutoverKind.CUTOVER and confirmation is not None
        return settled if asked else None  # the machine refuses: the base is in charge already
    if confirmation is not None and confirmation.given:
        with migration.databases.session("base", "cutover:gate") as base:
            confirmation.require(base)
    examined = examine_cutover(migration)
    if not examined.ready:
        raise NotReadyError(examined.findings, where=plan.relation)
    if confirmation is not None and not confirmation.given:
        with migration.databases.session("base", "cutover:gate") as base:
            confirmation.require(base)
    return None


def confirmation_of(migration: Migration, kind: CutoverKind, code: str) -> Confirmation:
    """The code that was given back by the caller, for one call."""
    return Confirmation(_deed(migration, kind), _examined(migration), code)


def give_code_for(migration: Migration, kind: CutoverKind, run_id: str | None = None) -> GivenCode:
    """Give a code for the deed as the sides are now, after a rehearsal or after a look at all that it rests on."""
    with migration.databases.session("base", "cutover:code") as base:
        return give_code(base, _deed(migration, kind), _examined(migration), run_id=run_id)


def _deed(migration: Migration, kind: CutoverKind) -> Deed:
    how = (
        "`migration-assets readiness` and a rehearsal (`migration-assets cutover --approved-by NAME`) give one; then"
        " `migration-assets cutover --approved-by NAME --for-real --confirm CODE`, or legacy_cutover with `confirm`"
        if kind is CutoverKind.CUTOVER
        else "`migration-assets rollback` gives one, and so does the job rollback without `confirm`; then"
        " `migration-assets rollback --approved-by NAME --yes --confirm CODE`, or the job again with `confirm`"
    )
    return Deed(migration.spec.relation, kind, "", how)


def _examined(migration: Migration) -> Examined:
    return lambda base: examined_sides(base, migration.spec.relation)


def _run(
    migration: Migration,
    kind: CutoverKind,
    run: Callable[[CutoverPlan], CutoverRecord],
    run_id: str | None,
    on_state: OnState | None,
) -> CutoverRecord:
    with interruptible() as interrupts:

        def tell(now: CutoverKind, state: CutoverState) -> None:
            # Settling a dead run, and the way back after a failed hook, must not be interrupted.
            interrupts.allowed = now is kind and state in BEFORE_OPEN
            if on_state is not None:
                on_state(now, state)

        plan = replace(cutover_plan(migration, run_id), on_state=tell)
        try:
            return run(plan)
        except KeyboardInterrupt as stop:  # one that came where the machine itself could not handle it
            raise CutoverError(
                f"the {kind} was stopped: {stop}",
                where=plan.relation,
                state_left=_settled(plan),
                next_step="nothing; run it again when you want it",
            ) from stop
        except psycopg.Error as error:
            raise CutoverError(
                f"PostgreSQL: {told(error)}",
                where=plan.relation,
                state_left=_who_writes(plan),
                next_step="see whether both servers run; then run this again: it finishes or undoes what is left",
            ) from error


def _settled(plan: CutoverPlan) -> str:
    try:
        return writes.release_writes(plan)
    except (psycopg.Error, MigrationError):
        return _who_writes(plan)


def _who_writes(plan: CutoverPlan) -> str:
    try:
        held = writes.writes_held(plan)
    except psycopg.Error:
        return "it is not known whether writes are accepted: neither side can be asked"
    return "writes are accepted as before" if held is None else f"{held.what}. {held.next_step}"


@dataclass(frozen=True)
class RollbackPreview:
    """What a rollback would find, and the code for it.

    Attributes:
        health: The state of the reverse stream.
        problems: What would stop the rollback, in sentences.
        broken: Foreign keys of the legacy that rows break already.
        confirmation: The code that the rollback asks for; given even if something would stop it, as that may pass.
    """

    health: ReverseHealth
    problems: list[str]
    broken: list[str]
    confirmation: GivenCode


def preview_rollback(migration: Migration, run_id: str | None = None) -> RollbackPreview | None:
    """Look at what a rollback depends on, and give a code for it; None while the legacy is in charge.

    Raises:
        psycopg.OperationalError: A server cannot be reached.
    """
    health = reverse_health(migration)
    if health is None:
        return None
    problems, broken = reverse_problems(migration, health), broken_keys(migration)
    return RollbackPreview(health, problems, broken, give_code_for(migration, CutoverKind.ROLLBACK, run_id))


def rollback_begins(migration: Migration) -> bool:
    """Whether one would begin now: the base is in charge, not for good, and no dead one is to be settled first."""
    with open_ledger(migration, "cutover:look") as base:
        facts = read_cutover_facts(base, migration.spec.relation)
    return facts.in_charge == "base" and facts.under_way is None and facts.decommissioned is None


def reverse_health(migration: Migration) -> ReverseHealth | None:
    """The state of the stream from the base to the legacy; None while the legacy is in charge.

    Raises:
        psycopg.OperationalError: A server cannot be reached.
    """
    prepare_ledger(migration, "cutover:look")
    return look_at_reverse(cutover_plan(migration))


def reverse_problems(migration: Migration, health: ReverseHealth) -> list[str]:
    """What would stop a rollback, in sentences; empty where nothing would."""
    problems = [] if health.enabled else ["the reverse subscription on the legacy is disabled or gone"]
    if health.enabled and not health.running:
        problems.append("the reverse subscription has no worker on the legacy: its server log says why")
    if not health.arrives:
        seconds = migration.settings.cutover_lag_seconds
        problems.append(f"a marker written on the base did not arrive on the legacy within {seconds:g} s")
    if health.wal_status is None:
        problems.append("the reverse stream's slot on the base is gone")
    elif health.wal_status in {"lost", "unreserved"}:
        problems.append(
            f"the reverse stream's slot on the base is {health.wal_status}: WAL that it needs is being removed"
        )
    return problems


def broken_keys(migration: Migration, rollback: int | None = None) -> list[str]:
    """Foreign keys of the legacy that rows break, now or when that rollback was done; one line for each key.

    Raises:
        psycopg.OperationalError: A server cannot be reached.
    """
    if rollback is not None:
        with migration.databases.session("base", "cutover:look") as base:
            counts = orphans_of(base, rollback)
        return [str(Orphans(key, after, "see the log")) for key, (_, after) in counts.items() if after != 0]
    with migration.databases.session("legacy", "cutover:look") as legacy:
        keys = read_foreign_keys(legacy, migration.spec.table)
        # The limit is for all keys together: in an emergency a person waits here for the code of a rollback.
        each = _COUNT_SECONDS / max(1, len(keys))
        return [str(one) for one in count_orphans(legacy, keys, seconds=each) if one.rows != 0]


def writes_held(migration: Migration) -> HeldWrites | None:
    """Whether the side in charge refuses writes, and how to release them; for alerts."""
    return writes.writes_held(cutover_plan(migration))


def release_writes(migration: Migration, run_id: str | None = None) -> str:
    """Let writes go on after a cutover or rollback died; see `cutover.writes.release_writes`."""
    return writes.release_writes(cutover_plan(migration, run_id))


def hold_again(migration: Migration) -> str:
    """Make the legacy refuse all writes again, while the base is in charge; see `cutover.writes.hold_again`."""
    return writes.hold_again(cutover_plan(migration))


def side_in_charge(migration: Migration) -> SideName:
    """Where writes belong now."""
    with open_ledger(migration, "cutover:look") as base:
        return in_charge(base, migration.spec.relation)


def cutovers(migration: Migration) -> list[CutoverRecord]:
    """Every cutover, rehearsal and rollback so far, the oldest first."""
    with migration.databases.session("base", "cutover:look") as base:
        require_ledger(base)
        return read_cutovers(base, migration.spec.relation)
