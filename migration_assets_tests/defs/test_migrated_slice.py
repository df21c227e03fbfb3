"""The asset of one week: red when the base differs, green after the same run again."""

import dagster as dg
import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.defs.partitions import register_quarters
from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.embedded.bookings import create_bookings
from migration_assets.ledger.preflights import record_preflight
from migration_assets.ledger.slices import read_slice
from migration_assets.runtime import open_migration
from migration_assets_tests.defs.conftest import QUARTER, WEEK, Project, check_results, failure_text
from migration_assets_tests.ground import reread_of

LEAF = "public.amenity_bookings_fy25_q2_w05"
# Each is done to a week that was copied and proven, as a person or a broken program could do it.
CORRUPTIONS = {
    "a changed value": f"UPDATE {LEAF} SET guests = guests + 1 WHERE id = (SELECT min(id) FROM {LEAF})",
    "a lost row": f"DELETE FROM {LEAF} WHERE id = (SELECT max(id) FROM {LEAF})",
    # The key of the base is (id, booked_at), so that it does not forbid the same booking a microsecond later.
    "a duplicated row": (
        "DO $$ DECLARE names text; BEGIN SELECT string_agg(quote_ident(attname), ', ') INTO names FROM pg_attribute"
        f" WHERE attrelid = '{LEAF}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        " AND attname <> 'booked_at';"
        f" EXECUTE format('INSERT INTO {LEAF} (booked_at, %s) SELECT booked_at + interval ''1 microsecond'', %s"
        f" FROM {LEAF} ORDER BY id LIMIT 1', names, names); END $$"
    ),
    "a shifted hour": (
        f"UPDATE {LEAF} SET booked_at = booked_at - interval '1 hour'"
        f" WHERE id = (SELECT id FROM {LEAF} ORDER BY booked_at DESC LIMIT 1)"
    ),
    "two rows that swapped a value": (
        f"WITH pair AS (SELECT id, price, row_number() OVER (ORDER BY price, id) AS up,"
        f" row_number() OVER (ORDER BY price DESC, id DESC) AS down FROM {LEAF}),"
        " swap AS (SELECT a.id, b.price FROM pair a, pair b"
        " WHERE (a.up = 1 AND b.down = 1) OR (a.down = 1 AND b.up = 1))"
        f" UPDATE {LEAF} t SET price = swap.price FROM swap WHERE t.id = swap.id"
    ),
}
ROW_COUNT_DIFFERS = {"a lost row", "a duplicated row"}


@pytest.mark.long
def test_a_copied_week_is_green_with_figures_that_dagster_can_plot(opened_project: Project) -> None:
    result = opened_project.run("migrated_slice", WEEK)
    assert result.success
    assert check_results(result) == {"row_count_matches": True, "checksum_matches": True}
    [event] = result.asset_materializations_for_node("migrated_slice")
    for name in (
        "dagster/row_count",
        "table_bytes",
        "mb_per_second",
        "gb_per_hour",
        "gb_per_hour_target",
        "seconds_copy",
    ):
        assert isinstance(event.metadata[name].value, int | float), name
    assert event.metadata["legacy_checksum"] == event.metadata["base_checksum"]
    assert event.metadata["gb_per_hour_target"].value == 72.22


@pytest.mark.long
def test_progress_shows_as_observations_of_the_week(opened_project: Project) -> None:
    with_notes = (
        "UPDATE amenity_bookings SET notes = repeat(md5(id::text), 300) WHERE booked_at >= '2024-04-29'"
        " AND booked_at < '2024-05-06'"
    )
    with psycopg.connect(opened_project.migration.databases.legacy_url) as connection:
        connection.execute(with_notes.encode())
    result = opened_project.run("migrated_slice", WEEK)
    observed = [e.asset_observation_data.asset_observation for e in result.all_events if e.is_asset_observation]
    assert observed
    assert {observation.partition for observation in observed} == {"FY25-Q2|W05"}
    assert all(0 <= float(str(observation.metadata["percent"].value)) <= 100 for observation in observed)


@pytest.mark.long(but=1)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_week_turns_red_alone_and_a_second_copy_turns_it_green(
    opened_project: Project, corruption: str
) -> None:
    neighbours = [FiscalWeek(QUARTER, 4), FiscalWeek(QUARTER, 6)]
    for week in [*neighbours, WEEK]:
        assert opened_project.run("migrated_slice", week).success
    opened_project.on_base(CORRUPTIONS[corruption])

    red = opened_project.verify(WEEK)
    assert not red.success
    assert check_results(red) == {"row_count_matches": corruption not in ROW_COUNT_DIFFERS, "checksum_matches": False}
    assert not red.asset_materializations_for_node("migrated_slice"), "the partition must not count as materialized"
    for evaluation in red.get_asset_check_evaluations():
        assert evaluation.partition == "FY25-Q2|W05"
        assert {"legacy_rows", "base_rows", "legacy_checksum", "base_checksum"} <= set(evaluation.metadata)
    assert "replaces the leaf" in failure_text(red)
    assert all(opened_project.verify(week).success for week in neighbours)
    with opened_project.migration.databases.session("base", "test") as base:
        record = read_slice(base, opened_project.migration.spec.relation, WEEK)
    assert record is not None
    assert reread_of(record).equal is False

    green = opened_project.run("migrated_slice", WEEK)
    assert green.success
    assert check_results(green) == {"row_count_matches": True, "checksum_matches": True}
    assert opened_project.verify(WEEK).success


