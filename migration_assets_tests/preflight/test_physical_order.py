"""The prediction of how much is read too much."""

import psycopg
import pytest

from migration_assets.domain.errors import TableSpecError
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.physical_order import PhysicalOrder, read_physical_order
from migration_assets_tests.preflight.conftest import Patient

WEEK = 1 / 13
ORDERED = PhysicalOrder(
    rows=8_000_000, pages=1_000_000, table_bytes=8_192_000_000, index_bytes=0, correlation=1.0, control_index="i"
)


def changed(**changes: object) -> PhysicalOrder:
    return PhysicalOrder(**{**vars(ORDERED), **changes})  # pyright: ignore[reportArgumentType]


def test_perfect_order_reads_what_it_must_in_either_direction() -> None:
    assert ORDERED.read_amplification(WEEK) == 1.0
    assert changed(correlation=-1.0).read_amplification(WEEK) == 1.0


def test_at_eight_rows_a_page_and_random_order_a_week_touches_about_half_of_all_pages() -> None:
    pages = changed(correlation=0.0).read_amplification(WEEK) * WEEK
    assert 0.45 < pages < 0.55


def test_between_order_and_chaos_lies_the_correlation_squared() -> None:
    worst = changed(correlation=0.0).read_amplification(WEEK)
    assert changed(correlation=0.5).read_amplification(WEEK) == pytest.approx(0.25 + 0.75 * worst)


def test_without_an_index_every_week_reads_the_whole_table() -> None:
    assert changed(control_index=None).read_amplification(WEEK) == pytest.approx(13)


def test_a_brin_index_over_random_order_reads_nearly_everything() -> None:
    assert changed(correlation=0.0, pages_per_range=128).read_amplification(WEEK) == pytest.approx(13, rel=0.01)


def test_what_is_unknown_counts_as_the_worst_case() -> None:
    assert changed(rows=None).read_amplification(WEEK) == pytest.approx(13)
    assert changed(correlation=None).read_amplification(WEEK) == changed(correlation=0.0).read_amplification(WEEK)


@pytest.mark.parametrize("fraction", [0.0, 1e-12, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("pages", [0, 1, 2, 1_000_000])
def test_nothing_is_ever_read_better_than_perfectly(fraction: float, pages: int) -> None:
    for index in ("i", None):
        order = changed(pages=pages, correlation=0.1, control_index=index)
        assert 1.0 <= order.read_amplification(fraction) <= max(1, pages)


def test_the_catalogue_is_read_as_it_is(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE TABLE odd (id int, at date)",
        "INSERT INTO odd SELECT n, '2024-01-01' FROM generate_series(1, 5000) n",
        "CREATE TABLE empty (id int, at date)",
    )
    with patient.ground.databases.session("legacy", "test") as legacy:
        bookings = read_physical_order(legacy, QualifiedName("public", "bookings"), "booked_at")
        assert (bookings.rows, bookings.pages, bookings.control_index) == (10, 1, "bookings_booked_at_idx")
        assert bookings.correlation == 1.0
        assert read_physical_order(legacy, QualifiedName("public", "empty"), "at").rows == 0
        with pytest.raises(TableSpecError, match="does not exist"):
            read_physical_order(legacy, QualifiedName("public", "gone"), "at")
        odd = read_physical_order(legacy, QualifiedName("public", "odd"), "at")
        assert (odd.rows, odd.correlation, odd.control_index, odd.bytes_per_row) == (None, None, None, None)


def test_only_an_index_that_finds_every_row_by_the_control_column_counts(patient: Patient) -> None:
    patient.with_bookings("DROP INDEX bookings_booked_at_idx")
    with (
        psycopg.connect(patient.ground.databases.legacy_url, autocommit=True) as connection,
        patient.ground.databases.session("legacy", "test") as legacy,
    ):

        def found() -> tuple[str | None, int | None]:
            order = read_physical_order(legacy, QualifiedName("public", "bookings"), "booked_at")
            return order.control_index, order.pages_per_range

        connection.execute("CREATE INDEX part ON bookings (booked_at) WHERE guests > 1")
        connection.execute("CREATE INDEX second ON bookings (guests, booked_at)")
        connection.execute("CREATE INDEX hashed ON bookings USING hash (booked_at)")
        connection.execute("CREATE INDEX computed ON bookings (date_trunc('day', booked_at, 'UTC'), booked_at)")
        assert found() == (None, None)
        connection.execute("CREATE INDEX coarse ON bookings USING brin (booked_at) WITH (pages_per_range = 16)")
        assert found() == ("coarse", 16)
        connection.execute("CREATE INDEX fine ON bookings (booked_at, id)")
        assert found() == ("fine", None)
