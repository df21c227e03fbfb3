"""Checks of the cutover that can be run alone at any time: whether anybody can write, and whether a way back exists."""

import dagster as dg
import psycopg

from migration_assets.defs.assets.legacy_cutover import legacy_cutover
from migration_assets.defs.metadata import Metadata
from migration_assets.domain.errors import MigrationError
from migration_assets.postgres.server_messages import told
from migration_assets.readiness.step import (
    reverse_health,
    reverse_problems,
    side_in_charge,
    writes_held,
)
from migration_assets.runtime import Migration


@dg.asset_check(
    asset=legacy_cutover,
    description=(
        "The side that is in charge accepts the applications' writes, or a cutover that lives holds them for a moment."
        " Red where its process died; says how to release them. Can be run alone."
    ),
)
def writes_are_accepted(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """The servers themselves are asked."""
    try:
        held = writes_held(migration)
    except (psycopg.Error, MigrationError) as error:
        return _not_known(error)
    if held is None:
        return dg.AssetCheckResult(passed=True, description=_accepting(migration))
    metadata: Metadata = {"side": dg.MetadataValue.text(held.side), "next": dg.MetadataValue.text(held.next_step)}
    if held.since is not None:
        metadata["held_since"] = dg.MetadataValue.timestamp(held.since)
    return dg.AssetCheckResult(
        passed=held.alive is True, description=f"{held.what}. Next: {held.next_step}.", metadata=metadata
    )


@dg.asset_check(
    asset=legacy_cutover,
    description=(
        "While the base is in charge: what is written there arrives on the legacy, and its slot is kept, so that a"
        " rollback would find everything. Green while the legacy is in charge: there is no reverse stream then. Can be"
        " run alone."
    ),
)
def reverse_stream_is_healthy(migration: dg.ResourceParam[Migration]) -> dg.AssetCheckResult:
    """One look, with a marker of its own."""
    try:
        health = reverse_health(migration)
    except (psycopg.Error, MigrationError) as error:
        return _not_known(error)
    if health is None:
        return dg.AssetCheckResult(
            passed=True, description="The legacy is in charge: there is no reverse stream, and none is needed."
        )
    problems = reverse_problems(migration, health)
    metadata: Metadata = {
        "enabled": dg.MetadataValue.bool(health.enabled),
        "running": dg.MetadataValue.bool(health.running),
        "marker_arrives": dg.MetadataValue.bool(health.arrives),
        "wal_status": dg.MetadataValue.text(health.wal_status or "no slot"),
    }
    if health.retained_wal_bytes is not None:
        metadata["retained_wal_bytes"] = dg.MetadataValue.int(health.retained_wal_bytes)
    return dg.AssetCheckResult(
        passed=not problems,
        description="A rollback would lose nothing: the legacy follows the base."
        if not problems
        else "A rollback could not be done now: " + "; ".join(problems) + ". Next: mend it while the base is in charge"
        " (`migration-assets rollback` shows it again); what the slot has lost no rollback can bring back.",
        metadata=metadata,
    )


def _accepting(migration: Migration) -> str:
    try:
        return f"The {side_in_charge(migration)} is in charge and accepts writes."
    except psycopg.OperationalError as error:
        # The legacy alone was asked; were the base in charge, it would refuse.
        return f"The legacy accepts writes; the base cannot be reached: {told(error)}"


def _not_known(error: Exception) -> dg.AssetCheckResult:
    """What cannot be seen is not taken for well."""
    return dg.AssetCheckResult(
        passed=False,
        description=f"It cannot be seen now: {told(error)}",
        metadata={"error": dg.MetadataValue.text(type(error).__name__)},
    )
