"""A snapshot that is older than a rewrite of the table sees it empty: nobody may rewrite between our two moments."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg import sql
from pydantic import SecretStr

from migration_assets.archive import archiving
from migration_assets.copying import copying as bulk_copy
from migration_assets.copying import loading as slice_loading
from migration_assets.cutover import comparing
from migration_assets.cutover.comparing import compare_sides, to_compare
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.cutover.work import Deadline
from migration_assets.domain.errors import StreamError
from migration_assets.domain.sign_off import SignOffRefusedError
from migration_assets.domain.states import CutoverKind, Freshness
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.ledger.definitions import altered_since, table_states
from migration_assets.ledger.slices import read_slices
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Side
from migration_assets.proof import reconciliation, repair, validation
from migration_assets.proof.sign_offs import read_week_facts
from migration_assets.stream import joining, slots
from migration_assets.stream import true_up as weeks
from migration_assets_tests.archive.conftest import with_settings
from migration_assets_tests.defs.conftest import migration_of
from migration_assets_tests.ground import QUARTER, Ground, week
from migration_assets_tests.stream.rewriting import REWRITES, before, rewrite

DAY = timedelta(days=1)
SIDES: tuple[Side, Side] = ("legacy", "base")


@pytest.mark.long
def test_a_rewrite_at_every_moment_of_a_first_copy_and_an_activation_waits_or_voids_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.fill().open()
    with monkeypatch.context() as patch:
        tried = before(patch, slice_loading, "pipe_rows", lambda: rewrite(ground, "legacy"))
        assert ground.copy(5).base.rows == 70
        assert tried == [False]
    with monkeypatch.context() as patch:
        # Nobody can lock before the slot is there: what was rewritten until then makes it void.
        between = before(patch, slots, "in_snapshot", lambda: rewrite(ground, "legacy"))
        with pytest.raises(StreamError, match="rewritten at each of 1 attempts to create a slot"):
            ground.streamed()
        assert between == [True]
        assert (
            ground.one("legacy", "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
        )
    with monkeypatch.context() as patch:
        between = before(patch, slots, "in_snapshot", lambda: rewrite(ground, "legacy"))
        held = before(patch, joining, "true_up_joining", lambda: rewrite(ground, "legacy"))
        of_base = before(patch, weeks, "true_up", lambda: rewrite(ground, "base"))
        again = replace(ground, stream_limits=replace(ground.stream_limits, attempts=3))
        assert again.stream().how == "activated"
        assert (between, held, of_base) == ([True], [False], [False])
    ground.assert_same()


@pytest.mark.long
def test_a_rewrite_at_every_moment_of_work_on_a_live_week_waits(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On either side; and no step ends with an emptied week or a false alarm."""
    ground.fill().streamed()

    def both() -> list[bool]:
        return [rewrite(ground, side) for side in SIDES]

    def legacy() -> bool:
        return rewrite(ground, "legacy")

    with monkeypatch.context() as patch:
        tried = before(patch, validation, "prove", both)
        assert ground.validate(5).base.rows == 70
        assert tried == [[False, False]]
    with monkeypatch.context() as patch:
        tried = before(patch, reconciliation, "prove", both, call=2)
        assert ground.reconcile().equal
        assert tried == [[False, False]]
    with monkeypatch.context() as patch:
        tried = before(patch, repair, "true_up", both)
        assert not ground.repair(5).differences.rows
        assert tried == [[False, False]]
    with monkeypatch.context() as patch:
        tried = before(patch, bulk_copy, "true_up", legacy)
        assert ground.copy(5).base.rows == 70
        assert tried == [False]
    with monkeypatch.context() as patch:
        # A partition alone is rewritten by nobody, but emptied.
        ways = (REWRITES[0], "TRUNCATE public.bookings_fy25_q2_w06")
        tried = before(patch, archiving, "profile_slice", lambda: [rewrite(ground, "base", way) for way in ways])
        assert _archived_rows(ground, tmp_path) == 70
        assert tried == [[False, False]]
    with monkeypatch.context() as patch:
        tried = before(patch, comparing, "prove", both, call=2)
        plan = CutoverPlan(ground.plan, timeout_seconds=60)
        with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as other:
            description = require_table(other, ground.spec.table, "legacy")
            deadline = Deadline(60.0, lambda: True)
            compared = compare_sides(plan, CutoverKind.CUTOVER, base, other, description, None, deadline)
        assert compared.rows == 910
        assert tried == [[False, False]]
    ground.assert_same()


def _archived_rows(ground: Ground, folder: Path) -> int:
    with ground.databases.session("base", "test") as base:
        base.execute("UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W06'")
    migration = with_settings(
        migration_of(ground.databases.legacy_url, ground.databases.base_url),
        table="public.bookings",
        archive_url=SecretStr(str(folder)),
    )
    return archiving.archive_week(migration, week(6)).manifest.rows


