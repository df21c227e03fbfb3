"""Examines whether every quarter that holds rows is signed off, and whether that still stands and is fresh."""

from psycopg import errors, sql

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.freshness import Freshness
from migration_assets.ledger.definitions import altered_since, table_states
from migration_assets.ledger.slices import SliceRecord, read_slices
from migration_assets.postgres.leaf_changes import changes_by_leaf
from migration_assets.postgres.sessions import require_row
from migration_assets.preflight.wording import info, listed, milliseconds
from migration_assets.proof.sign_offs import last_validation, read_sign_off
from migration_assets.quarters.legacy_weeks import held_quarters
from migration_assets.quarters.runway import attached_leaves, read_partitions
from migration_assets.readiness.known_values import values_in_statistics
from migration_assets.readiness.sides import Sides


def examine_sign_offs(sides: Sides) -> list[Finding]:
    """One finding for each quarter that lacks something, and one for how the quarters were found."""
    of_legacy, how = _held_by_legacy(sides)
    records = read_slices(sides.base, sides.spec.relation)
    of_base = _held_by_base(sides, records)
    held = sorted({*of_legacy, *of_base})
    findings: list[Finding] = []
    for quarter in held:
        mine = [record for record in records if record.week.quarter == quarter]
        where = " and ".join(
            side for side, quarters in (("legacy", of_legacy), ("base", of_base)) if quarter in quarters
        )
        findings += [*_signed(sides, quarter, where, mine), *_fresh(sides, quarter, mine)]
    keys = listed(quarter.key for quarter in held) or "none"
    good = f"quarters that hold rows: {keys} (legacy: {how}; base: exactly)"
    findings.append(info("quarters_held", Area.DATA, good))
    if not held:
        remedy = "see that MIGRATION_TABLE and both URLs are right"
        findings.append(Finding("quarter_signed_off", Area.DATA, Severity.BLOCKING, "no quarter holds a row", remedy))
    return findings


def _held_by_legacy(sides: Sides) -> tuple[set[FiscalQuarter], str]:
    try:
        with sides.legacy.transaction(force_rollback=True):
            sides.legacy.execute(
                "SELECT set_config('statement_timeout', %s, true)", [milliseconds(sides.plan.scan_seconds)]
            )
            return set(held_quarters(sides.legacy, sides.of_legacy, sides.spec, sides.calendar)), "exactly"
    except errors.QueryCanceled:
        values = values_in_statistics(sides)
        return {sides.calendar.quarter_of(value) for value in values}, (
            f"an estimate by statistics, since reading took longer than {sides.plan.scan_seconds:g} s"
        )


def _held_by_base(sides: Sides, records: list[SliceRecord]) -> set[FiscalQuarter]:
    attached = attached_leaves(sides.spec.table, read_partitions(sides.base, sides.spec.table))
    held: set[FiscalQuarter] = set()
    for record in records:
        if record.week in attached and record.week.quarter not in held:
            leaf = sql.Identifier(sides.spec.table.schema, record.leaf)
            row = sides.base.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(leaf)).fetchone()
            if require_row(row, "EXISTS")[0]:
                held.add(record.week.quarter)
    return held


def _signed(sides: Sides, quarter: FiscalQuarter, where: str, records: list[SliceRecord]) -> list[Finding]:
    code = "quarter_signed_off"
    if not records:
        remedy = f"materialize quarter_partitions for {quarter.key}, then all that follows, up to sign_off"
        evidence = f"{quarter.key} holds rows in the {where}, and the base has no place for them"
        return [Finding(code, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    state = read_sign_off(sides.base, sides.spec, quarter)
    if state.signed is None:
        states = ", ".join(sorted({record.state.value for record in records}))
        remedy = f"migration-assets sign-off {quarter.key}: what is missing until then is listed there"
        evidence = f"{quarter.key} holds rows in the {where} and was never signed off; its weeks are {states}"
        return [Finding(code, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    by = f"signed off by {state.signed.approved_by} at {state.signed.signed_at:%Y-%m-%d %H:%M} UTC"
    if state.void:
        remedy = f"validate the weeks it names, reconcile the quarter, then migration-assets sign-off {quarter.key}"
        evidence = f"{quarter.key} was {by}, and that is void: {listed(state.void)}"
        return [Finding(code, Area.DATA, Severity.BLOCKING, evidence, remedy)]
    return [info(code, Area.DATA, f"{quarter.key} is {by}")]


def _fresh(sides: Sides, quarter: FiscalQuarter, records: list[SliceRecord]) -> list[Finding]:
    """Weeks that the stream covers; those that left it rest on their archives."""
    covered = [record for record in records if record.under_cdc]
    now = require_row(sides.base.execute("SELECT clock_timestamp()").fetchone(), "the clock")[0]
    counted = changes_by_leaf(sides.base, sides.spec.table, [record.leaf for record in covered])
    table = sides.spec.table
    proofs = [(record.week, record.leaf, record.definitions) for record in covered]
    altered = altered_since(sides.base, sides.spec, proofs, table_states(sides.legacy, [table]).get(table))
    stale: list[str] = []
    for record in covered:
        last = last_validation(record, counted.get(record.leaf), altered.get(record.week))
        if last.freshness(now=now, max_age=sides.plan.max_age) is not Freshness.FRESH:
            stale.append(f"{record.week.name}: {last.describe(now=now, max_age=sides.plan.max_age)}")
    if not stale:
        return [info("weeks_fresh", Area.DATA, f"{quarter.key}: {len(covered)} weeks under CDC, all validated lately")]
    evidence = f"{quarter.key}: {len(stale)} of {len(covered)} weeks under CDC are not fresh: {listed(stale)}"
    remedy = f"migration-assets validate {quarter.key} (or the schedule ongoing_validation)"
    return [Finding("weeks_fresh", Area.DATA, Severity.BLOCKING, evidence, remedy)]
