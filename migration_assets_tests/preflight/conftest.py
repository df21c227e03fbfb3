"""A legacy under examination, and findings by code."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import pytest

from migration_assets.domain.findings import Finding, Severity, blocking
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight
from migration_assets_tests.ground import BOOKINGS, Ground

PLAN = PreflightPlan(as_of=datetime(2024, 6, 24, tzinfo=UTC))


@dataclass(frozen=True)
class Findings:
    """What one preflight found."""

    all: list[Finding]

    def one(self, code: str, area: str | None = None) -> Finding:
        found = [f for f in self.all if f.code == code and area in {None, f.area}]
        assert len(found) == 1, f"{code}: {found}, among {sorted({f.code for f in self.all})}"
        return found[0]

    def severity(self, code: str, area: str | None = None) -> Severity:
        return self.one(code, area).severity

    @property
    def blocking(self) -> list[str]:
        return [f.code for f in blocking(self.all)]

    @property
    def warnings(self) -> list[str]:
        return [f.code for f in self.all if f.severity is Severity.WARNING]

    @property
    def text(self) -> str:
        return repr(self.all)


@dataclass(frozen=True)
class Patient:
    """Both databases, and the plan they are examined for."""

    ground: Ground
    plan: PreflightPlan = PLAN

    def examine(self, **changes: Any) -> Findings:
        return Findings(
            run_preflight(
                self.ground.databases, self.ground.spec, self.ground.calendar, plan=replace(self.plan, **changes)
            )
        )

    def table(self, name: str, control_column: str = "booked_at") -> "Patient":
        return replace(self, ground=replace(self.ground, spec=TableSpec(QualifiedName.parse(name), control_column)))

    def legacy(self, *statements: LiteralString) -> "Patient":
        self.ground.run("legacy", *statements)
        return self

    def base(self, *statements: LiteralString) -> "Patient":
        self.ground.run("base", *statements)
        return self

    def with_bookings(self, *statements: LiteralString) -> "Patient":
        """A small table of 10 rows of one week, and then these statements on the legacy."""
        return self.legacy(
            BOOKINGS,
            "INSERT INTO bookings (booked_at, guests) SELECT '2024-04-02 00:00+00'::timestamptz + n * interval '1 h', n"
            " FROM generate_series(1, 10) n",
            *statements,
            "ANALYZE bookings",
        )


@pytest.fixture
def patient(ground: Ground) -> Patient:
    """Two empty databases."""
    return Patient(ground)


def catalogue_counts(url: str) -> tuple[Any, ...] | None:
    """How much there is in a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_type),"
            " (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_proc),"
            " (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_attribute),"
            " (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_replication_slots)"
        ).fetchone()
