"""`accept`, as a person types it: the gate opens for one named thing, and closes again."""

from dataclasses import replace

import pytest

from migration_assets.defs.jobs import accept_finding
from migration_assets.domain.errors import PreflightError
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.ledger.preflights import record_preflight, require_preflight
from migration_assets_tests.terminal.live_quarter import LiveQuarter

_FINDINGS = [
    Finding("other_publication", Area.LEGACY, Severity.BLOCKING, "it publishes all", "drop it", "the lot", True, "all"),
    Finding("other_publication", Area.LEGACY, Severity.BLOCKING, "it publishes all", "drop it", "rest", True, "some"),
]


@pytest.mark.long
def test_a_finding_is_accepted_by_name_and_taken_back(quarter: LiveQuarter) -> None:
    relation = quarter.ground.spec.relation

    def gate(*, stopped_by: str | None) -> None:
        with quarter.ground.databases.session("base", "test") as base:
            if stopped_by is None:
                require_preflight(base, relation)
                return
            with pytest.raises(PreflightError, match=stopped_by):
                require_preflight(base, relation)

    with quarter.ground.databases.session("base", "test") as base:
        record_preflight(base, relation, _FINDINGS, None)
    try:
        gate(stopped_by="accept other_publication 'the lot' --by NAME")
        unknown = quarter.run("accept", "other_publication", "a third", "--by", "Ada", "--reason", "it may")
        assert unknown.exit_code == 2
        assert "Those that can: other_publication the lot; other_publication rest" in unknown.output.replace("\n", " ")
        assert quarter.run("accept", "other_publication", "rest").exit_code == 2
        for name in ("the lot", "rest"):
            gate(stopped_by="other_publication")
            assert quarter.run("accept", "other_publication", name, "--by", "Ada", "--reason", "it may").exit_code == 0
        gate(stopped_by=None)
        listed = quarter.run("accept")
        assert "the lot" in listed.output
        assert "Ada" in listed.output
        assert quarter.run("accept", "other_publication", "rest", "--withdraw").exit_code == 0
        gate(stopped_by="--reason TEXT")
        kept = quarter.ground.ask(
            "base",
            "SELECT payload->>'subject', payload->>'accepted_by', payload->>'in_force' FROM migration.evidence_chain"
            " WHERE kind = 'acceptance' ORDER BY id",
        )
        assert kept == [("the lot", "Ada", "true"), ("rest", "Ada", "true"), ("rest", None, "false")]
        assert quarter.run("evidence", "verify").exit_code == 0
        config = {"code": "other_publication", "subject": "rest", "accepted_by": "Grace", "reason": "it may"}
        accepted = accept_finding.execute_in_process(
            run_config={"ops": {"accept_one_finding": {"config": config}}}, resources={"migration": quarter.migration}
        )
        assert accepted.success
        gate(stopped_by=None)
        anew = replace(_FINDINGS[1], definition="others")
        with quarter.ground.databases.session("base", "test") as base:
            record_preflight(base, relation, [_FINDINGS[0], anew], None)
        gate(stopped_by="Grace accepted rest at .*; since then it was altered, or made anew")
        assert quarter.run("accept", "other_publication", "rest", "--by", "Ada", "--reason", "too").exit_code == 0
        gate(stopped_by=None)
        assert quarter.run("accept", "other_publication", "rest", "--withdraw").exit_code == 0
        again = quarter.run("accept", "other_publication", "rest", "--withdraw")
        assert again.exit_code == 2
        assert "was not accepted" in again.output
    finally:
        quarter.ground.run(
            "base",
            "DELETE FROM migration.preflights WHERE findings::text LIKE '%other_publication%'",
            "DELETE FROM migration.acceptances",
        )