def test_what_was_altered_or_rewritten_since_its_proof_is_stale_on_either_side(ground: Ground) -> None:
    """The cutover's shortcut compared no week, while all of them differed."""
    ground.fill().streamed()
    for number in (1, 2, 3):
        ground.validate(number)
    ground.drain()
    assert _stale(ground) == {}
    leaf = "bookings_fy25_q2_w02"
    with ground.databases.session("base", "test") as base:
        base.execute(sql.SQL("VACUUM FULL public.{}").format(sql.Identifier(leaf)))
    assert _stale(ground) == {"W02": "the leaf was rewritten"}
    proven = {"W01", "W02", "W03"}
    assert proven & set(_to_compare(ground)) == {"W02"}
    ground.validate(2)
    assert _stale(ground) == {}
    # The shortcut trusts counters only as far as they go back, and no proof that does not say what it saw.
    untold: dict[str, tuple[LiteralString, LiteralString]] = {
        "W01": ("definitions = NULL WHERE week = 'W01'", "definitions = k.definitions"),
        "W02": (
            "validated_changes = s.validated_changes + 1 WHERE week = 'W02'",
            "validated_changes = k.validated_changes",
        ),
        "W03": ("validated_equal = false WHERE week = 'W03'", "validated_equal = true"),
    }
    ground.run("base", "CREATE TABLE kept AS TABLE migration.slices")
    assert not proven & set(_to_compare(ground))
    for name, (change, back) in untold.items():
        ground.run("base", "UPDATE migration.slices s SET " + change)
        assert proven & set(_to_compare(ground)) == {name}
        ground.run("base", f"UPDATE migration.slices s SET {back} FROM kept k WHERE k.lock_key = s.lock_key")
    ground.run("base", "SELECT pg_stat_reset()", "UPDATE migration.slices SET validated_changes = 0")
    assert proven <= set(_to_compare(ground)), "as many changes as then, by counters that began at zero since"
    for number in (1, 2, 3):
        ground.validate(number)
    assert not proven & set(_to_compare(ground))
    # It changes what the stream brings; and so does a rule with the statements of our own repairs.
    ground.run(
        "base",
        "CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := NULL; RETURN NEW; END'",
        "CREATE TRIGGER stamp BEFORE UPDATE ON bookings_fy25_q2_w02 FOR EACH ROW EXECUTE FUNCTION public.stamp()",
    )
    assert _stale(ground) == {}
    ground.run("base", "ALTER TABLE bookings_fy25_q2_w02 ENABLE ALWAYS TRIGGER stamp")
    assert _stale(ground) == {"W02": "the leaf was altered"}
    ground.run(
        "base",
        "DROP TRIGGER stamp ON bookings_fy25_q2_w02",
        "CREATE RULE keep AS ON DELETE TO bookings_fy25_q2_w03 DO INSTEAD NOTHING",
    )
    assert _stale(ground) == {"W03": "the leaf was altered"}
    ground.run("base", "DROP RULE keep ON bookings_fy25_q2_w03")
    assert _stale(ground) == {}
    rewrite(ground, "base", "ALTER TABLE public.bookings ALTER COLUMN note TYPE text USING note || '!'")
    assert set(_to_compare(ground)) >= {"W01", "W02", "W03"}
    with ground.databases.session("base", "test") as base:
        facts = {one.week.name: one for one in read_week_facts(base, ground.spec, QUARTER)}
        fresh = facts["W01"].validation
        now = fresh.at
        assert now is not None
        assert fresh.freshness(now=now, max_age=DAY) is Freshness.ALTERED
        assert "stale: the leaf was rewritten since then" in fresh.describe(now=now, max_age=DAY)
    rewrite(ground, "base", "ALTER TABLE public.bookings ALTER COLUMN note TYPE text USING left(note, -1)")
    ground.validate(1)
    rewrite(ground, "legacy", "ALTER TABLE public.bookings ADD COLUMN more integer DEFAULT 1")
    assert _stale(ground)["W01"] == "the legacy's table was altered"
    assert "W01" in _to_compare(ground)


@pytest.mark.long
def test_nothing_is_signed_off_that_was_rewritten_after_its_proof(ground: Ground) -> None:
    """Neither the weeks' own proofs nor the reconciliation of the quarter, whichever of them is older."""
    ground.fill(91).streamed()
    product = with_settings(
        migration_of(ground.databases.legacy_url, ground.databases.base_url), table="public.bookings"
    )
    ground.reconcile()

    def missing() -> dict[str, str]:
        with pytest.raises(SignOffRefusedError) as caught:
            sign_off_quarter(product, QUARTER, "Ada", stream_problems=[])
        return {one.where: one.what for one in caught.value.missing}

    ground.run("legacy", "VACUUM FULL bookings")
    found = missing()
    assert len(found) == 13 + 1
    assert all("the legacy's table was rewritten" in why for why in found.values()), found
    ground.reconcile()
    ground.run("base", "VACUUM FULL bookings_fy25_q2_w05")
    found = missing()
    assert found.keys() == {week(5).key, f"{QUARTER.key} reconciliation"}
    assert all("the leaf was rewritten" in why for why in found.values()), found
    ground.reconcile()
    # As where each week was validated again, and the quarter was not reconciled.
    ground.run("base", "UPDATE migration.validations SET definitions = jsonb_set(definitions, '{legacy,oid}', '1')")
    assert missing().keys() == {f"{QUARTER.key} reconciliation"}
    ground.reconcile()
    assert sign_off_quarter(product, QUARTER, "Ada", stream_problems=[]).approved_by == "Ada"


