"""The reference pages are what the code says now."""

import re

import pytest

from migration_assets.domain.samples import ALERTS, ProblemCode
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.settings import MigrationSettings
from migration_assets_tests.documentation.reference import FROM_CODE, LEDGER, PAGES, ledger_page, runs_page
from migration_assets_tests.ground import Ground

_STALE = "docs/reference/{} is stale: run `make reference` and commit what it writes"


@pytest.mark.parametrize("name", FROM_CODE)
def test_a_page_says_what_the_code_says(name: str) -> None:
    assert (PAGES / name).read_text() == FROM_CODE[name](), _STALE.format(name)


def test_the_ledgers_page_says_what_a_base_has(ground: Ground) -> None:
    with ground.databases.session("base", "test") as base:
        ensure_ledger(base)
        assert (PAGES / LEDGER).read_text() == ledger_page(base), _STALE.format(LEDGER)


def test_no_page_is_left_of_what_is_there_no_more() -> None:
    assert {path.name for path in PAGES.glob("*.md")} == {*FROM_CODE, LEDGER}


def test_every_setting_config_field_and_alert_has_a_meaning() -> None:
    assert [line for line in runs_page().splitlines() if re.fullmatch(r"\| `\w+` \|\s*\|", line)] == []
    assert [name for name, field in MigrationSettings.model_fields.items() if not field.description] == []
    assert set(ALERTS) == set(ProblemCode)
