"""The step that decommissions the legacy; by default it only says what it would do.

It looks at once for everything that stands in the way: in the databases, in the archives' files and in the chain of
evidence.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from migration_assets.archive.archiving import reread_archive
from migration_assets.cutover.plan import cutover_plan
from migration_assets.decommission import machine
from migration_assets.decommission.closing import choose_scope, former_grants, would_close
from migration_assets.decommission.obstacles import DecommissionPlan, find_obstacles
from migration_assets.domain.confirmation import Deed, GivenCode
from migration_assets.domain.errors import MigrationError
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import DecommissionState, Obstacle, Scope, SliceState
from migration_assets.evidence.writing import verify_evidence
from migration_assets.ledger.archives import read_archives
from migration_assets.ledger.chain import read_chain
from migration_assets.ledger.confirmations import Confirmation, Examined, examined_sides, give_code
from migration_assets.ledger.decommissions import DecommissionRecord, current_cutover, read_decommission
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.steps import open_ledger, prepare_ledger, run_step
from migration_assets.postgres.sessions import Connected, Timeouts
from migration_assets.preflight.rights import rights_for_streams
from migration_assets.runtime import Migration

__all__ = ["Decommissioning", "call_off_decommission", "decommission", "decommission_plan", "read_decommissioned"]
log = logging.getLogger(__name__)
Told = Callable[[str], None]
_TIMEOUTS = Timeouts(lock=5_000, statement=120_000)


@dataclass(frozen=True)
class Decommissioning:
    """What was done, or would be.

    Attributes:
        relation: The table's key in the ledger.
        scope: What is closed.
        why: Why this scope.
        obstacles: Everything that stands in the way; empty once it is done.
        steps: What would be done, in order; of a dry run.
        record: The ledger's record; None where nothing was begun.
        confirmation: The code that the real run asks for; of a dry run that found no obstacle.
        needless: Once it is done: the statements that revoke from our role on the base what only the streams needed.
    """

    relation: str
    scope: Scope
    why: str
    obstacles: tuple[Obstacle, ...] = ()
    steps: tuple[str, ...] = ()
    record: DecommissionRecord | None = None
    confirmation: GivenCode | None = None
    needless: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the legacy is inactive."""
        return self.record is not None and self.record.state is DecommissionState.DONE

    @property
    def reopening(self) -> tuple[str, ...]:
        """The statements by which a DBA opens the legacy for reading again; writes stay refused."""
        return tuple(self.record.former.get("reopen", ())) if self.record else ()

    @property
    def still_open(self) -> tuple[str, ...]:
        """The ways to the rows that are left, and the sessions that could not be ended."""
        if self.record is None:
            return ()
        former = self.record.former
        return (*former.get("still_open", ()), *former.get("sessions_left", ()))


def decommission(
    migration: Migration,
    approved_by: str,
    *,
    note: str = "",
    scope: Scope | None = None,
    dry_run: bool = True,
    confirm: str = "",
    accept_stale: bool = False,
    run_id: str | None = None,
    on_step: Told | None = None,
) -> Decommissioning:
    """Make the legacy inactive, or say what stands in the way and what would be done.

    Args:
        migration: Which migration.
        approved_by: The person who answers for it.
        note: Anything that belongs to the approval.
        scope: `database`, `table`, or None: the database if nothing else is in it, else the table.
        dry_run: Change nothing. The archives of retired weeks are not read again then, which may take hours.
        confirm: The code of a dry run that found no obstacle; not needed beyond the point of no return.
        accept_stale: The reverse stream need not be healthy.
        run_id: Noted in the ledger.
        on_step: Called with each step before it.

    Returns:
        What was done, or would be.

    Raises:
        DecommissionError: Something stands in the way, or it stopped half-way; the error says what state is left.
        ConfirmationError: The real run was asked for, and the code is missing or not good; nothing was touched.
    """
    plan = decommission_plan(migration, run_id, accept_stale=accept_stale)
    record = read_decommissioned(migration)
    if record is not None and record.state is DecommissionState.DONE:
        return Decommissioning(
            plan.relation, record.scope, "as it was done", record=record, needless=_needless(migration)
        )
    if record is not None and record.state.final:
        # The point of no return is passed: no code is asked for, and what is left to do needs little of the legacy.
        chosen, why = record.scope, "as it was begun"
        if dry_run:
            return Decommissioning(plan.relation, chosen, why, (), ("continue where it stopped",), record)
    else:
        chosen, why, found, steps = _examine(migration, plan, scope, approved_by)
        deed = _deed(plan.relation, chosen, accept_stale=accept_stale)
        examined = partial(examined_sides, relation=plan.relation)
        if dry_run:
            code = None if found else _code(migration, deed, examined, run_id)
            return Decommissioning(plan.relation, chosen, why, tuple(found), steps, record, code)
        if found:
            raise machine.refused(plan.relation, found)
        confirmation = Confirmation(deed, examined, confirm)
        with migration.databases.session("base", "decommission:look") as base:
            confirmation.require(base)
        if found := _damaged(migration, plan.relation, on_step):
            raise machine.refused(plan.relation, found)
        plan = replace(plan, on_begin=confirmation.spend)
    done = run_step(
        migration,
        f"decommissioning the legacy of {plan.relation}",
        lambda: machine.decommission(
            plan, approved_by=approved_by, note=note, scope=chosen, run_id=run_id, on_step=on_step
        ),
    )
    return Decommissioning(plan.relation, chosen, why, record=done, needless=_needless(migration))


def _needless(migration: Migration) -> tuple[str, ...]:
    with migration.databases.session("base", "decommission:rights") as base:
        return tuple(rights_for_streams(base))


