"""While writes are held our own triggers fire for streams, too: they are no finding, and what looks like them is."""

from migration_assets.domain.findings import Severity
from migration_assets.preflight.other_writers import examine_both
from migration_assets.quarters.fences import HOLD_ROWS
from migration_assets_tests.cutover.ground import CutoverGround


def found(ground: CutoverGround) -> set[tuple[str, str]]:
    with ground.databases.session("legacy", "test") as legacy, ground.databases.session("base", "test") as base:
        seen = examine_both(legacy, base, ground.spec)
    return {(one.code, one.subject) for one in seen if one.severity is Severity.BLOCKING}


def test_our_own_triggers_are_told_from_what_looks_like_them(ground: CutoverGround) -> None:
    ground.run(
        "legacy",
        "CREATE TABLE rooms (id bigint PRIMARY KEY)",
        "INSERT INTO rooms SELECT id FROM bookings",
        "ALTER TABLE bookings ADD CONSTRAINT room FOREIGN KEY (id) REFERENCES rooms",
    )
    ground.cut()
    assert ground.one("legacy", "SELECT tgenabled::text FROM pg_trigger WHERE tgname = %s", HOLD_ROWS) == "A"
    assert found(ground) == set()
    ground.run(
        "legacy",
        # Ours in another's hands: it would refuse what our own stream brings.
        "CREATE TRIGGER theirs AFTER INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION migration.refuse_rows('a', 'b')",
        "ALTER TABLE bookings ENABLE ALWAYS TRIGGER theirs",
        # Theirs, in the schema that is also ours, under the name of ours.
        "CREATE FUNCTION migration.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP TRIGGER migration_assets_hold_rows ON bookings",
        "CREATE TRIGGER migration_assets_hold_rows AFTER INSERT ON bookings FOR EACH ROW"
        " EXECUTE FUNCTION migration.nothing()",
        "ALTER TABLE bookings ENABLE ALWAYS TRIGGER migration_assets_hold_rows",
        # A foreign key's own, which a superuser lets refuse what a stream brings.
        "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE bookings ENABLE ALWAYS TRIGGER %I', min(tgname))"
        " FROM pg_trigger WHERE tgrelid = 'bookings'::regclass AND tgisinternal); END $$",
    )
    ground.run(
        "base",
        # And the function's name alone.
        "CREATE FUNCTION public.refuse_rows() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP TRIGGER IF EXISTS migration_assets_hold_rows ON bookings_fy25_q2_w05",
        "CREATE TRIGGER migration_assets_hold_rows AFTER INSERT ON bookings_fy25_q2_w05 FOR EACH ROW"
        " EXECUTE FUNCTION public.refuse_rows()",
        "ALTER TABLE bookings_fy25_q2_w05 ENABLE ALWAYS TRIGGER migration_assets_hold_rows",
    )
    seen = found(ground)
    key = {one for one in seen if one[1].startswith("RI_ConstraintTrigger_")}
    assert len(key) == 1
    assert seen - key == {
        ("always_trigger", "theirs"),
        ("always_trigger", HOLD_ROWS),
        ("always_trigger_in_base", f"{HOLD_ROWS} on public.bookings_fy25_q2_w05"),
    }
