"""Sign-offs, freshness and rows outside: each is red by its cause, and green again when that is mended."""

from typing import LiteralString

import pytest

from migration_assets.domain.findings import Finding, Severity
from migration_assets.readiness.coverage import examine_outside, examine_sign_offs
from migration_assets.readiness.structure import examine_sequences
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def wrong(findings: list[Finding]) -> dict[str, Finding]:
    """Those that are not info, by code."""
    return {one.code: one for one in findings if one.severity is not Severity.INFO}


def sign_offs(quarter: LiveQuarter) -> dict[str, Finding]:
    with looking(quarter) as sides:
        return wrong(examine_sign_offs(sides))


def outside(quarter: LiveQuarter) -> dict[str, Finding]:
    with looking(quarter) as sides:
        return wrong(examine_outside(sides))


def test_a_void_sign_off_blocks(quarter: LiveQuarter) -> None:
    assert sign_offs(quarter) == {}
    quarter.ground.run("base", "UPDATE migration.slices SET state = 'validated' WHERE week = 'W04'")
    found = sign_offs(quarter)["quarter_signed_off"]
    assert found.severity is Severity.BLOCKING
    assert "void" in found.evidence
    assert "W04" in found.evidence
    quarter.ground.run("base", "UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W04'")
    assert sign_offs(quarter) == {}


def test_a_week_that_was_validated_too_long_ago_blocks(quarter: LiveQuarter) -> None:
    quarter.ground.run(
        "base",
        "UPDATE migration.slices SET validated_at = validated_at - interval '2 days',"
        " changed_at = changed_at - interval '3 days' WHERE week = 'W07'",
    )
    found = sign_offs(quarter)["weeks_fresh"]
    assert "W07" in found.evidence
    assert "older than" in found.evidence
    assert "migration-assets validate FY25-Q2" in found.remedy
    quarter.ground.run(
        "base",
        "UPDATE migration.slices SET validated_at = validated_at + interval '2 days',"
        " changed_at = changed_at + interval '3 days' WHERE week = 'W07'",
    )
    assert sign_offs(quarter) == {}


def test_a_week_whose_tables_were_rewritten_since_its_proof_blocks(quarter: LiveQuarter) -> None:
    quarter.ground.run("base", "CREATE TABLE public.kept AS TABLE migration.slices")
    for table, said in (("legacy", "the legacy's table was rewritten"), ("leaf", "the leaf was rewritten")):
        quarter.ground.ask(
            "base",
            "UPDATE migration.slices SET definitions = jsonb_set(definitions, ARRAY[%s, 'filenode'], '1')"
            " WHERE week = 'W07' RETURNING 1",
            table,
        )
        found = sign_offs(quarter)["weeks_fresh"]
        assert found.severity is Severity.BLOCKING
        assert "1 of 13 weeks" in found.evidence
        assert "W07: validated at" in found.evidence
        assert said in found.evidence
        quarter.ground.run(
            "base",
            "UPDATE migration.slices s SET definitions = k.definitions FROM public.kept k"
            " WHERE k.lock_key = s.lock_key",
        )
        assert sign_offs(quarter) == {}
    quarter.ground.run("base", "DROP TABLE public.kept")


@pytest.mark.parametrize("side", ["legacy", "base"])
def test_a_quarter_that_holds_rows_and_was_never_signed_blocks(quarter: LiveQuarter, side: str) -> None:
    ground = quarter.ground
    if side == "legacy":
        ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000001, '2024-08-01')")
    else:
        ground.run("base", "UPDATE migration.sign_offs SET quarter = 'FY25-Q3'")
    found = sign_offs(quarter)["quarter_signed_off"]
    assert found.severity is Severity.BLOCKING
    assert ("FY25-Q3" if side == "legacy" else "FY25-Q2") in found.evidence
    if side == "legacy":
        ground.run("legacy", "DELETE FROM bookings WHERE id = 9000001")
    else:
        ground.run("base", "UPDATE migration.sign_offs SET quarter = 'FY25-Q2'")
    assert sign_offs(quarter) == {}


