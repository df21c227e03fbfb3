"""The partitions of the assets (fiscal quarters and weeks), and their groups, owners, kinds and pools in the UI."""

from collections.abc import Iterable

import dagster as dg

from migration_assets.domain.fiscal_calendar import WEEK_NAMES, FiscalQuarter, FiscalWeek

QUARTER = "quarter"
WEEK = "week"
QUARTERS_NAME = "fiscal_quarter"

fiscal_quarters = dg.DynamicPartitionsDefinition(name=QUARTERS_NAME)
fiscal_weeks = dg.MultiPartitionsDefinition(
    {QUARTER: fiscal_quarters, WEEK: dg.StaticPartitionsDefinition(list(WEEK_NAMES))}
)
quarter_of_its_weeks = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=QUARTER)


def quarter_of(context: dg.AssetExecutionContext) -> FiscalQuarter:
    """The quarter that a run of a quarter asset works on."""
    return FiscalQuarter.parse(context.partition_key)


def week_of(context: dg.AssetExecutionContext) -> FiscalWeek:
    """The week that a run of a week asset works on."""
    return FiscalWeek.parse(str(context.partition_key))


def partition_key(week: FiscalWeek) -> dg.MultiPartitionKey:
    """Dagster's key of the week: `FY25-Q2|W05`."""
    return dg.MultiPartitionKey({QUARTER: week.quarter.key, WEEK: week.name})


def register_quarters(instance: dg.DagsterInstance, quarters: Iterable[FiscalQuarter]) -> list[FiscalQuarter]:
    """Add the missing keys, oldest first, since Dagster shows keys in the order in which they were added.

    Returns:
        The quarters that were added.
    """
    known = set(instance.get_dynamic_partitions(QUARTERS_NAME))
    missing = sorted(quarter for quarter in set(quarters) if quarter.key not in known)
    if missing:
        instance.add_dynamic_partitions(QUARTERS_NAME, [quarter.key for quarter in missing])
    return missing


OWNERS = ["team:data-platform"]
KINDS = {"postgres"}
PREPARE = "1_prepare"
MIGRATE = "2_migrate"
FOLLOW = "3_follow"
APPROVE = "4_approve"
ARCHIVE = "5_archive"
ARCHIVE_POOL = "archive"
CUT_OVER = "6_cut_over"
