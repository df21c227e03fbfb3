"""Indexes, constraints, defaults, and what is not carried: red by cause, green by the remedy itself."""

from collections.abc import Callable

import psycopg
import pytest

from migration_assets.domain.findings import Finding, Severity
from migration_assets.readiness.rules import Sides
from migration_assets.readiness.structure import examine_extensions, examine_statistics, examine_structure
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.readiness.test_data import wrong
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def found(quarter: LiveQuarter, examine: Callable[[Sides], list[Finding]] = examine_structure) -> dict[str, Finding]:
    """Without what every table is told whose key lacks the control column; see below."""
    with looking(quarter) as sides:
        return {code: one for code, one in wrong(examine(sides)).items() if code != "upsert_targets"}


def do(quarter: LiveQuarter, remedy: str) -> None:
    """The remedy, as somebody pastes it."""
    with quarter.ground.databases.session("base", "test") as base:
        base.execute("SET search_path = public")
        base.execute(remedy.removeprefix("in the base: ").encode())


def test_an_index_that_the_base_lacks_blocks_until_its_remedy_was_run(quarter: LiveQuarter) -> None:
    assert found(quarter) == {}
    quarter.ground.run("legacy", "CREATE INDEX by_guests ON bookings (guests DESC) WHERE guests > 2")
    missing = found(quarter)["index_missing"]
    assert "by_guests" in missing.evidence
    do(quarter, missing.remedy)
    assert found(quarter) == {}
    quarter.ground.run("legacy", "DROP INDEX by_guests")
    quarter.ground.run("base", "DROP INDEX by_guests")


def test_an_index_of_the_root_that_some_leaf_lacks_blocks(quarter: LiveQuarter) -> None:
    quarter.ground.run("legacy", "CREATE INDEX by_guests ON bookings (guests)")
    quarter.ground.run("base", "CREATE INDEX by_guests ON ONLY bookings (guests)")
    assert "some partition has none" in found(quarter)["index_invalid"].evidence
    quarter.ground.run("base", "DROP INDEX by_guests", "CREATE INDEX by_guests ON bookings (guests)")
    assert found(quarter) == {}
    quarter.ground.run("legacy", "DROP INDEX by_guests")
    quarter.ground.run("base", "DROP INDEX by_guests")


def test_a_unique_index_that_cannot_be_carried_is_a_warning(quarter: LiveQuarter) -> None:
    quarter.ground.run("legacy", "CREATE UNIQUE INDEX one_note ON bookings (id, note)")
    quarter.ground.run("base", "CREATE INDEX one_note ON bookings (id, note)")
    assert found(quarter)["unique_not_carried"].severity is Severity.WARNING
    quarter.ground.run("legacy", "DROP INDEX one_note")
    quarter.ground.run("base", "DROP INDEX one_note")
    assert found(quarter) == {}


def test_constraints_and_defaults_of_the_legacy_alone_block(quarter: LiveQuarter) -> None:
    quarter.ground.run(
        "legacy",
        "ALTER TABLE bookings ADD CONSTRAINT some_guests CHECK (guests >= 0)",
        "ALTER TABLE bookings ALTER COLUMN note SET DEFAULT 'none'",
        "ALTER TABLE bookings ALTER COLUMN price SET NOT NULL",
    )
    wanting = found(quarter)
    assert set(wanting) == {"check_missing", "default_differs", "not_null_missing"}
    for one in wanting.values():
        assert one.severity is Severity.BLOCKING
        do(quarter, one.remedy)
    assert found(quarter) == {}
    for side in ("legacy", "base"):
        quarter.ground.run(
            side,
            "ALTER TABLE bookings DROP CONSTRAINT some_guests",
            "ALTER TABLE bookings ALTER COLUMN note DROP DEFAULT",
            "ALTER TABLE bookings ALTER COLUMN price DROP NOT NULL",
        )


