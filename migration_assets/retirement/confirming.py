"""What the code for letting a week leave is bound to: the files that hold its rows, and what would become of it now."""

from datetime import timedelta
from typing import Any

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import read_archive
from migration_assets.ledger.retirements import read_retirement
from migration_assets.postgres.sessions import Connected


def examined_week(base: Connected, relation: str, week: FiscalWeek, quarantine: timedelta) -> dict[str, Any]:
    """Its archive, its quarter's sign-off, how far it has got, and how long it would lie in quarantine."""
    archive = read_archive(base, relation, week)
    retirement = read_retirement(base, relation, week)
    signed = base.execute(
        "SELECT max(id) FROM migration.sign_offs WHERE relation = %s AND quarter = %s", [relation, week.quarter.key]
    ).fetchone()
    return {
        "the archive": None if archive is None else [archive.generation, archive.manifest_sha256],
        "the sign-off": signed and signed[0],
        "where the week is": retirement.step if retirement and retirement.under_way else "in the root",
        "the time in quarantine": str(quarantine),
    }
