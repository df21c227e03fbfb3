"""Examines what publishing the table will ask of the legacy: its replica identity, and columns that it cannot hold."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.refused_changes import refused_changes
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.servers import version_of
from migration_assets.preflight.wording import (
    info,
    judge,
    listed,
    size,
)
from migration_assets.stream.legacy_side import replica_identity

# From 18 on a replica identity must not hold a generated column that is not published, and the base computes its own.
_STRICT_SINCE = 18
_NAMES = {"d": "the primary key", "n": "nothing", "f": "FULL already"}
_SECONDS_A_DAY = 86_400.0


def examine_publication(legacy: Connected, spec: TableSpec, description: TableDescription) -> list[Finding]:
    """What REPLICA IDENTITY FULL costs here, and whether it is possible at all."""
    generated = [column.name for column in description.columns if column.is_generated]
    major, _ = version_of(legacy)
    possible = not generated or major < _STRICT_SINCE
    return [
        _cost_of_full(legacy, spec),
        *examine_refused_changes(legacy, "legacy", spec),
        judge(
            "generated_columns",
            Area.TABLE,
            f"generated: {listed(generated)}"
            + (
                ""
                if possible
                else f"; on PostgreSQL {major} REPLICA IDENTITY FULL would make every UPDATE and DELETE fail"
            )
            if generated
            else "no generated columns",
            good=possible,
            remedy="make them plain columns on the legacy: "
            + " ".join(f"ALTER TABLE {spec.table} ALTER COLUMN {name} DROP EXPRESSION;" for name in generated)
            + " -- and let a trigger fill them; virtual ones must be dropped",
        ),
    ]


def examine_refused_changes(connection: Connected, side: Side, spec: TableSpec) -> list[Finding]:
    """Publications that do not go with the replica identity which the stream's publisher needs.

    On the legacy that is FULL. On the base it is the one that the leaves have: there the apply worker would fail, and
    after the cutover the applications. There is nothing to accept: with such a publication no change gets through.
    """
    area = Area.LEGACY if side == "legacy" else Area.BASE
    found = refused_changes(connection, spec.table, identity="f" if side == "legacy" else None)
    if not found:
        return [info("updates_refused", area, f"no publication of the {side} makes updates and deletes fail")]
    return [
        Finding("updates_refused", area, Severity.BLOCKING, one.what, f"in the {side}: {one.remedy}", one.publication)
        for one in found
    ]


def _cost_of_full(legacy: Connected, spec: TableSpec) -> Finding:
    """The stream writes the whole old row into the WAL at every update and delete: how much that was lately."""
    row = legacy.execute(
        "SELECT coalesce(t.n_tup_upd + t.n_tup_del, 0)::float8,"
        " pg_table_size(c.oid)::float8 / greatest(c.reltuples::float8, 1),"
        " extract(epoch FROM clock_timestamp() - coalesce(d.stats_reset, pg_postmaster_start_time()))::float8"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_stat_all_tables t ON t.relid = c.oid"
        " JOIN pg_stat_database d ON d.datname = current_database() WHERE n.nspname = %s AND c.relname = %s",
        [spec.table.schema, spec.table.name],
    ).fetchone()
    changes, row_bytes, seconds = require_row(row, "the table's statistics")
    identity = replica_identity(legacy, spec)
    now = _NAMES.get(identity, f"index {identity.removeprefix('i:')}")
    a_day = changes / max(seconds, 1.0) * _SECONDS_A_DAY
    return info(
        "replica_identity",
        Area.TABLE,
        f"it is {now}; the change stream sets FULL, under an exclusive lock of an instant. Every update and delete then"
        f" writes its old row into the WAL, too: about {size(row_bytes)} each, {size(a_day * row_bytes)} a day at"
        f" {a_day:,.0f} updates and deletes a day, as the statistics have it",
    )