def test_what_is_not_carried_is_told_until_the_base_has_one_of_that_name(quarter: LiveQuarter) -> None:
    quarter.ground.run(
        "legacy",
        "CREATE TABLE payments (id bigint PRIMARY KEY, booking bigint REFERENCES bookings (id))",
        "CREATE TABLE notes (note text PRIMARY KEY)",
        "ALTER TABLE bookings ADD CONSTRAINT its_note FOREIGN KEY (note) REFERENCES notes NOT VALID",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE POLICY mine ON bookings USING (true)",
        "CREATE RULE quiet AS ON DELETE TO bookings WHERE old.id < 0 DO INSTEAD NOTHING",
    )
    codes = {"incoming_foreign_key", "outgoing_foreign_key", "trigger", "row_security_policy", "rule"}
    told = found(quarter)
    assert set(told) == codes
    key = told["incoming_foreign_key"]
    assert (key.severity, key.acceptable) == (Severity.BLOCKING, True)
    assert key.subject == "payments_booking_fkey on public.payments"
    assert "no_truncate" not in told["trigger"].evidence
    quarter.ground.run(
        "base",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    # Whatever points at the base: the legacy's own key is about the way back.
    quarter.ground.run("base", "CREATE TABLE payments (booking bigint, at timestamptz, CONSTRAINT payments_booking_fkey"
                       " FOREIGN KEY (booking, at) REFERENCES bookings)")  # fmt: skip
    assert set(found(quarter)) == codes - {"trigger"}
    quarter.ground.run("base", "DROP TABLE payments", "DROP TRIGGER touch ON bookings", "DROP FUNCTION touch")
    quarter.ground.run(
        "legacy",
        "DROP TABLE payments", "ALTER TABLE bookings DROP CONSTRAINT its_note", "DROP TABLE notes",
        "DROP TRIGGER touch ON bookings", "DROP FUNCTION touch", "DROP POLICY mine ON bookings",
        "DROP RULE quiet ON bookings",
    )  # fmt: skip
    assert found(quarter) == {}


def test_what_applications_run_into_after_the_cutover_is_told_before_it(quarter: LiveQuarter) -> None:
    quarter.ground.run(
        "legacy",
        "ALTER TABLE bookings SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01)",
        "ALTER TABLE bookings ALTER note SET STATISTICS 1000",
        "ALTER TABLE bookings ALTER guests SET (n_distinct = -0.5)",
        "CREATE VIEW daily AS SELECT date_trunc('day', booked_at) AS day, count(*) FROM bookings GROUP BY 1",
        "CREATE MATERIALIZED VIEW total AS SELECT count(*) FROM bookings",
        "CREATE FUNCTION busy() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM bookings; END",
        "CREATE FUNCTION put(n int) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO bookings (id, booked_at)"
        " VALUES (n, ''2024-05-05'') ON CONFLICT (id) DO NOTHING; END'",
    )
    with looking(quarter) as sides:
        told = {one.code: one for one in examine_structure(sides)}
    upserts = told["upsert_targets"]
    assert (upserts.severity, upserts.subject) == (Severity.WARNING, "id")
    assert "name (id, booked_at) in the base" in upserts.remedy
    insert = "INSERT INTO public.bookings (id, booked_at) VALUES (1, '2024-05-05') ON CONFLICT ({}) DO NOTHING"
    with quarter.ground.databases.session("base", "test") as base:
        with pytest.raises(psycopg.Error, match="no unique or exclusion constraint"):
            base.execute(insert.format("id").encode())
        with base.transaction(force_rollback=True):
            base.execute(insert.format("id, booked_at").encode())
    codes = {"storage_parameter", "statistics_target", "column_option", "view", "materialized_view",
             "function_that_uses_it"}  # fmt: skip
    assert {code for code in codes if told[code].severity is Severity.WARNING} == codes
    assert "public.put(integer)" in told["function_whose_text_names_it"].evidence
    for code in (*codes, "function_whose_text_names_it"):
        do(quarter, told[code].remedy.partition(" In the base: ")[2])
    assert found(quarter) == {}, "what was made on the base is not told any more"
    for side in ("legacy", "base"):
        quarter.ground.run(
            side,
            "DROP VIEW daily", "DROP MATERIALIZED VIEW total", "DROP FUNCTION busy", "DROP FUNCTION put",
            "ALTER TABLE bookings ALTER note SET STATISTICS -1",
        )  # fmt: skip
    reset = "RESET (fillfactor, autovacuum_vacuum_scale_factor)"
    quarter.ground.run(
        "legacy", f"ALTER TABLE bookings {reset}", "ALTER TABLE bookings ALTER guests RESET (n_distinct)"
    )
    for [leaf] in quarter.ground.ask("base", "SELECT relid::text FROM pg_partition_tree('bookings') WHERE isleaf"):
        with quarter.ground.databases.session("base", "test") as base:
            base.execute(f"ALTER TABLE public.{leaf} {reset}, ALTER guests RESET (n_distinct)".encode())
    assert found(quarter) == {}


def test_a_root_or_leaf_that_was_never_analyzed_blocks_and_a_stale_one_warns(quarter: LiveQuarter) -> None:
    assert found(quarter, examine_statistics) == {}
    quarter.ground.run(
        "base",
        "DELETE FROM pg_statistic WHERE starelid = 'bookings'::regclass",
        "UPDATE pg_class SET reltuples = -1 WHERE relname IN ('bookings', 'bookings_fy25_q2_w03')",
    )
    told = found(quarter, examine_statistics)
    assert set(told) == {"root_analyzed", "leaves_analyzed"}
    do(quarter, told["root_analyzed"].remedy)
    assert found(quarter, examine_statistics) == {}


def test_an_extension_that_the_legacys_table_rests_on_must_be_in_the_base(quarter: LiveQuarter) -> None:
    quarter.ground.run(
        "legacy",
        "CREATE EXTENSION vector",
        "ALTER TABLE bookings ADD CONSTRAINT odd CHECK (vector_dims('[1,2]'::vector) = 2)",
    )
    told = found(quarter, examine_extensions)["extension_missing"]
    assert "vector" in told.evidence
    do(quarter, told.remedy)
    assert set(found(quarter, examine_extensions)) <= {"extension_version"}
    quarter.ground.run("legacy", "ALTER TABLE bookings DROP CONSTRAINT odd")
    assert found(quarter, examine_extensions) == {}
    quarter.ground.run("legacy", "DROP EXTENSION vector")
    quarter.ground.run("base", "DROP EXTENSION vector")