def call_off_decommission(migration: Migration) -> bool:
    """Call off one whose process died before anything was closed; see `machine.call_off_decommission`."""
    prepare_ledger(migration, "decommission:look")
    return machine.call_off_decommission(decommission_plan(migration))


def read_decommissioned(migration: Migration) -> DecommissionRecord | None:
    """The ledger's record; asks nothing of the legacy."""
    with open_ledger(migration, "decommission:look") as base:
        return read_decommission(base, migration.spec.relation)


def decommission_plan(
    migration: Migration, run_id: str | None = None, *, accept_stale: bool = False
) -> DecommissionPlan:
    """Make the plan from the settings."""
    settings = migration.settings
    return DecommissionPlan(
        cutover_plan(migration, run_id), settings.rollback_window_days, settings.legacy_quiet_days, accept_stale
    )


def _examine(
    migration: Migration,
    plan: DecommissionPlan,
    wanted: Scope | None,
    approved_by: str,
) -> tuple[Scope, str, list[Obstacle], tuple[str, ...]]:
    with (
        migration.databases.session("base", "decommission:look", _TIMEOUTS) as base,
        migration.databases.session("legacy", "decommission:look", _TIMEOUTS) as legacy,
    ):
        chosen = choose_scope(legacy, plan.spec, wanted)
        found = [] if approved_by.strip() else [machine.nobody_approved()]
        found += find_obstacles(base, legacy, plan, chosen.scope)
        steps = _steps(base, legacy, plan, chosen.scope)
        found += _evidence(migration, base)
        found += _archives(base, plan.relation, {week.key for week in _retired(base, plan.relation)})
    return chosen.scope, chosen.why, found, steps


def _retired(base: Connected, relation: str) -> list[FiscalWeek]:
    return [one.week for one in read_slices(base, relation) if one.state is SliceState.RETIRED]


def _damaged(migration: Migration, relation: str, on_step: Told | None) -> list[Obstacle]:
    """Read the archives of retired weeks again. Done last: it may take hours, so everything else is checked before."""
    with migration.databases.session("base", "decommission:look", _TIMEOUTS) as base:
        retired = _retired(base, relation)
    found: list[Obstacle] = []
    for week in retired:
        if on_step is not None:
            on_step(f"read the archive of {week.key} again")
        try:
            reread_archive(migration, week)
        except MigrationError as error:
            what = f"the archive of {week.key}, which has left the base, cannot be trusted: {error.what}"
            found.append(Obstacle("archives", what, error.next_step or "see `migration-assets archive --reread`"))
    return found


def _deed(relation: str, scope: Scope, *, accept_stale: bool) -> Deed:
    subject = f"of the {scope}" + (" with a stale reverse stream" if accept_stale else "")
    how = (
        "`migration-assets decommission --approved-by NAME` gives one where nothing stands in the way, with the same"
        " options, and so does decommissioned_legacy as a dry run; then again with `--yes --confirm CODE`, or `confirm`"
    )
    return Deed(relation, "decommission", subject, how)


def _code(migration: Migration, deed: Deed, examined: Examined, run_id: str | None) -> GivenCode:
    with migration.databases.session("base", "decommission:look") as base:
        return give_code(base, deed, examined, run_id=run_id)


def _archives(base: Connected, relation: str, retired: set[str]) -> Iterator[Obstacle]:
    archives = {one.week.key: one for one in read_archives(base, relation)}
    for key in sorted(retired - archives.keys()):
        yield Obstacle("archives", f"{key} has left the base, and there is no archive of it", "find out why first")
    for key, one in archives.items():
        if not one.verified_equal:
            what = f"the archive of {key} was found damaged: {one.verify_error}"
            remedy = (
                f"restore the files from a copy of them, then `migration-assets archive {key.replace('|', ' ')}"
                " --reread`" + ("" if key in retired else "; or materialize parquet_archive for it again")
            )
            yield Obstacle("archives", what, remedy)


def _evidence(migration: Migration, base: Connected) -> Iterator[Obstacle]:
    verified = verify_evidence(migration)
    if not verified.holds:
        what = f"the evidence does not hold: {'; '.join(str(one) for one in verified.breaks[:3])}"
        yield Obstacle(
            "evidence", what, "`migration-assets evidence verify` lists all of it; find out who changed what"
        )
    records = read_chain(base, migration.spec.relation)
    packs = [one.at for one in records if one.kind == ChainKind.PACK and one.quarter is None]
    cutover = current_cutover(base, migration.spec.relation)
    events = [one.at for one in records if one.kind == ChainKind.SIGN_OFF]
    if cutover is not None and cutover.opened_at is not None:
        events.append(max(cutover.opened_at, cutover.finished_at or cutover.opened_at))
    if not packs or (events and max(packs) < max(events)):
        what = (
            "no evidence pack of the whole migration was written since the last sign-off and the cutover"
            if packs else "no evidence pack of the whole migration was ever written"
        )  # fmt: skip
        yield Obstacle("pack", what, "`migration-assets evidence write`")


def _steps(base: Connected, legacy: Connected, plan: DecommissionPlan, scope: Scope) -> tuple[str, ...]:
    retired = sum(one.state is SliceState.RETIRED for one in read_slices(base, plan.relation))
    again = [f"read the archives of {retired} retired weeks again"] if retired else []
    return (
        *again,
        "drain and stop the reverse stream",
        "take the legacy's last fingerprints, by fiscal week and in total: every row is in the base or in an archive",
        "refuse every rollback from here on",
        *would_close(former_grants(legacy, plan.spec, scope), scope),
        "drop the reverse subscription on the legacy, its slot and its publication on the base",
        "note it in the chain of evidence; the data itself stays where it is",
    )
