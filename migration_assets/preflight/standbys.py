"""Whether a server has standbys, and what it would mean if one of them took its place."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.wording import info
from migration_assets.stream.slots import has_failover_slots

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
# A sender of logical changes belongs to a database, with and without a slot; one to a standby belongs to none.
# The names of physical slots are what synchronized_standby_slots wants.
_STANDBYS = """
SELECT (SELECT count(*) FROM pg_stat_replication r JOIN pg_stat_activity a USING (pid) WHERE a.datid IS NULL),
       (SELECT array_agg(slot_name::text ORDER BY slot_name) FROM pg_replication_slots WHERE slot_type = 'physical'),
       coalesce(current_setting('synchronized_standby_slots', true), '')
"""
_AFTER = "afterwards `migration-assets stream recover --by NAME` trues up every week, and until then no step goes on"


def examine_standbys(connection: Connected, side: Side) -> list[Finding]:
    """One finding: none, or how many, and what a failover would cost the stream."""
    running, found, waited_for = require_row(connection.execute(_STANDBYS).fetchone(), "the standbys")
    slots: list[str] = found or []
    if not running and not slots:
        return [info("standbys", _AREA[side], f"the {side} has no standby and no physical slot")]
    seen = f"{running} standbys follow the {side}, {len(slots)} physical slots" + (
        f" ({', '.join(slots)})" if slots else ""
    )
    if side == "base":
        evidence = f"{seen}: one that lags when it is promoted lacks changes that the stream does not send again"
        remedy = f"before a planned switchover let it catch up; {_AFTER}"
    elif not has_failover_slots(connection):
        evidence = f"{seen}: before PostgreSQL 17 a failover loses the stream's slot"
        remedy = f"plan switchovers of the legacy outside of the migration; {_AFTER}"
    elif waited_for.strip():
        evidence = f"{seen}: the stream's slot outlives a failover to one that synchronizes slots, and the base is"
        evidence += f" never ahead of {waited_for}"
        return [info("standbys", _AREA[side], evidence)]
    else:
        evidence = f"{seen}: the stream's slot may outlive a failover, but the base may be ahead of the standby by then"
        names = ", ".join(slots) or "the standby's slot"
        remedy = (
            f"ALTER SYSTEM SET synchronized_standby_slots = '{names}'; SELECT pg_reload_conf(); and on the standby"
            " sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name, and dbname in"
            f" primary_conninfo; {_AFTER}"
        )
    return [Finding("standbys", _AREA[side], Severity.WARNING, evidence, remedy)]