def test_damage_in_transit_is_a_red_check_and_the_base_stays_as_it_was(opened_project: Project) -> None:
    assert opened_project.run("migrated_slice", WEEK).success
    before = opened_project.on_base(f"SELECT count(*), sum(hashtextextended(b::text, 0)) FROM {LEAF} b")
    opened_project.on_base(
        """
        CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.guests := NEW.guests + 1; RETURN NEW; END $$;
        CREATE FUNCTION public.add_meddler() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF to_regclass('migration.amenity_bookings_fy25_q2_w05') IS NOT NULL THEN
                CREATE TRIGGER meddler BEFORE INSERT ON migration.amenity_bookings_fy25_q2_w05
                    FOR EACH ROW EXECUTE FUNCTION public.meddle();
            END IF;
        END $$;
        CREATE EVENT TRIGGER meddling ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
            EXECUTE FUNCTION public.add_meddler();
        """
    )
    red = opened_project.run("migrated_slice", WEEK)
    assert not red.success
    assert check_results(red) == {"row_count_matches": True, "checksum_matches": False}
    assert opened_project.on_base(f"SELECT count(*), sum(hashtextextended(b::text, 0)) FROM {LEAF} b") == before
    opened_project.on_base("DROP EVENT TRIGGER meddling")
    assert opened_project.run("migrated_slice", WEEK).success


def test_nothing_is_copied_without_preflight(project: Project) -> None:
    register_quarters(project.instance, [QUARTER])
    text = failure_text(project.run("quarter_partitions", QUARTER))
    assert "no preflight was taken" in text
    assert "migration-assets preflight" in text


def test_a_blocking_preflight_stops_what_follows_in_a_later_run(opened_project: Project) -> None:
    finding = Finding("wal_level", Area.LEGACY, Severity.BLOCKING, "wal_level is replica", "set it to logical")
    with opened_project.migration.databases.session("base", "test") as base:
        record_preflight(base, opened_project.migration.spec.relation, [finding], None)
    result = opened_project.run("migrated_slice", WEEK)
    assert not result.success
    assert "wal_level is replica" in failure_text(result)
    assert "set it to logical" in failure_text(result)


@pytest.mark.long
def test_a_preflight_that_cannot_reach_the_legacy_shuts_the_gate_as_well(opened_project: Project) -> None:
    settings = opened_project.migration.settings
    nowhere = SecretStr("postgresql://migrator@127.0.0.1:1/legacy")
    broken = Project(open_migration(settings.model_copy(update={"legacy_url": nowhere})), opened_project.instance)
    result = broken.run("preflight")
    assert not result.success
    assert check_results(result) == {"nothing_blocks": False, "nothing_warns": True}
    assert "reachable" in failure_text(result)
    assert "reachable" in failure_text(opened_project.run("migrated_slice", WEEK))
    assert opened_project.run("preflight").success
    assert opened_project.run("migrated_slice", WEEK).success


@pytest.mark.long
def test_a_week_of_a_quarter_that_was_never_opened_says_what_to_do(project: Project) -> None:
    assert project.run("preflight").success
    text = failure_text(project.run("migrated_slice", WEEK))
    assert "materialize quarter_partitions for FY25-Q2" in text


def test_no_secret_reaches_an_event(opened_project: Project) -> None:
    secret = "open sesame"
    wrong = opened_project.migration.databases.legacy_url.replace(
        "migrator@", f"migrator:{secret.replace(' ', '%20')}@"
    )
    settings = opened_project.migration.settings
    broken = Project(
        open_migration(settings.model_copy(update={"legacy_url": SecretStr(wrong)})), opened_project.instance
    )
    result = broken.run("migrated_slice", WEEK)
    assert not result.success
    everything = "\n".join(str(entry) for entry in opened_project.instance.all_logs(result.run_id)) + repr(broken)
    assert "sesame" not in everything
    assert "password authentication failed" in everything


def test_an_empty_week_is_copied_and_proven_like_any_other(opened_project: Project) -> None:
    with psycopg.connect(opened_project.migration.databases.legacy_url) as connection:
        connection.execute("DELETE FROM amenity_bookings WHERE booked_at >= '2024-04-29' AND booked_at < '2024-05-06'")
    result = opened_project.run("migrated_slice", WEEK)
    assert result.success
    assert check_results(result) == {"row_count_matches": True, "checksum_matches": True}
    [event] = result.asset_materializations_for_node("migrated_slice")
    assert event.metadata["dagster/row_count"].value == 0
    assert opened_project.verify(WEEK).success


def test_an_empty_legacy_passes_preflight_and_registers_no_quarter(empty_project: Project) -> None:
    with psycopg.connect(empty_project.migration.databases.legacy_url) as connection:
        create_bookings(connection, rows=0)
    assert empty_project.run("preflight").success
    assert empty_project.instance.get_dynamic_partitions("fiscal_quarter") == []


def test_what_the_legacy_holds_is_estimated_or_counted(opened_project: Project) -> None:
    for config in (None, {"exact": True}):
        result = opened_project.run("legacy_slice", WEEK, config)
        assert result.success
        [event] = result.asset_materializations_for_node("legacy_slice")
        assert event.metadata["figures"].value == ("counted" if config else "the planner's estimate")
        assert isinstance(event, dg.AssetMaterialization)
        assert str(event.metadata["first"].value).startswith("2024-04-29")
        assert int(str(event.metadata["rows"].value)) > 0
