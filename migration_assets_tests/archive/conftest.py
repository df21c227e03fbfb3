"""One signed-off quarter for a whole module: every test takes a week of its own."""

from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.runtime import Migration
from migration_assets_tests.clones import Clones
from migration_assets_tests.defs.conftest import quarter_under_cdc

QUARTER = FiscalQuarter(2025, 2)
WEEKS = tuple(FiscalWeek(QUARTER, number) for number in range(1, 14))
LATER = datetime(2024, 11, 1, tzinfo=UTC)
# In W04: what no exact type can carry, and what is easily lost.
ODD = """
UPDATE public.amenity_bookings SET price = 'NaN', discount = 'Infinity', tags = '{{a,b},{c,NULL}}', notes = ''
 WHERE id = (SELECT min(id) FROM public.amenity_bookings WHERE booked_at >= '2024-04-22' AND booked_at < '2024-04-29');
UPDATE public.amenity_bookings SET discount = 12345678901234567890123456.5, tags = '[0:1]={x,y}', notes = NULL,
       updated_at = '-infinity', ends_at = 'infinity', metadata = '{"a": [1.10, null, "\\u00e9\\n"]}'
 WHERE id = (SELECT max(id) FROM public.amenity_bookings WHERE booked_at >= '2024-04-22' AND booked_at < '2024-04-29');
"""


def with_settings(migration: Migration, **changes: object) -> Migration:
    """The same migration under other settings."""
    return replace(migration, settings=migration.settings.model_copy(update=changes))


@pytest.fixture(scope="module")
def signed(clones: Clones, tmp_path_factory: pytest.TempPathFactory) -> Generator[Migration]:
    """FY25-Q2 signed off, half a year ago by the clock of the settings; one quarter stays in the base."""
    folder = tmp_path_factory.mktemp("archiving")
    with quarter_under_cdc(clones) as plain:
        migration = with_settings(
            plain,
            var=folder / "var",
            archive_url=SecretStr(str(folder / "archive")),
            as_of=LATER,
            retention_quarters=1,
        )
        with psycopg.connect(migration.databases.legacy_url) as connection:
            connection.execute(ODD)
        assert reconcile_quarter(migration, QUARTER).equal
        sign_off_quarter(migration, QUARTER, "Ada Lovelace", "")
        yield migration
