"""How long ago it was last seen that an archive can be brought back."""

from dataclasses import dataclass

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.ledger.archives import read_trials
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.runtime import Migration

_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Trial:
    """The newest occasion on which the archive's rows were seen to come back: `what` it was, and how it ended.

    `age_days` by the clock of the settings, 0 for what lies in its future; `drills` counts all of them.
    """

    what: str
    equal: bool
    error: str | None
    age_days: float
    drills: int


def last_trial(migration: Migration, week: FiscalWeek) -> Trial | None:
    """The newest drill or restore of the week's archive, or its making; None where there is no archive."""
    with migration.databases.session("base", f"{week.key}:drills") as base:
        ensure_ledger(base)
        found = read_trials(base, migration.spec.relation, week)
    if not found:
        return None
    newest = found[-1]
    return Trial(
        newest.kind,
        newest.equal,
        newest.error,
        max(0.0, (migration.now() - newest.at).total_seconds() / _SECONDS_A_DAY),
        sum(trial.kind == "drill" for trial in found),
    )
