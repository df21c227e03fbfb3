"""Arrays that remember a NULL they no longer have: copied, followed and proven equal like all others."""

import pytest

from migration_assets_tests.ground import Ground


@pytest.mark.long
def test_an_array_that_lost_its_last_null_is_copied_followed_and_validated(ground: Ground) -> None:
    ground.fill(91)
    ground.run(
        "legacy",
        "ALTER TABLE bookings ADD COLUMN tags text[]",
        "UPDATE bookings SET tags = ARRAY['a', NULL] WHERE id % 3 = 0",
        "UPDATE bookings SET tags[2] = 'b' WHERE id % 3 = 0",
    )
    ground.copy_all()
    ground.stream()
    ground.run(
        "legacy",
        "UPDATE bookings SET tags = ARRAY[NULL, 'c', 'd'] WHERE id % 3 = 1",
        "UPDATE bookings SET tags[1] = 'b' WHERE id % 3 = 1",
    )
    ground.drain()
    assert ground.reconcile().equal
    assert ground.one("base", "SELECT count(*) FROM bookings WHERE tags = '{b,c,d}' OR tags = '{a,b}'") == 61
