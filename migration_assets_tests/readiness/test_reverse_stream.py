"""What the reverse stream will need, and a sequence that other tables draw from; what rights it needs: `weak_roles`."""

from migration_assets.domain.findings import Severity
from migration_assets.readiness.reverse_stream import examine_reverse
from migration_assets.readiness.structure import examine_sequences
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.readiness.test_data import wrong
from migration_assets_tests.terminal.live_quarter import LiveQuarter


def test_servers_and_rights_that_are_enough_are_said_to_be(quarter: LiveQuarter) -> None:
    with looking(quarter) as sides:
        found = examine_reverse(sides)
    assert wrong(found) == {}
    assert {one.code for one in found} == {
        "base_publishes", "base_slots", "base_slot_wal_limit", "legacy_apply_workers", "base_replication_right",
        "base_ownership", "legacy_subscription_right", "legacy_ownership", "reverse_password", "sequence_rights",
        "apply_worker_settings", "walsender_settings", "base_identity",
    }  # fmt: skip


def test_slots_that_are_all_taken_block(quarter: LiveQuarter) -> None:
    base = quarter.ground.databases
    with base.session("base", "test") as session:
        taken = 0
        try:
            while True:
                session.execute("SELECT pg_create_physical_replication_slot(%s)", [f"taken_{taken}"])
                taken += 1
        except Exception as error:  # noqa: BLE001 - until there is none any more
            assert "replication slots are in use" in str(error)  # noqa: PT017
        try:
            with looking(quarter) as sides:
                assert (
                    "in the base: ALTER SYSTEM SET max_replication_slots"
                    in wrong(examine_reverse(sides))["base_slots"].remedy
                )
        finally:
            session.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ '^taken_'"
            )
    with looking(quarter) as sides:
        assert wrong(examine_reverse(sides)) == {}


def test_a_sequence_that_another_table_draws_from_is_a_warning(quarter: LiveQuarter) -> None:
    sequence = quarter.ground.one("legacy", "SELECT pg_get_serial_sequence('public.bookings', 'id')")
    quarter.ground.run("legacy", "CREATE TABLE public.waiting_list (id bigint)")
    with quarter.ground.databases.session("legacy", "test") as legacy:
        legacy.execute(f"ALTER TABLE public.waiting_list ALTER id SET DEFAULT nextval('{sequence}')".encode())
    with looking(quarter) as sides:
        found = wrong(examine_sequences(sides))["shared_sequence"]
    assert found.severity is Severity.WARNING
    assert "waiting_list" in found.evidence
    quarter.ground.run("legacy", "DROP TABLE public.waiting_list")
    with looking(quarter) as sides:
        assert wrong(examine_sequences(sides)) == {}


def test_a_leaf_without_a_replica_identity_blocks_until_its_remedy_was_run(quarter: LiveQuarter) -> None:
    quarter.ground.run("base", "ALTER TABLE bookings_fy25_q2_w03 REPLICA IDENTITY NOTHING")
    with looking(quarter) as sides:
        lacking = wrong(examine_reverse(sides))["base_identity"]
    assert "bookings_fy25_q2_w03" in lacking.evidence
    quarter.ground.run("base", lacking.remedy.removeprefix("in the base: "))  # pyright: ignore[reportArgumentType]
    with looking(quarter) as sides:
        assert wrong(examine_reverse(sides)) == {}
    quarter.ground.run(
        "base",
        "DO $$ DECLARE one regclass; BEGIN FOR one IN SELECT relid FROM pg_partition_tree('public.bookings') LOOP"
        " EXECUTE format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', one); END LOOP; END $$",
    )
