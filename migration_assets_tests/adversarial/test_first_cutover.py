"""A table's very first cutover dies before it has made anything of its own: it can be undone, and run again."""

import pytest

from migration_assets.domain.states import CutoverKind
from migration_assets.ledger.cutovers import begin
from migration_assets_tests.conftest import Databases
from migration_assets_tests.cutover.ground import ground_of


@pytest.mark.long
def test_a_first_cutover_that_died_at_once_is_undone_and_run_again(databases: Databases) -> None:
    ground = ground_of(databases.legacy_url, databases.base_url, rows=91)
    with ground.databases.session("base", "test") as base:
        left = begin(
            base,
            ground.spec.relation,
            CutoverKind.CUTOVER,
            rehearse=False,
            approved_by="Ada",
            run_id=None,
            timeout_seconds=20,
        )
    ground.let_go()
    assert [(record.id, record.outcome) for record in ground.records()] == [(left, "aborted")]
    assert ground.cut().outcome == "succeeded"
    assert ground.charge() == "base"
