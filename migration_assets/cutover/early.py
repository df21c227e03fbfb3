"""Tells of rows of the legacy that no open week can take while the applications write them, not only at the cutover.

From the gate of a cutover on: then every row was seen to be in a week, and what comes later can be told from what was
never brought. Cheap: ends of ranges on the control column's index, and of weeks that left the base the versions of the
rows, where these are few enough. The cutover itself looks at all of it, exactly.
"""

from psycopg import sql

from migration_assets.cutover.accounting import outside_of_legacy, weeks_of
from migration_assets.cutover.left_weeks import (
    AsFound,
    is_unchanged,
    read_left,
    state_of_file,
)
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Connected, require_row

# A look is short; what takes longer is left to the gate.
_SECONDS = 2.0
_ROWS = 500_000


def note_accounted(base: Connected, legacy: Connected, plan: CutoverPlan) -> None:
    """Every row of the legacy was just seen to be in a week: from now on the watch tells of what is in none."""
    file, horizon = state_of_file(legacy, plan.stream)
    base.execute(
        "INSERT INTO migration.accounted (relation, file, horizon) VALUES (%s, %s, %s)"
        " ON CONFLICT (relation) DO UPDATE SET file = excluded.file, horizon = excluded.horizon,"
        " accounted_at = clock_timestamp()",
        [plan.relation, file, horizon],
    )


def find_early(base: Connected, legacy: Connected, plan: CutoverPlan) -> tuple[str, ...] | None:
    """What no open week can take, in words; None before the gate was ever passed.

    Raises:
        psycopg.errors.QueryCanceled: It takes longer than a look may.
    """
    there = base.execute("SELECT to_regclass('migration.accounted') IS NOT NULL").fetchone()
    if not require_row(there, "to_regclass")[0]:
        return None
    known = base.execute(
        "SELECT file, horizon::text FROM migration.accounted WHERE relation = %s", [plan.relation]
    ).fetchone()
    if known is None:
        return None
    weeks = weeks_of(base, plan)
    description = require_table(legacy, plan.stream.spec.table, "legacy")
    with legacy.transaction():
        legacy.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(f"{int(_SECONDS * 1000)}ms")))
        found = [one.what for one in outside_of_legacy(legacy, plan, CutoverKind.CUTOVER, weeks, description)]
    archived = [(week, week.archive) for week in weeks.left if week.archive is not None]
    if sum(archive.native.rows for _, archive in archived) <= _ROWS:
        for week, archive in archived:
            if not is_unchanged(legacy, plan.stream, AsFound(week, archive.native, description, *known)):
                wrong = read_left(legacy, plan.stream, week).wrong
                found += [wrong] if wrong else []
    return tuple(found)
