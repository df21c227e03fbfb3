"""The whole story between servers of other versions: stream, sign-off, cutover, writes on the base, and back."""

import psycopg
import pytest

from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.ground import QUARTER, wait_for
from migration_assets_tests.servers.drill import look, migration
from migration_assets_tests.servers.standbys import Spare, spare_servers
from migration_assets_tests.servers.versions import Installed, installed

# None: the embedded one, 16 as the legacy and 18 as the base.
PAIRS = [
    (15, None),
    *(pytest.param(*pair, marks=pytest.mark.soak) for pair in ((15, 15), (17, None), (17, 17), (None, 17))),
]


def programs_of(major: int | None) -> Installed | None:
    if major is None:
        return None
    found = installed(major)
    if found is None:
        pytest.skip(f"PostgreSQL {major} is not on this machine")
    return found


@pytest.mark.long
@pytest.mark.parametrize(("legacy", "base"), PAIRS)
def test_the_whole_story(legacy: int | None, base: int | None) -> None:
    with spare_servers(legacy=programs_of(legacy), base=programs_of(base)) as spare:
        tell(spare)


def tell(spare: Spare) -> None:
    name = "other_versions"
    spare.recreate(name)
    ground = CutoverGround(Databases(spare.url("legacy", name), spare.url("base", name)))
    ground.fill(182)
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), 182)")
    ground.open()
    ground.copy(5)
    ground.streamed()
    ground.run(
        "legacy",
        "INSERT INTO bookings (booked_at, note) VALUES ('2024-05-01Z', repeat('x', 5000))",
        "UPDATE bookings SET booked_at = booked_at + interval '20 days' WHERE id % 13 = 0 AND id < 61",
        "DELETE FROM bookings WHERE id % 11 = 0",
    )
    ground.run("base", "UPDATE bookings SET guests = 99 WHERE id = 31")
    ground.drain()
    assert ground.repair(5).differences.changed == 1
    ground.copy(6)
    assert ground.reconcile().equal
    assert look(ground)[1] == {}
    assert sign_off_quarter(migration(ground), QUARTER, "Ada").approved_by == "Ada"
    assert ground.cut(rehearse=True, timeout_seconds=120).outcome == "rehearsed"
    ground.insert("legacy")
    assert ground.cut(timeout_seconds=120).outcome == "succeeded"
    for everybody in ("", "SET session_replication_role = replica; "):
        with pytest.raises(psycopg.Error, match="writes to bookings are held on the legacy"):
            ground.run("legacy", everybody + "UPDATE bookings SET guests = 1")
        with pytest.raises(psycopg.Error, match="would not reach the legacy"):
            ground.run("base", everybody + "TRUNCATE bookings_fy25_q2_w05")
    ground.insert("base")
    ground.run(
        "base",
        "UPDATE bookings SET booked_at = booked_at - interval '20 days' WHERE id IN (34, 51, 68, 85)",
        "UPDATE bookings SET price = 'NaN' WHERE id % 19 = 0",
        "DELETE FROM bookings WHERE id % 23 = 0",
    )
    wait_for(lambda: ground.contents("legacy") == ground.contents("base"), "the legacy follows")
    assert look(ground)[1] == {}
    assert ground.back(timeout_seconds=120).outcome == "succeeded"
    ground.insert("legacy")
    ground.assert_same()
    assert ground.reconcile().equal
    assert look(ground)[1] == {}