PLACES: dict[str, LiteralString] = {
    "before the first week": "2024-03-31 23:59:59+00",
    "beyond the last week": "2024-07-01 00:00:00+00",
    "with an infinite time": "infinity",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_row_outside_is_counted_exactly(quarter: LiveQuarter, place: str) -> None:
    assert outside(quarter) == {}
    quarter.ground.ask(
        "legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000002, %s), (9000003, %s) RETURNING 1",
        PLACES[place], PLACES[place],
    )  # fmt: skip
    found = outside(quarter)["rows_outside"]
    assert found.severity is Severity.BLOCKING
    assert f"2 rows {place}" in found.evidence
    assert "exactly, by index bookings_booked_at_idx" in found.evidence
    quarter.ground.run("legacy", "DELETE FROM bookings WHERE id >= 9000002")
    assert outside(quarter) == {}


def test_a_row_in_a_week_that_is_not_followed_lies_between(quarter: LiveQuarter) -> None:
    quarter.ground.run("base", "UPDATE migration.slices SET state = 'copied' WHERE week = 'W05'")
    found = outside(quarter)["rows_outside"]
    assert "28 rows between two weeks" in found.evidence
    quarter.ground.run("base", "UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W05'")
    assert outside(quarter) == {}


def test_null_is_found_and_without_an_index_it_is_said_to_be_an_estimate(quarter: LiveQuarter) -> None:
    ground = quarter.ground
    ground.run("legacy", "ALTER TABLE bookings ALTER COLUMN booked_at DROP NOT NULL")
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000004, NULL)")
    assert "1 row without a time (NULL)" in outside(quarter)["rows_outside"].evidence
    ground.run("legacy", "DELETE FROM bookings WHERE id = 9000004", "DROP INDEX bookings_booked_at_idx")
    # Autovacuum may have been there in between.
    ground.run(
        "legacy",
        "ALTER TABLE bookings SET (autovacuum_enabled = false)",
        "DELETE FROM pg_statistic WHERE starelid = 'bookings'::regclass",
    )
    assert "never analyzed" in outside(quarter)["rows_outside"].evidence
    ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000004, '2031-01-01')", "ANALYZE bookings")
    found = outside(quarter)["rows_outside"]
    assert found.severity is Severity.BLOCKING
    assert "estimate by statistics" in found.evidence
    ground.run("legacy", "DELETE FROM bookings WHERE id = 9000004", "ANALYZE bookings")
    found = outside(quarter)["rows_outside"]
    assert found.severity is Severity.WARNING
    assert "CREATE INDEX CONCURRENTLY" in found.remedy
    ground.run("legacy", "CREATE INDEX bookings_booked_at_idx ON bookings (booked_at)")
    ground.run(
        "legacy",
        "ALTER TABLE bookings ALTER COLUMN booked_at SET NOT NULL",
        "ALTER TABLE bookings RESET (autovacuum_enabled)",
    )
    assert outside(quarter) == {}


def test_sequences_tell_what_they_will_be_set_to_and_lack_nothing(quarter: LiveQuarter) -> None:
    ground = quarter.ground
    with looking(quarter) as sides:
        [told] = examine_sequences(sides)
    assert told.severity is Severity.INFO
    assert "setval('public.bookings_id_seq', 1364)" in told.evidence
    ground.run("base", "ALTER SEQUENCE bookings_id_seq MAXVALUE 1000")
    with looking(quarter) as sides:
        assert "beyond its end" in wrong(examine_sequences(sides))["sequences"].evidence
    ground.run("base", "ALTER SEQUENCE bookings_id_seq MAXVALUE 1400")
    with looking(quarter) as sides:
        assert wrong(examine_sequences(sides))["sequences"].severity is Severity.WARNING
    ground.run("base", "ALTER SEQUENCE bookings_id_seq NO MAXVALUE INCREMENT BY 2")
    with looking(quarter) as sides:
        remedy = wrong(examine_sequences(sides))["sequences"].remedy
    assert "INCREMENT BY 1" in remedy
    ground.run("base", "ALTER SEQUENCE bookings_id_seq INCREMENT BY 1")
    ground.run("base", "ALTER TABLE bookings ALTER COLUMN id DROP IDENTITY")
    with looking(quarter) as sides:
        found = wrong(examine_sequences(sides))["sequences"]
    assert "no sequence in the base" in found.evidence
    with ground.databases.session("base", "test") as base:
        base.execute(found.remedy.removeprefix("in the base: ").encode())
    with looking(quarter) as sides:
        assert wrong(examine_sequences(sides)) == {}
