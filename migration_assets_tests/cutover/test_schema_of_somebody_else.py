"""Somebody else's objects in schema `migration`: a cutover stops before anybody is held, and can be left again."""

import pytest

from migration_assets.abandon.abandon import abandon
from migration_assets.domain.errors import MigrationError
from migration_assets_tests.cutover.ground import CutoverGround

_BODY = "SELECT prosrc FROM pg_proc WHERE oid = 'migration.refuse_writes()'::regprocedure"


@pytest.mark.long
def test_their_function_is_not_replaced_and_the_cutover_can_be_left_and_had_later(ground: CutoverGround) -> None:
    ground.run(
        "legacy",
        "CREATE TABLE migration.customers (x int)",
        "CREATE TABLE migration.holds (id int)",
        "INSERT INTO migration.holds VALUES (7)",
        "CREATE FUNCTION migration.refuse_writes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER keep BEFORE INSERT ON migration.customers FOR EACH ROW"
        " EXECUTE FUNCTION migration.refuse_writes()",
    )
    with pytest.raises(MigrationError, match=r"somebody else's objects.*table migration\.holds of"):
        ground.cut(rehearse=True)
    assert ground.one("legacy", _BODY) == "BEGIN RETURN NEW; END"
    ground.run("legacy", "INSERT INTO migration.customers VALUES (8)")
    assert ground.records()[-1].outcome == "aborted"
    assert ground.records()[-1].held_at is None, "nobody was held for it"
    assert ground.watch() is None
    ground.insert("legacy")
    # Where a cutover was left by a dead process all the same.
    ground.run("base", "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, state)"
               " VALUES ('public.bookings', 'cutover', true, 'Ada', 'held')")  # fmt: skip
    ground.let_go()
    assert ground.records()[-1].outcome == "aborted"
    abandon(ground.plan, apply=True)
    assert ground.one("legacy", "SELECT id FROM migration.holds") == 7, "what is not ours is not dropped"
    ground.run("legacy", "INSERT INTO migration.customers VALUES (9)")
    assert ground.one("legacy", "SELECT to_regclass('migration.markers') IS NULL")
    ground.run(
        "legacy",
        "ALTER TABLE migration.holds RENAME TO their_holds",
        "ALTER FUNCTION migration.refuse_writes() RENAME TO their_function",
    )
    ground.stream()
    assert ground.cut(rehearse=True).outcome == "rehearsed"
    ground.run("legacy", "INSERT INTO migration.customers VALUES (10)")
