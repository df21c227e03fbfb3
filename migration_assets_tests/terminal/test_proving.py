"""`validate`, `repair`, `sign-off` and `status` as a person types them, on a real stream."""

import re

import pytest

from migration_assets_tests.ground import wait_for
from migration_assets_tests.terminal.live_quarter import LiveQuarter, lines_of


def _equal(quarter: LiveQuarter) -> bool:
    return quarter.ground.contents("base", 5) == quarter.ground.contents("legacy", 5)


def test_weeks_that_are_equal_have_a_line_each_with_the_cost_of_their_cut(quarter: LiveQuarter) -> None:
    result = quarter.run("validate FY25-Q2 W03-W04 W13")
    assert result.exit_code == 0, result.output
    lines = lines_of(result, r"FY25-Q2\|W\d\d equal  28 rows  \(marker \d+, writers held [\d.]+ ms")
    assert [line[:11] for line in lines] == ["FY25-Q2|W03", "FY25-Q2|W04", "FY25-Q2|W13"]
    assert "3 of 3 weeks are equal." in result.output
    assert {quarter.states()[name] for name in ("W03", "W04", "W13")} == {"validated"}


@pytest.mark.long
def test_damage_is_found_shown_without_values_repaired_undone_and_repaired_again(quarter: LiveQuarter) -> None:
    quarter.damage()
    damaged = quarter.ground.contents("base", 5)
    found = quarter.run("validate FY25-Q2 W04-W05")
    assert found.exit_code == 1, found.output
    assert "FY25-Q2|W05 DIFFERS  1 missing, 0 extra, 1 changed" in found.output
    assert "FY25-Q2|W04 equal" in found.output
    assert lines_of(found, r"^changed +\d+ .*guests, note *$")
    assert "1 of 2 weeks are equal." in found.output
    assert "`migration-assets repair FY25-Q2 W05`" in found.output
    assert "DIFFERED" in quarter.run("status").output

    dry = quarter.run("repair FY25-Q2 W05")
    assert dry.exit_code == 0, dry.output
    assert lines_of(dry, r"^missing +\d+ ")
    assert "Nothing was changed. `migration-assets repair FY25-Q2 W05 --apply` repairs it." in dry.output
    assert quarter.ground.contents("base", 5) == damaged

    mended = quarter.run("repair FY25-Q2 W05 --apply")
    assert mended.exit_code == 0, mended.output
    assert "1 of 1 weeks are equal." in mended.output
    assert _equal(quarter)
    assert quarter.states()["W05"] == "validated"

    number = re.search(r"Repaired \(repair (\d+)\)", mended.output)
    assert number is not None, mended.output
    undone = quarter.run(f"repair --undo {number.group(1)}")
    assert undone.exit_code == 0, undone.output
    assert quarter.ground.contents("base", 5) == damaged
    again = quarter.run(f"repair --undo {number.group(1)}")
    assert again.exit_code == 2
    assert "was undone at" in again.stderr

    assert quarter.run("repair", "FY25-Q2|W05", "--apply").exit_code == 0
    assert _equal(quarter)
    for result in (found, dry, mended, undone):
        assert "very private" not in result.output + result.stderr


def test_a_reconciliation_compares_all_weeks_at_one_cut(quarter: LiveQuarter) -> None:
    equal = quarter.run("validate FY25-Q2 --reconcile")
    assert equal.exit_code == 0, equal.output
    assert lines_of(equal, r"^all +364 +364 +equal *$")
    quarter.damage()
    unequal = quarter.run("validate FY25-Q2 --reconcile")
    assert unequal.exit_code == 1, unequal.output
    assert lines_of(unequal, r"^W05 .*DIFFERS: 1 missing, 0 extra, 1 changed *$")
    assert "NOT equal" in unequal.output
    assert quarter.run("repair FY25-Q2 W05 --apply").exit_code == 0


