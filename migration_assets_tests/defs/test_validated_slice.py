"""Weeks under CDC: validated, found to differ, shown, repaired, reconciled."""

import pytest

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets_tests.defs.conftest import LEAF, QUARTER, WEEK, Project, check_results, failure_text, table_rows

REPAIR = {"validated_slice": {"action": "REPAIR", "dry_run": False}}
CHANGE = f"UPDATE {LEAF} SET guests = guests + 1, notes = 'secret words' WHERE id = (SELECT min(id) FROM {LEAF})"
LOSE = f"DELETE FROM {LEAF} WHERE id = (SELECT max(id) FROM {LEAF})"
CONTENT = f"SELECT count(*), sum(hashtextextended(b::text, 0)) FROM {LEAF} b"


def test_a_validated_week_has_figures_that_plot_over_the_partitions(streamed: Project) -> None:
    result = streamed.run_job("validate_slices", WEEK)
    assert result.success, failure_text(result)
    [event] = result.asset_materializations_for_node("validated_slice")
    for name in ("rows", "writers_held_ms", "reached_ms", "apply_held_ms", "seconds", "marker"):
        assert isinstance(event.metadata[name].value, int | float), name
    marker = event.metadata["marker"].value
    assert str(event.metadata["result"].value).startswith("validated at 20")
    assert f"marker {marker}, LSN " in str(event.metadata["result"].value)


def test_damage_fails_exactly_its_week_and_lists_the_keys_without_a_value(streamed: Project) -> None:
    weeks = [FiscalWeek(QUARTER, 4), WEEK, FiscalWeek(QUARTER, 6)]
    streamed.on_base(CHANGE)
    streamed.on_base(LOSE)
    results = {week: streamed.run("validated_slice", week) for week in weeks}
    assert [week for week, result in results.items() if not result.success] == [WEEK]
    assert streamed.partitions("validated_slice") == {"W04": "MATERIALIZED", "W05": "FAILED", "W06": "MATERIALIZED"}
    assert check_results(results[WEEK]) == {"row_count_matches": False, "checksum_matches": False}
    [changed_id] = streamed.on_base(f"SELECT min(id) FROM {LEAF}")[0]
    for evaluation in results[WEEK].get_asset_check_evaluations():
        assert evaluation.partition == "FY25-Q2|W05"
        assert [evaluation.metadata[name].value for name in ("missing", "extra", "changed")] == [1, 0, 1]
        assert evaluation.metadata["row_difference"].value == -1
        by_kind = {row["kind"]: row for row in table_rows(evaluation.metadata["differing_keys"])}
        assert set(by_kind) == {"missing", "changed"}
        assert f"id={changed_id}, booked_at=" in by_kind["changed"]["key"]
        assert {"guests", "notes"} <= set(by_kind["changed"]["columns"].split(", "))
    events = "\n".join(str(entry) for entry in streamed.instance.all_logs(results[WEEK].run_id))
    assert "secret words" not in events
    assert "job `repair_slices`" in failure_text(results[WEEK])

    before = streamed.on_base(CONTENT)
    dry = streamed.run_job("repair_slices", WEEK)
    assert not dry.success
    assert "1 missing, 0 extra, 1 changed" in failure_text(dry)
    assert "dry_run: false" in failure_text(dry)
    for evaluation in dry.get_asset_check_evaluations():
        assert len(table_rows(evaluation.metadata["differing_keys"])) == 2
    assert streamed.on_base(CONTENT) == before, "a dry run changes nothing"
    assert streamed.partitions("validated_slice")["W05"] == "FAILED"

    wet = streamed.run_job("repair_slices", WEEK, REPAIR)
    assert wet.success, failure_text(wet)
    assert check_results(wet) == {"row_count_matches": True, "checksum_matches": True}
    [event] = wet.asset_materializations_for_node("validated_slice")
    assert [event.metadata[f"repaired_{kind}"].value for kind in ("missing", "extra", "changed")] == [1, 0, 1]
    assert str(event.metadata["repair"].value).endswith("1 missing, 0 extra, 1 changed")
    assert str(event.metadata["result"].value).startswith("validated at ")
    assert set(streamed.partitions("validated_slice").values()) == {"MATERIALIZED"}
    assert streamed.run("validated_slice", WEEK).success


@pytest.mark.long
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_week_without_differences_stays_green_through_a_repair(streamed: Project, dry_run: bool) -> None:
    config = {"validated_slice": {"action": "REPAIR", "dry_run": dry_run}}
    result = streamed.run_job("repair_slices", WEEK, config)
    assert result.success, failure_text(result)
    [event] = result.asset_materializations_for_node("validated_slice")
    assert event.metadata["repair"].value == "nothing had to be repaired"


@pytest.mark.long
def test_a_quarter_that_differs_fails_and_says_which_weeks(streamed: Project) -> None:
    streamed.on_base(LOSE)
    red = streamed.run("reconciled_quarter", QUARTER)
    assert not red.success
    assert check_results(red) == {"every_week_matches": False, "no_key_is_twice": True}
    assert not red.asset_materializations_for_node("reconciled_quarter")
    assert failure_text(red).startswith("FY25-Q2: differing weeks: W05 (1 missing, 0 extra, 0 changed)")
    evaluation = next(one for one in red.get_asset_check_evaluations() if one.check_name == "every_week_matches")
    rows = table_rows(evaluation.metadata["weeks"])
    assert [row["week"] for row in rows if row["equal"] != "yes"] == ["W05"]
    assert len(rows) == 13


@pytest.mark.long
def test_a_key_that_is_there_twice_fails_its_own_check(streamed: Project) -> None:
    names = "string_agg(quote_ident(attname), ', ')"
    streamed.on_base(
        f"DO $$ DECLARE names text; BEGIN SELECT {names} INTO names FROM pg_attribute"
        f" WHERE attrelid = '{LEAF}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        " AND attname <> 'booked_at'; EXECUTE format('INSERT INTO public.amenity_bookings (booked_at, %s)"
        f" OVERRIDING SYSTEM VALUE SELECT timestamptz ''2024-05-07 12:00Z'', %s FROM {LEAF} ORDER BY id LIMIT 1',"
        " names, names); END $$"
    )
    red = streamed.run("reconciled_quarter", QUARTER)
    assert check_results(red) == {"every_week_matches": False, "no_key_is_twice": False}
    [twice] = [one for one in red.get_asset_check_evaluations() if one.check_name == "no_key_is_twice"]
    assert twice.metadata["keys_found_twice"].value == 1
    assert "keys that are in several rows" in failure_text(red)


def test_a_week_under_cdc_is_not_verified_against_its_old_copy_but_sent_to_validation(streamed: Project) -> None:
    text = failure_text(streamed.verify(WEEK))
    assert "only a copied one can be verified so" in text
    assert "validated_slice" in text


@pytest.mark.long
def test_a_week_under_cdc_is_copied_live_and_stays_under_it(streamed: Project) -> None:
    streamed.on_base(LOSE)
    result = streamed.run("migrated_slice", WEEK)
    assert result.success, failure_text(result)
    assert streamed.run("validated_slice", WEEK).success


@pytest.mark.long
def test_a_week_that_is_not_under_cdc_cannot_be_validated_and_says_why(opened_project: Project) -> None:
    text = failure_text(opened_project.run("validated_slice", WEEK))
    assert "the slice is absent, not under CDC" in text
    assert "materialize change_stream for FY25-Q2" in text
