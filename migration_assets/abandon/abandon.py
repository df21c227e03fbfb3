"""Gives up an unfinished migration: the legacy is as it was found, and the base keeps its rows and follows nothing.

This module has the steps and their order. The intent is in the ledger before the first step, and the stream's row goes
after the last one: killed anywhere, the same call goes on where it stopped. `sides` has what each step does.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import psycopg

from migration_assets.abandon.sides import (
    REASON,
    Remains,
    clear_leftovers,
    examine_remains,
    followed_weeks,
    forget_stream,
    give_up,
    identity_text,
    leftovers_of_cutovers,
    orphaned_slots,
    own_numbers,
    publications_of,
    remove_markers,
    remove_publication,
    require_no_cutover,
    reverse_subscriptions,
    unmark_table,
)
from migration_assets.cutover.holds import read_hold
from migration_assets.domain.confirmation import CodeOfSeen, Deed, GivenCode
from migration_assets.domain.errors import StreamError
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.confirmations import Confirmation, examined_sides, give_code
from migration_assets.ledger.own_objects import is_ours
from migration_assets.ledger.schema import ensure_ledger, has_ledger
from migration_assets.ledger.slices import SliceRecord, slice_locks
from migration_assets.ledger.steps import open_ledger
from migration_assets.ledger.stream import StreamLock, read_stream, stream_lock, stream_names
from migration_assets.postgres.own_schema import own_schema
from migration_assets.postgres.retries import retry_locked, retry_transient
from migration_assets.postgres.sessions import ATTENDED, LOOK, Connected, Timeouts
from migration_assets.runtime import Migration
from migration_assets.stream.claims import claimed, end_holders
from migration_assets.stream.plan import StreamPlan
from migration_assets.stream.slots import remove_slot
from migration_assets.stream.subscription import apply_worker, drop_subscription

_FULL = "f"
_HOW_ALONE = (
    "`migration-assets abandon --legacy-only` shows what is there now, and its code; then again with the same options,"
    " `--yes` and `--confirm CODE`"
)


@dataclass(frozen=True)
class Abandoned:
    """What was done (in a dry run: what would be done), in order, and what could not be restored.

    Attributes:
        relation: The table's key in the ledger.
        applied: Whether it was done.
        done: The steps.
        notes: For people: what stays on the legacy and why, and what was not known.
        confirmation: The code that the real run asks for; of a dry run.
    """

    relation: str
    applied: bool
    done: tuple[str, ...]
    notes: tuple[str, ...]
    confirmation: GivenCode | CodeOfSeen | None = None


@dataclass(frozen=True)
class _Step:
    """One step: what it does, in words, and the function that does it, which may return a note."""

    what: str
    do: Callable[[], str | None]


def abandon(
    plan: StreamPlan,
    *,
    apply: bool,
    on_begin: Callable[[Connected], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """Remove the stream from both sides. Safe to repeat; also finishes what a run that died has begun.

    The rows in the base stay. A week that comes under CDC again later is trued up, as always.

    Args:
        plan: Whose stream.
        apply: Do it; else only say what would be done.
        on_begin: Called with the session on the base in the transaction that notes the intent, unless an earlier run
            has noted it. If it raises, nothing was done.
        on_step: Called with each step before it.

    Returns:
        The steps and notes.

    Raises:
        StreamError: A cutover is under way or done, another process works on the stream, or there is nothing to do.
        BaseInChargeError: The base is in charge: roll back first.
        SliceBusyError: Another process works on a week under CDC.
        psycopg.OperationalError: A side is away; run it again when it is back (or see `clean_legacy`).
    """
    with ExitStack() as stack:
        base = stack.enter_context(plan.databases.session("base", "abandon", ATTENDED))
        if not has_ledger(base):
            raise _nothing(plan)
        ensure_ledger(base)
        # Checked before the legacy is connected to: it may be gone.
        require_no_cutover(base, plan.relation)
        # Before anything is begun, since all of it is to go.
        legacy = stack.enter_context(plan.databases.session("legacy", "abandon", _timeouts(plan)))
        stack.enter_context(stream_lock(base, plan.relation, lock=StreamLock.START))
        held = stack.enter_context(slice_locks(base, followed_weeks(base, plan.relation)))
        stack.enter_context(stream_lock(base, plan.relation))
        stream = read_stream(base, plan.relation)
        slot = stream.slot if stream else stream_names(base, plan.relation).slot
        # A dry run changes nothing; and where the markers are gone, nothing is left that another run could make anew.
        any_left = is_ours(legacy, "markers") or is_ours(legacy, "session_locks")
        for lock in (StreamLock.START, StreamLock.STREAM) if apply and any_left else ():
            stack.enter_context(claimed(legacy, slot, holder=base, lock=lock))
        _require_not_reversed(legacy, plan.spec)
        begun = stream is not None and stream.reason == REASON
        begin = _once(base, None if begun else on_begin)
        steps, notes = _steps(plan, base, legacy, [record for record in held if record.under_cdc], begin)
        if stream is None and apply:
            # Only leftovers are removed and no week is followed, so there is no intent to note.
            with base.transaction():
                begin()
        return _run(plan, steps, notes, apply=apply, on_step=on_step)


def _once(base: Connected, on_begin: Callable[[Connected], None] | None) -> Callable[[], None]:
    return lambda: None if on_begin is None else on_begin(base)


def _steps(
    plan: StreamPlan,
    base: Connected,
    legacy: Connected,
    followed: Sequence[SliceRecord],
    begin: Callable[[], None],
) -> tuple[list[_Step], list[str]]:
    stream = read_stream(base, plan.relation)
    subscription = stream.subscription if stream else stream_names(base, plan.relation).subscription
    name = stream.publication if stream else stream_names(base, plan.relation).publication
    remains = examine_remains(legacy, plan.spec, name)
    steps: list[_Step] = []
    if stream is not None:
        weeks = f"{len(followed)} weeks under CDC are `copied` again, their proofs and sign-offs void"
        steps.append(_Step(f"ledger: {weeks}", lambda: give_up(base, stream, followed, plan.run_id, begin)))
    if apply_worker(base, subscription) is not None:
        patience = plan.limits.cut_patience_seconds
        steps.append(
            _Step(
                f"base: drop subscription {subscription}",
                lambda: retry_locked(lambda: drop_subscription(base, subscription), patience_seconds=patience),
            )
        )
    if leftovers_of_cutovers(base, plan.spec, name):
        steps.append(
            _Step(
                "base: what rehearsed cutovers left: the reverse stream's slot and publication, the hold's trigger",
                lambda: clear_leftovers(base, plan.spec, name, patience_seconds=plan.limits.cut_patience_seconds),
            )
        )
    left = remains.slot or remains.publication or (remains.objects and not remains.markers_used_by)
    if stream is None and not steps and not left:
        raise _nothing(plan)
    former = stream.former_identity if stream else None
    of_legacy, notes = _legacy_steps(plan, legacy, name, remains, former)
    steps += of_legacy
    if former is None and remains.identity == _FULL:
        notes.append("the ledger does not know the replica identity from before: FULL stays")
    if stream is not None:
        steps.append(_Step("ledger: forget the change stream", lambda: forget_stream(base, plan.relation)))
    return steps, notes


def _legacy_steps(
    plan: StreamPlan, legacy: Connected, name: str, remains: Remains, former: str | None
) -> tuple[list[_Step], list[str]]:
    """The steps on the legacy. The slot goes first: it can fill the disk, and the publication's name leads to it."""
    spec, patience = plan.spec, plan.limits.cut_patience_seconds
    steps: list[_Step] = []
    notes: list[str] = []
    if remains.slot:
        steps.append(_Step(f"legacy: drop slot {name}", lambda: remove_slot(legacy, name)))
    if remains.publication:
        # Before the replica identity: with a row filter and without FULL every update on the legacy would fail.
        steps.append(
            _Step(
                f"legacy: drop publication {name}", lambda: remove_publication(legacy, name, patience_seconds=patience)
            )
        )
    if remains.table and remains.table_shared_with:
        others = ", ".join(remains.table_shared_with)
        notes.append(f"{spec.table} keeps its guard and REPLICA IDENTITY FULL: published by {others}, too")
    elif remains.table and (remains.guard or (former is not None and remains.identity != former)):
        was = f", REPLICA IDENTITY {identity_text(former)}" if former and former != remains.identity else ""
        steps.append(
            _Step(
                f"legacy: {spec.table} without its guard against TRUNCATE{was}",
                lambda: unmark_table(legacy, spec, former, patience_seconds=patience),
            )
        )
    if remains.objects:
        markers = remains.markers is not None
        what = f"{remains.markers:,} markers" if markers else "the table of locks"
        own = own_schema(legacy)
        schema = f", their table and schema {own}" if markers else " and its schema"
        whole = "" if remains.markers_used_by else schema
        steps.append(
            _Step(
                f"legacy: {what}{whole} go",
                lambda: _markers_note(own, remove_markers(legacy, spec, name, patience_seconds=patience)),
            )
        )
    return steps, notes


