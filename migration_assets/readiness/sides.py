"""What every examination of readiness is given: a session on each side, and the table as each describes it."""

from dataclasses import dataclass

from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.readiness import ReadinessPlan
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Connected


@dataclass(frozen=True)
class Sides:
    """Both sides; nothing is ever written to either."""

    legacy: Connected
    base: Connected
    spec: TableSpec
    calendar: FiscalCalendar
    plan: ReadinessPlan
    of_legacy: TableDescription
    of_base: TableDescription