@pytest.mark.long
def test_a_sign_off_lists_what_is_missing_and_then_prints_its_hash(quarter: LiveQuarter) -> None:
    quarter.damage()
    assert quarter.run("validate FY25-Q2 W05").exit_code == 1
    refused = quarter.run("sign-off", "FY25-Q2", "--approved-by", "Ada")
    assert refused.exit_code == 1, refused.output
    assert "FY25-Q2 cannot be signed off" in refused.output
    assert lines_of(refused, r"^W05 +validation FAILED at")
    assert "Next: repair it" in refused.output
    assert quarter.ground.one("base", "SELECT count(*) FROM migration.sign_offs") == 0

    for command in ("repair FY25-Q2 W05 --apply", "validate FY25-Q2", "validate FY25-Q2 --reconcile"):
        done = quarter.run(command)
        assert done.exit_code == 0, done.output
    signed = quarter.run("sign-off", "FY25-Q2", "--approved-by", "Ada [Lovelace]", "--note", "after a week")
    assert signed.exit_code == 0, signed.output
    [(sha256, note)] = quarter.ground.ask("base", "SELECT sha256, note FROM migration.sign_offs")
    assert f"SHA-256 of the evidence: {sha256}" in signed.output
    assert note == "after a week"
    seen = quarter.run("status").output
    assert "13 signed off" in seen
    assert "signed off by Ada [Lovelace]" in seen


@pytest.mark.long
def test_a_week_that_is_busy_is_said_and_the_others_are_looked_at(quarter: LiveQuarter) -> None:
    with quarter.ground.holding(f"slice {quarter.ground.record(6).lock_key}"):
        result = quarter.run("validate FY25-Q2 W06-W07", MIGRATION_RETRY_ATTEMPTS="1")
    assert result.exit_code == 2, result.output
    assert "FY25-Q2|W06 not validated" in result.output
    assert "FY25-Q2|W07 equal" in result.output
    assert "SliceBusyError" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        "validate", "validate W05", "validate FY25-Q2 W14", "validate FY25-Q2 W07-W03",
        "validate FY25-Q2 W05 --reconcile",
        "validate FY25-Q3 W01", "repair", "repair FY25-Q2", "repair FY25-Q2 W05 --undo 1", "repair --undo 1 --apply",
        "repair --undo 4711", "sign-off FY25-Q2", "sign-off FY25-Q9 --approved-by Ada", "status --every 0",
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_sentence_with_exit_code_2(quarter: LiveQuarter, words: str) -> None:
    before = quarter.states()
    result = quarter.run(words)
    assert result.exit_code == 2, result.output
    assert result.stderr
    assert "Traceback" not in result.output + result.stderr
    assert quarter.states() == before


def test_the_status_says_how_old_a_proof_is_and_what_came_since(quarter: LiveQuarter) -> None:
    assert quarter.run("validate FY25-Q2 W02").exit_code == 0
    inserts = "SELECT n_tup_ins FROM pg_stat_all_tables WHERE relname = 'bookings_fy25_q2_w02'"
    before = quarter.ground.one("base", inserts)
    quarter.ground.run(
        "legacy",
        "INSERT INTO bookings (id, booked_at) SELECT 9000 + n, '2024-04-09' FROM generate_series(1, 3) n",
    )
    wait_for(lambda: quarter.ground.one("base", inserts) >= before + 3, "the leaf's statistics")
    result = quarter.run("status")
    assert result.exit_code == 0, result.output
    assert "stream live for" in result.output
    assert lines_of(result, r"^W02 .*validated [\d.]+ (s|ms) ago; since then 3 changes *$")
    assert lines_of(result, r"^Last \d+ cuts?: writers held p50 [\d.]+ ms, p99 [\d.]+ ms, max")
    # What somebody did to a leaf is no change that anything counts.
    quarter.ground.run("base", "CREATE TABLE public.kept AS TABLE migration.slices")
    quarter.ground.run(
        "base", "UPDATE migration.slices SET definitions = jsonb_set(definitions, '{leaf,filenode}', '1')"
        " WHERE week = 'W02'",
    )  # fmt: skip
    wide = quarter.run("status", COLUMNS="300")
    assert lines_of(wide, r"^W02 .*stale: the leaf was rewritten"), wide.output
    quarter.ground.run(
        "base", "UPDATE migration.slices s SET definitions = k.definitions FROM public.kept k"
        " WHERE k.lock_key = s.lock_key", "DROP TABLE public.kept",
    )  # fmt: skip