_RICH: tuple[LiteralString, ...] = (
    "CREATE TYPE inner_m AS ENUM ('x', 'y')",
    "CREATE TYPE place AS (n int, m inner_m)",
    "CREATE TYPE mood AS ENUM ('a', 'b')",
    "CREATE TYPE label AS ENUM ('k')",
    "CREATE DOMAIN pos AS int",
    "CREATE TYPE span AS RANGE (subtype = pos)",
    "CREATE DOMAIN whole AS int",
    "CREATE TABLE bookings (id bigint PRIMARY KEY, booked_at timestamptz NOT NULL, guests int, price numeric(9, 2))",
    "ALTER TABLE bookings ADD note text, ADD p place, ADD moods mood[], ADD l label, ADD s span, ADD w whole",
    "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE SCHEMA IF NOT EXISTS migration",
    "CREATE FUNCTION migration.theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER theirs BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION migration.theirs()",
)
_ALTERATIONS: tuple[LiteralString, ...] = (
    "ALTER TYPE mood ADD VALUE 'c'",
    "ALTER TYPE mood RENAME VALUE 'a' TO 'first'",
    "ALTER TYPE inner_m ADD VALUE 'z'",
    "ALTER TYPE place RENAME ATTRIBUTE n TO number",
    "ALTER DOMAIN whole SET NOT NULL",
    "ALTER DOMAIN pos RENAME TO positive",
    "ALTER TYPE label RENAME TO tag",
    "ALTER TABLE bookings ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE bookings FORCE ROW LEVEL SECURITY",
    "ALTER TABLE bookings SET UNLOGGED",
    "ALTER TABLE bookings ALTER guests SET NOT NULL",
    "ALTER TABLE bookings ALTER price TYPE numeric(12, 2)",
    'ALTER TABLE bookings ALTER note TYPE text COLLATE "C"',
    "ALTER TABLE bookings RENAME guests TO heads",
    "ALTER TABLE bookings ADD more int DEFAULT 1",
    "ALTER TABLE bookings DROP more",
    "ALTER TABLE bookings ENABLE ALWAYS TRIGGER fill",
    "CREATE OR REPLACE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "ALTER TABLE bookings ENABLE REPLICA TRIGGER fill",
    "ALTER TABLE bookings ENABLE ALWAYS TRIGGER theirs",
    "CREATE RULE keep AS ON DELETE TO bookings DO INSTEAD NOTHING",
)
_HARMLESS: tuple[LiteralString, ...] = (
    "ANALYZE bookings",
    "VACUUM bookings",
    "CREATE INDEX ON bookings (guests)",
    "COMMENT ON TABLE bookings IS 'theirs'",
    "GRANT SELECT ON bookings TO PUBLIC",
    "ALTER TABLE bookings SET (fillfactor = 70)",
    "ALTER TABLE bookings ALTER note SET STATISTICS 50",
    "CREATE TRIGGER fill BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION fill()",
)


@pytest.mark.long
def test_whatever_changes_what_a_value_means_or_who_sees_it_is_an_alteration(ground: Ground) -> None:
    def digest(side: Side) -> str:
        with ground.databases.session(side, "test") as connection:
            return table_states(connection, [ground.spec.table])[ground.spec.table].digest

    for side in SIDES:
        ground.run(side, *_RICH)
    assert digest("legacy") == digest("base"), "nothing in it is of one server alone"
    for statement in _HARMLESS:
        before = digest("base")
        ground.run("base", statement)
        assert digest("base") == before, statement
    for statement in _ALTERATIONS:
        before = digest("base")
        ground.run("base", statement)
        assert digest("base") != before, statement


def _stale(ground: Ground) -> dict[str, str]:
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        records = read_slices(base, ground.spec.relation)
        table = ground.spec.table
        proofs = [(one.week, one.leaf, one.definitions) for one in records if one.week.number < 4]
        found = altered_since(base, ground.spec, proofs, table_states(legacy, [table])[table])
    return {one.name: why for one, why in found.items()}


def _to_compare(ground: Ground) -> list[str]:
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        plan = CutoverPlan(ground.plan, compare_all=False)
        return [record.week.name for record in to_compare(base, legacy, plan)]
