"""What writes to the table beside applications and our stream blocks, until its remedy ran or a person accepted it."""

import psycopg

from migration_assets.domain.findings import Acceptance, Finding, Severity, blocking, with_acceptances
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.preflight.other_writers import examine_both
from migration_assets_tests.cutover.strangers import stranger
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.terminal.live_quarter import LiveQuarter

_TOUCH = "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"


def found(quarter: LiveQuarter) -> dict[tuple[str, str], Finding]:
    with looking(quarter) as sides:
        seen = examine_both(sides.legacy, sides.base, sides.spec)
    assert all(one.acceptable for one in seen if one.severity is Severity.BLOCKING)
    return {(one.code, one.subject): one for one in seen if one.severity is Severity.BLOCKING}


def mend(quarter: LiveQuarter, finding: Finding) -> None:
    """Exactly what it says."""
    side = "base" if "on the base: " in finding.remedy else "legacy"
    with psycopg.connect(quarter.ground.databases.url(side), autocommit=True) as client:
        client.execute(finding.remedy.partition(f"on the {side}: ")[2].partition(" --")[0].encode())


def test_triggers_that_fire_for_streams_and_rules_block_until_mended_or_accepted(quarter: LiveQuarter) -> None:
    ground = quarter.ground
    assert found(quarter) == {}, "neither our own triggers, nor our own subscription, nor those of foreign keys"
    for side in ("legacy", "base"):
        ground.run(side, _TOUCH, "CREATE TABLE public.aside (LIKE bookings)")
        ground.run(
            side,
            "CREATE TRIGGER tr BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE TRIGGER copy AFTER INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE TRIGGER plain BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE TRIGGER counted AFTER INSERT ON bookings FOR EACH STATEMENT EXECUTE FUNCTION touch()",
            "ALTER TABLE bookings ENABLE ALWAYS TRIGGER tr, ENABLE REPLICA TRIGGER copy, ENABLE ALWAYS TRIGGER counted",
            "CREATE RULE aside AS ON INSERT TO bookings WHERE new.guests > 99 DO ALSO INSERT INTO aside VALUES (new.*)",
        )
    ground.run("base", "CREATE TRIGGER late AFTER UPDATE ON bookings_fy25_q2_w05 FOR EACH ROW EXECUTE FUNCTION touch()",
               "ALTER TABLE bookings_fy25_q2_w05 ENABLE ALWAYS TRIGGER late",
               # An ordinary one of the root, whose clone on one leaf is not.
               "CREATE TRIGGER sly BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
               "ALTER TABLE bookings_fy25_q2_w07 ENABLE ALWAYS TRIGGER sly")  # fmt: skip
    seen = found(quarter)
    assert seen.keys() == {
        ("always_trigger", "tr"), ("always_trigger", "copy"), ("redirecting_rule", "aside"),
        ("always_trigger_in_base", "tr"), ("always_trigger_in_base", "copy"), ("redirecting_rule_in_base", "aside"),
        ("always_trigger_in_base", "late on public.bookings_fy25_q2_w05"),
        ("always_trigger_in_base", "sly on public.bookings_fy25_q2_w07"),
    }  # fmt: skip
    assert "ENABLE REPLICA" in seen["always_trigger", "copy"].evidence
    at = ground.one("base", "SELECT now()")
    acceptances = [Acceptance(*key, "Ada", "it only counts", at, one.digest) for key, one in seen.items()]
    assert not blocking(with_acceptances(seen.values(), acceptances))
    # What was made anew under the same name, or does something else by now, is another thing.
    ground.run(
        "legacy",
        "DROP TRIGGER copy ON bookings",
        "CREATE TRIGGER copy AFTER INSERT OR DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
        "ALTER TABLE bookings ENABLE REPLICA TRIGGER copy",
        "CREATE OR REPLACE RULE aside AS ON INSERT TO bookings DO INSTEAD NOTHING",
    )
    ground.run("base", _TOUCH.replace("CREATE", "CREATE OR REPLACE").replace("NEW;", "NULL;"))
    waiting = blocking(with_acceptances(found(quarter).values(), acceptances))
    changed = {key for key in seen if key[0].startswith("always_trigger_in_base")}
    assert {(one.code, one.subject) for one in waiting} == {
        ("always_trigger", "copy"), ("redirecting_rule", "aside"), *changed,
    }  # fmt: skip
    for one in seen.values():
        mend(quarter, one)
    assert found(quarter) == {}
    for side in ("legacy", "base"):
        ground.run(side, "DROP FUNCTION public.touch() CASCADE", "DROP TABLE public.aside")


def test_another_subscription_into_either_table_blocks_until_it_is_gone(
    quarter: LiveQuarter, servers: EmbeddedServers
) -> None:
    with stranger(quarter.ground, servers, "legacy", "base"):
        seen = found(quarter)
        assert seen.keys() == {("other_subscription", "stranger"), ("other_subscription_in_base", "stranger")}
        assert "does not go back to the legacy" in seen["other_subscription_in_base", "stranger"].evidence
    assert found(quarter) == {}