def _markers_note(schema: str, users: tuple[str, ...]) -> str | None:
    return f"schema {schema} stays on the legacy, for {', '.join(users)}" if users else None


def clean(
    plan: StreamPlan,
    *,
    apply: bool,
    confirm: str | None = None,
    name: str | None = None,
    former_identity: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """Clean the legacy alone, for a base that is gone for good.

    Args:
        plan: Which table.
        apply: Do it; else only say what would be done.
        confirm: The code of a dry run with the same arguments, which is good as long as everything that it saw is the
            same; None where no code is asked for.
        name: The name of publication and slot, where it cannot be found out: several bases used the table, or the
            publication is gone and only the slot is left.
        former_identity: `d`, `n`, `f` or `i:index`: only the base's ledger knew it. By default DEFAULT replaces FULL.
        on_step: Called with each step before it.

    Returns:
        The steps and notes; of a dry run also the code.

    Raises:
        ConfirmationError: The code is not good; nothing was touched.
        StreamError: The base answers and knows the stream; or the name is not clear; or the legacy follows a base.
    """
    _require_base_gone(plan)
    with plan.databases.session("legacy", "abandon", _timeouts(plan)) as legacy:
        _require_not_reversed(legacy, plan.spec)
        ours = name or _only_name(legacy, plan.spec)
        remains = examine_remains(legacy, plan.spec, ours or "")
        former, notes = former_identity, list[str]()
        if former is None and remains.guard and remains.identity == _FULL:
            former = "d"
            notes.append("the replica identity from before is not known without the base; DEFAULT is taken")
        steps, more = _legacy_steps(plan, legacy, ours or "", remains, former)
        if not steps:
            raise _nothing(plan)
        told = {"steps": [step.what for step in steps], "notes": [*notes, *more]}
        code = CodeOfSeen.of(told | own_numbers(legacy, plan.spec, ours or ""))
        if apply and confirm is not None:
            code.require(confirm, Deed(plan.relation, "abandon", "the legacy alone", _HOW_ALONE))
        if apply and ours:
            # A run that was at work when the base went, and has not noticed, would make anew what is removed here.
            for lock in (StreamLock.START, StreamLock.STREAM):
                end_holders(legacy, lock.named(ours))
        done = _run(plan, steps, [*notes, *more], apply=apply, on_step=on_step)
        return done if apply else replace(done, confirmation=code)


def _only_name(legacy: Connected, spec: TableSpec) -> str | None:
    found = publications_of(legacy, spec)
    orphans = orphaned_slots(legacy)
    if len(found) > 1 or (not found and orphans):
        what = "several publications of ours have the table" if found else "there are slots of ours, no publication"
        raise StreamError(
            f"{what}: {', '.join(found or orphans)}",
            where=spec.relation,
            state_left="nothing was changed",
            next_step="find out which base the right one belonged to, and name it with --name",
        )
    return found[0] if found else None


def _run(
    plan: StreamPlan,
    steps: Sequence[_Step],
    notes: Sequence[str],
    *,
    apply: bool,
    on_step: Callable[[str], None] | None,
) -> Abandoned:
    told = list(notes)
    for step in steps if apply else ():
        if on_step is not None:
            on_step(step.what)
        note = step.do()
        if note:
            told.append(note)
    return Abandoned(plan.relation, apply, tuple(step.what for step in steps), tuple(told))


def _timeouts(plan: StreamPlan) -> Timeouts:
    # Short, because every other session queues behind a lock that waits.
    return Timeouts(lock=plan.limits.cut_lock_timeout_ms)


def _nothing(plan: StreamPlan) -> StreamError:
    return StreamError(
        "there is nothing to abandon: no change stream was begun, or all of it is gone",
        where=plan.relation,
        state_left="nothing was changed",
        next_step="where the base is gone and the legacy is not clean: --legacy-only",
    )


def _require_not_reversed(legacy: Connected, spec: TableSpec) -> None:
    held = read_hold(legacy, spec.relation)
    if held is not None:
        raise StreamError(
            f"cutover {held.owner} holds the legacy's writes since {held.held_at}",
            where=spec.relation,
            state_left="nothing was changed",
            next_step="finish or undo it, or release the writes (migration-assets release-writes)",
        )
    found = reverse_subscriptions(legacy, spec)
    if found:
        raise StreamError(
            f"the legacy follows the base by {', '.join(found)}: a cutover is under way or done",
            where=spec.relation,
            state_left="nothing was changed",
            next_step="roll back first",
        )


def _require_base_gone(plan: StreamPlan) -> None:
    """A base that is there would go on asking for its slot for ever, and only it knows what the legacy was like."""
    quick = LOOK
    try:
        with plan.databases.session("base", "abandon", quick) as base:
            known = has_ledger(base) and read_stream(base, plan.relation) is not None
    except psycopg.OperationalError:
        return
    if known:
        raise StreamError(
            "the base is there and knows the change stream",
            where=plan.relation,
            state_left="nothing was changed",
            next_step="run this without --legacy-only: it takes the subscription away, and knows the former identity",
        )


__all__ = ["Abandoned", "abandon_migration", "clean_legacy"]

log = logging.getLogger(__name__)


def abandon_migration(
    migration: Migration,
    *,
    apply: bool = False,
    confirm: str = "",
    run_id: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """Give the migration up on both sides, see `abandon`; tried again where a server was lost for a moment.

    A dry run gives the code that the real run asks for, as `confirm`. Finishing what a dead run has begun needs none.

    Raises:
        ConfirmationError: The code is missing or not good; nothing was touched.
    """
    relation = migration.spec.relation
    examined = partial(examined_sides, relation=relation)
    confirmation = Confirmation(_deed(relation), examined, confirm)
    done = retry_transient(
        lambda: abandon(StreamPlan.of(migration, run_id), apply=apply, on_begin=confirmation.spend, on_step=on_step),
        what=f"abandoning {relation}",
        attempts=migration.settings.retry_attempts if apply else 1,
        log=log,
    )
    if apply:
        return done
    with open_ledger(migration, "abandon:code") as base:
        return replace(done, confirmation=give_code(base, _deed(relation), examined, run_id=run_id))


def _deed(relation: str) -> Deed:
    how = (
        "`migration-assets abandon` says what would be done, and gives one; then"
        " `migration-assets abandon --yes --confirm CODE`"
    )
    return Deed(relation, "abandon", "", how)


def clean_legacy(
    migration: Migration,
    *,
    apply: bool = False,
    confirm: str = "",
    name: str | None = None,
    former_identity: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Abandoned:
    """Clean the legacy alone, for a base that is gone; see `clean`.

    The ledger that keeps codes is gone with the base, so the code of a dry run stands for everything that it saw.
    """
    return clean(
        StreamPlan.of(migration),
        apply=apply,
        confirm=confirm,
        name=name,
        former_identity=former_identity,
        on_step=on_step,
    )
