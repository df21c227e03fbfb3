"""The gate: refused with a list of what is missing, accepted when all is well, void after a repair."""

import os
import pwd
import socket
from collections.abc import Callable

import pytest

from migration_assets.copying.weeks import copy_week, repair_week, validate_week
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.stream.holding import pause_stream
from migration_assets_tests.defs.conftest import LEAF, QUARTER, WEEK, Project, check_results, failure_text

ADA = {"approved_by": "Ada Lovelace", "note": "seen with my own eyes"}
LOSE = f"DELETE FROM {LEAF} WHERE id = (SELECT max(id) FROM {LEAF})"


def fail_a_week(project: Project) -> None:
    project.on_base(LOSE)
    with pytest.raises(SliceMismatchError):
        validate_week(project.migration, WEEK)


def copy_a_week_again(project: Project) -> None:
    copy_week(project.migration, WEEK)
    # A live copy is proven at its own cut; what is wanted is a look at it afterwards.
    project.on_base("UPDATE migration.slices SET validated_at = NULL, validated_equal = NULL WHERE week = 'W05'")


def let_a_week_grow_old(project: Project) -> None:
    project.on_base("UPDATE migration.slices SET validated_at = validated_at - interval '25 hours' WHERE week = 'W05'")


def hold_the_stream(project: Project) -> None:
    pause_stream(project.migration, "a test")


def disable_the_subscription(project: Project) -> None:
    project.on_base(f"ALTER SUBSCRIPTION {project.subscription()} DISABLE")


OBSTACLES: dict[str, tuple[Callable[[Project], None], str]] = {
    "one week failed": (fail_a_week, "FY25-Q2|W05"),
    "one week was never validated": (copy_a_week_again, "FY25-Q2|W05"),
    "one week is stale": (let_a_week_grow_old, "FY25-Q2|W05"),
    "the stream is held": (hold_the_stream, "held"),
    "the stream is down": (disable_the_subscription, "is disabled"),
}


@pytest.mark.long
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_it_is_refused_with_what_is_missing(streamed: Project, obstacle: str) -> None:
    assert reconcile_quarter(streamed.migration, QUARTER).equal
    hinder, named = OBSTACLES[obstacle]
    hinder(streamed)
    refused = streamed.run("sign_off", QUARTER, ADA)
    assert not refused.success
    assert not refused.asset_materializations_for_node("sign_off")
    text = failure_text(refused)
    assert "cannot be signed off" in text
    assert named in text
    assert "Next: " in text


@pytest.mark.long
def test_everything_that_is_missing_is_listed_at_once(streamed: Project) -> None:
    assert reconcile_quarter(streamed.migration, QUARTER).equal
    fail_a_week(streamed)
    disable_the_subscription(streamed)
    text = failure_text(streamed.run("sign_off", QUARTER, {"approved_by": " "}))
    for named in ("approved_by", "FY25-Q2|W05", "is disabled"):
        assert named in text


def test_it_is_accepted_when_all_is_well_and_void_after_a_repair(streamed: Project) -> None:
    assert reconcile_quarter(streamed.migration, QUARTER).equal
    # As a proxy with single sign-on, or whoever launches runs, says who is there; other tags name nobody.
    signed = streamed.run("sign_off", QUARTER, ADA, {"user": "grace", "dagster/priority": "3"})
    assert signed.success, failure_text(signed)
    assert check_results(signed) == {"still_stands": True}
    [(done_by,)] = streamed.on_base("SELECT done_by FROM migration.sign_offs")
    assert done_by["tags"] == {"user": "grace"}
    assert (done_by["os_user"], done_by["host"]) == (pwd.getpwuid(os.getuid()).pw_name, socket.gethostname())
    [event] = signed.asset_materializations_for_node("sign_off")
    assert event.metadata["approved_by"].value == "Ada Lovelace"
    assert event.metadata["note"].value == "seen with my own eyes"
    assert len(str(event.metadata["sha256"].value)) == 64
    evidence = event.metadata["evidence"].value
    assert isinstance(evidence, dict)
    assert evidence["quarter"] == "FY25-Q2"

    assert streamed.run("validated_slice", WEEK).success
    assert streamed.run_check("sign_off", "still_stands").passed, "another validation voids nothing"
    streamed.on_base(LOSE)
    assert repair_week(streamed.migration, WEEK, dry_run=False).differences.missing == 1
    void = streamed.run_check("sign_off", "still_stands")
    assert not void.passed
    assert void.partition == "FY25-Q2"
    assert "FY25-Q2|W05" in (void.description or "")


@pytest.mark.long
def test_evidence_that_somebody_edited_does_not_stand(streamed: Project) -> None:
    assert reconcile_quarter(streamed.migration, QUARTER).equal
    assert streamed.run("sign_off", QUARTER, ADA).success
    streamed.on_base("UPDATE migration.sign_offs SET evidence = jsonb_set(evidence, '{note}', '\"nothing\"')")
    void = streamed.run_check("sign_off", "still_stands")
    assert not void.passed
    assert "SHA-256" in (void.description or "")


def test_a_quarter_that_nobody_signed_does_not_stand(empty_project: Project) -> None:
    empty_project.instance.add_dynamic_partitions("fiscal_quarter", [QUARTER.key])
    evaluation = empty_project.run_check("sign_off", "still_stands")
    assert not evaluation.passed
    assert evaluation.description == "Nobody has signed the quarter off."
