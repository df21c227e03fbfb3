"""Checks of what the base has ahead: red long before an insert could fail. Both can be run alone at any time."""

from collections.abc import Sequence

import dagster as dg

from migration_assets.defs.assets.change_stream import change_stream
from migration_assets.defs.assets.quarter_partitions import quarter_partitions
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.metadata import Metadata
from migration_assets.defs.partitions import fiscal_quarters
from migration_assets.defs.proofs import table
from migration_assets.domain.stream_thresholds import Severity
from migration_assets.quarters.flaws import Flaw
from migration_assets.quarters.outlook import RunwaySeen, see_flaws, see_runway
from migration_assets.runtime import Migration

_NOTHING = "Nothing to look at: no quarter was ever opened in the base."


@dg.asset_check(
    asset=quarter_partitions,
    partitions_def=fiscal_quarters,
    # Within the opener's run a quarter is under CDC only then.
    additional_deps=[change_stream],
    description=(
        "From now on every instant of the next MIGRATION_RUNWAY_DAYS has a leaf, MIGRATION_RUNWAY_QUARTERS quarters are"
        " open, today's included, and where the change stream has reached the present they are under CDC. A warning"
        " below that, an error below a quarter of the days. One look, now; it speaks for the whole table. Can be run"
        " alone."
    ),
)
def runway_is_sufficient(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """How long everything is ready from now on."""
    with readable_failures():
        seen = see_runway(migration)
    if seen.runway is None:
        return dg.AssetCheckResult(passed=False, description=_NOTHING)
    policy = migration.runway_policy
    wanted = f"wanted: {policy.days} days and {policy.quarters} quarters"
    return dg.AssetCheckResult(
        passed=seen.severity is None,
        severity=_severity(seen.severity),
        description=f"{seen.runway}; whole quarters: {seen.runway.quarters}; {wanted}."
        + ("" if seen.severity is None else " Next: see what the last tick of quarter_opener says."),
        metadata=_figures(seen),
    )


@dg.asset_check(
    asset=quarter_partitions,
    partitions_def=fiscal_quarters,
    description=(
        "Every partition of the base is the calendar's and has its bounds, no week between the first and the last open"
        " quarter lacks its leaf unless it was retired, there is no default partition, and no detach was left pending."
        " Reads the catalogue alone; it speaks for the whole table. Can be run alone."
    ),
)
def no_gap_no_overlap(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """The catalogue's bounds against the calendar's."""
    with readable_failures():
        flaws = see_flaws(migration)
    if flaws is None:
        return dg.AssetCheckResult(passed=False, description=_NOTHING)
    critical = any(flaw.severity is Severity.CRITICAL for flaw in flaws)
    return dg.AssetCheckResult(
        passed=not flaws,
        severity=_severity(Severity.CRITICAL if critical or not flaws else Severity.WARNING),
        description="\n".join(f"{flaw.what}. Next: {flaw.next_step}." for flaw in flaws) or None,
        metadata={"flaws": dg.MetadataValue.int(len(flaws)), "list": _flaws_table(flaws)},
    )


def _severity(severity: Severity | None) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.WARN if severity is Severity.WARNING else dg.AssetCheckSeverity.ERROR


def _figures(seen: RunwaySeen) -> Metadata:
    runway, places = seen.runway, seen.places
    if runway is None or places is None:
        return {}
    last = max(places.attached, default=None)
    bound = f"{seen.last_bound:%Y-%m-%d %H:%M} UTC" if seen.last_bound else "none: no leaf is attached"
    return {
        "days": dg.MetadataValue.float(round(runway.days, 3)),
        "quarters": dg.MetadataValue.int(runway.quarters),
        "ends_at": dg.MetadataValue.timestamp(runway.ends_at),
        "ends_with": dg.MetadataValue.text(f"{runway.ends_with.key} {runway.because}"),
        "under_cdc_counts": dg.MetadataValue.bool(runway.followed),
        "last_bound": dg.MetadataValue.text(bound),
        "last_leaf": dg.MetadataValue.text(last.key if last else "none"),
    }


def _flaws_table(flaws: Sequence[Flaw]) -> dg.TableMetadataValue:
    return table(
        ("severity", "what", "next"),
        ({"severity": flaw.severity.value, "what": flaw.what, "next": flaw.next_step} for flaw in flaws),
    )
