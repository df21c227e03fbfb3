"""Another table altogether, by settings alone: composite key, date column, quoted names, no index but the key's."""

import dagster as dg
import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.runtime import open_migration
from migration_assets.settings import MigrationSettings
from migration_assets_tests.conftest import Databases
from migration_assets_tests.defs.conftest import Project, check_results, copy_weeks

TABLE = '"Front Desk"."Guest ""Visits"""'
LEGACY = f"""
CREATE SCHEMA "Front Desk";
CREATE TYPE "Front Desk"."Mood %" AS ENUM ('so so', 'it''s fine');
CREATE TABLE {TABLE} (
    "House" text COLLATE "C" NOT NULL,
    "No." integer NOT NULL,
    "Visit Day" date NOT NULL,
    "Mood" "Front Desk"."Mood %" NOT NULL DEFAULT 'so so',
    "raw" json,
    "Paid 100%" numeric,
    PRIMARY KEY ("House", "No.")
);
INSERT INTO {TABLE}
SELECT 'house ' || chr(65 + i % 26) || repeat('''', i % 3), i, date '2023-12-20' + i % 100,
       (ARRAY['so so', 'it''s fine'])[1 + i % 2]::"Front Desk"."Mood %",
       CASE WHEN i % 5 > 0 THEN format('{{"a":  %s, "a": "ü"}}', i)::json END, CASE WHEN i % 7 > 0 THEN i / 100.00 END
FROM generate_series(1, 3000) i;
ANALYZE {TABLE};
"""
CONTENT = f"SELECT t::text FROM {TABLE} t ORDER BY 1"
# Fiscal years of this house start in October and carry the year in which they end.
QUARTER = FiscalQuarter(2024, 1)


@pytest.fixture
def other(databases: Databases, instance: dg.DagsterInstance) -> Project:
    with psycopg.connect(databases.legacy_url) as connection:
        connection.execute(LEGACY.encode())
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(databases.legacy_url),
        base_url=SecretStr(databases.base_url),
        table=TABLE,
        control_column="Visit Day",
        fiscal_start_month=10,
        fiscal_time_zone="Europe/Berlin",
    )
    return Project(open_migration(settings), instance)


@pytest.mark.long
def test_another_table_goes_through_by_settings_alone(other: Project) -> None:
    assert other.run("preflight").success
    assert other.instance.get_dynamic_partitions("fiscal_quarter") == ["FY24-Q1", "FY24-Q2"]
    for key in other.instance.get_dynamic_partitions("fiscal_quarter"):
        quarter = FiscalQuarter.parse(key)
        assert other.run("quarter_partitions", quarter).success
        *most, last = other.migration.calendar.weeks_of(quarter)
        copy_weeks(other.migration, most)
        result = other.run("migrated_slice", last)
        assert result.success
        assert check_results(result) == {"row_count_matches": True, "checksum_matches": True}
    with psycopg.connect(other.migration.databases.legacy_url) as legacy:
        expected = legacy.execute(CONTENT.encode()).fetchall()
    assert len(expected) == 3000
    assert other.on_base(CONTENT) == expected
    assert other.verify(FiscalWeek(QUARTER, 1)).success
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = '{}'::regclass"
    assert other.on_base(key.format(TABLE.replace("'", "''"))) == [('PRIMARY KEY ("House", "No.", "Visit Day")',)]
