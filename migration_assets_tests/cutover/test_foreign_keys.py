"""Foreign keys of the legacy: what comes back from the base passes them unseen, and is counted."""

from datetime import UTC, datetime, timedelta

from migration_assets.decommission.obstacles import find_obstacles
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.foreign_keys import count_orphans, orphans_of, read_foreign_keys
from migration_assets.readiness.rules import ReadinessPlan, Sides
from migration_assets.readiness.structure import examine_structure
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.decommission.deed import plan_of


def nowhere(ground: CutoverGround) -> set[str]:
    """The keys that readiness names after a rollback."""
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        of = (require_table(legacy, ground.spec.table, "legacy"), require_table(base, ground.spec.table, "base"))
        plan = ReadinessPlan(datetime.now(UTC), timedelta(hours=1))
        found = examine_structure(Sides(legacy, base, ground.spec, ground.calendar, plan, *of))
    return {one.subject for one in found if one.code == "rows_pointing_nowhere"}


def test_rows_that_a_rollback_leaves_pointing_nowhere_are_counted_before_and_after(ground: CutoverGround) -> None:
    ground.run(
        "legacy",
        'CREATE SCHEMA "Odd ""one"',
        'CREATE TABLE "Odd ""one"."pay;ments" (id int PRIMARY KEY, "Of" bigint REFERENCES bookings ON DELETE CASCADE)',
        'INSERT INTO "Odd ""one"."pay;ments" VALUES (0, NULL), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)',
        "CREATE TABLE sizes (guests int PRIMARY KEY)",
        "INSERT INTO sizes SELECT generate_series(0, 6)",
        "ALTER TABLE bookings ADD CONSTRAINT its_size FOREIGN KEY (guests) REFERENCES sizes",
        "CREATE TABLE empty (booking bigint REFERENCES bookings)",
    )
    label = 'pay;ments_Of_fkey on "Odd ""one"."pay;ments"'
    with ground.databases.session("legacy", "test") as legacy:
        keys = {key.label: key for key in read_foreign_keys(legacy, ground.spec.table)}
        assert keys.keys() == {label, "its_size on public.bookings", "empty_booking_fkey on public.empty"}
        assert keys[label].actions == ("ON DELETE CASCADE",)
        assert [one.rows for one in count_orphans(legacy, list(keys.values()), seconds=20)] == [0, 0, 0]
    ground.cut()
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        found = find_obstacles(base, legacy, plan_of(ground, window=0, quiet=0), "table")
    assert [one.code for one in found] == ["foreign_key", "foreign_key"]
    assert 'ALTER TABLE "Odd ""one"."pay;ments" DROP CONSTRAINT "pay;ments_Of_fkey";' in found[0].remedy
    ground.run("base", "DELETE FROM bookings WHERE id <= 4", "UPDATE bookings SET guests = 99 WHERE id = 9")
    done = ground.back()
    ground.equal()
    with ground.databases.session("base", "test") as base:
        counts = orphans_of(base, done.id)
    assert {key: after for key, (_, after) in counts.items()} == {
        label: 4, "its_size on public.bookings": 1, "empty_booking_fkey on public.empty": 0,
    }  # fmt: skip
    assert all(before is not None for before, _ in counts.values()), "the reverse stream may not have brought all yet"
    assert nowhere(ground) == {label, "its_size on public.bookings"}
    ground.run("legacy", 'DELETE FROM "Odd ""one"."pay;ments" WHERE "Of" <= 4')
    assert nowhere(ground) == {"its_size on public.bookings"}, "what was mended is not told any more"
    # The legacy itself says that all is well.
    assert ground.one("legacy", "SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'f'")
