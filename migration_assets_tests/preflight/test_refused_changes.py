"""Other publications of the table, and the replica identity that the stream needs: nobody's updates may fail."""

from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.errors import StreamError
from migration_assets.domain.findings import Severity
from migration_assets.domain.samples import ProblemCode
from migration_assets.domain.stream_watch import View, evaluate
from migration_assets.stream import legacy_side
from migration_assets.watch.look import observe_stream
from migration_assets_tests.ground import Ground
from migration_assets_tests.preflight.conftest import Patient
from migration_assets_tests.stream.rewriting import before

_LISTED: LiteralString = (
    "CREATE PUBLICATION report FOR TABLE bookings (id, booked_at) WHERE (id > 0), rooms"
)  # fmt: skip
_IDENTITY: LiteralString = "SELECT relreplident::text FROM pg_class WHERE oid = 'bookings'::regclass"


def do(ground: Ground, remedy: str) -> None:
    """The remedy, as somebody pastes it who has his own search_path."""
    side, _, statements = remedy.partition(": ")
    with psycopg.connect(ground.databases.url("legacy" if "legacy" in side else "base"), autocommit=True) as session:
        session.execute("SET search_path = pg_catalog")
        session.execute(statements.rpartition("Then, here: ")[2].encode())


def refused(ground: Ground) -> list[str]:
    problems = evaluate(View(observe_stream(ground.databases, ground.spec), ())).problems
    return [f"{one.severity}: {one.what}" for one in problems if one.code is ProblemCode.UPDATES_REFUSED]


def publish(ground: Ground) -> bool:
    """Whether somebody else can publish a part of the legacy's columns at this moment."""
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as stranger:
        stranger.execute("SET lock_timeout = '300ms'")
        try:
            stranger.execute("CREATE PUBLICATION meanwhile FOR TABLE bookings (id)")
        except psycopg.errors.LockNotAvailable:
            return False
        return True


def test_a_column_list_of_another_publication_stops_us_before_it_stops_the_applications(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = patient.with_bookings("CREATE TABLE rooms (id int PRIMARY KEY)", _LISTED).ground
    found = patient.examine()
    assert found.blocking == ["updates_refused"]
    blocked = found.one("updates_refused", "legacy")
    assert (blocked.acceptable, blocked.subject) == (False, "report")
    assert "every UPDATE and DELETE" in blocked.evidence
    assert "guests integer, price numeric, note text" in blocked.remedy
    # Whoever starts the stream all the same, or made the publication after preflight, is refused as well.
    with pytest.raises(StreamError, match="report has a column list") as refusal:
        ground.streamed()
    assert ground.one("legacy", _IDENTITY) == "d", "the replica identity is as it was"
    ground.run("legacy", "UPDATE bookings SET guests = 9", "DELETE FROM bookings WHERE id = 1")
    assert "ALTER PUBLICATION report" in refusal.value.next_step
    do(ground, blocked.remedy)
    assert patient.examine().blocking == []
    filters = "SELECT tablename::text, rowfilter FROM pg_publication_tables WHERE pubname = 'report' ORDER BY 1"
    assert ground.ask("legacy", filters) == [("bookings", "(id > 0)"), ("rooms", None)], "the rest of it is as it was"
    with monkeypatch.context() as patch:
        tried = before(patch, legacy_side, "refused_changes", lambda: publish(ground))
        ground.stream()
        assert tried == [False], "nobody comes between the look at the publications and the replica identity"
    ground.run("legacy", "UPDATE bookings SET guests = 8", "DELETE FROM bookings WHERE id = 2")
    assert refused(ground) == []
    # Made while the stream runs, it makes the applications' changes fail at once: so does the next look.
    ground.run("legacy", "CREATE PUBLICATION late FOR TABLE bookings (id)")
    with pytest.raises(psycopg.Error, match=r"Column list used by the publication"):
        ground.run("legacy", "UPDATE bookings SET guests = 7")
    [told] = refused(ground)
    assert told.startswith("critical: on the legacy, publication late has a column list (id)")
    do(ground, "legacy: " + told.partition(" fails: ")[2])
    ground.run("legacy", "UPDATE bookings SET guests = 7", "DELETE FROM bookings WHERE id = 3")
    assert refused(ground) == []
    ground.assert_same()


@pytest.mark.long
def test_publications_that_go_with_a_full_identity_are_let_be(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE PUBLICATION only_new FOR TABLE bookings (id, booked_at) WITH (publish = 'insert, truncate')",
        "CREATE PUBLICATION part FOR TABLE bookings WHERE (id > 3)",
        "CREATE SCHEMA apart", "CREATE TABLE apart.bookings (id int PRIMARY KEY)",
        "CREATE PUBLICATION apart FOR TABLE apart.bookings (id)",
    )  # fmt: skip
    found = patient.examine()
    assert found.blocking == []
    assert found.severity("updates_refused", "legacy") is Severity.INFO
    patient.ground.streamed()
    patient.legacy("UPDATE bookings SET guests = 9", "DELETE FROM bookings WHERE id = 5")
    patient.ground.assert_same()


@pytest.mark.long
def test_a_publication_of_the_base_that_would_stop_the_apply_worker_is_found_before_and_meanwhile(
    patient: Patient,
) -> None:
    ground = patient.with_bookings("UPDATE bookings SET booked_at = '2024-05-01 12:00+00'").ground
    ground.streamed()
    cases: list[tuple[LiteralString, str]] = [
        ("FOR TABLE bookings (guests) WITH (publish_via_partition_root)", "column list (guests) without the whole"),
        ("FOR TABLE bookings_fy25_q2_w05 (guests)", "column list (guests) without the whole"),
        ("FOR TABLE bookings_fy25_q2 WHERE (guests > 1) WITH (publish_via_partition_root)", "filters rows by (guests)"),
    ]
    for published, word in cases:
        ground.run("base", f"CREATE PUBLICATION theirs {published}")
        blocked = patient.examine().one("updates_refused", "base")
        assert (blocked.severity, word in blocked.evidence) == (Severity.BLOCKING, True), blocked.evidence
        with pytest.raises(psycopg.Error, match=r"used (by|in) the publication"):
            ground.run("base", "UPDATE bookings SET guests = 1")
        [told] = refused(ground)
        assert told.startswith("critical: on the base, publication theirs")
        do(ground, blocked.remedy)
        assert patient.examine().severity("updates_refused", "base") is Severity.INFO
        ground.run("legacy", "UPDATE bookings SET guests = guests + 10")
        ground.assert_same()
        ground.run("base", "DROP PUBLICATION theirs")
    # A leaf that nothing tells the rows of, in a publication that names no table.
    leaf: LiteralString = "ALTER TABLE bookings_fy25_q2_w05 REPLICA IDENTITY "
    ground.run("base", "CREATE PUBLICATION theirs FOR TABLES IN SCHEMA public", leaf + "NOTHING")
    blocked = patient.examine().one("updates_refused", "base")
    assert "publication theirs publishes updates and deletes of a table without replica identity" in blocked.evidence
    do(ground, blocked.remedy)
    assert patient.examine().severity("updates_refused", "base") is Severity.INFO
    ground.run("base", "DROP PUBLICATION theirs", leaf + "DEFAULT")
    # What goes with the leaves' key is let be.
    ground.run("base", "CREATE PUBLICATION theirs FOR TABLE bookings (id, booked_at) WITH (publish_via_partition_root)")
    assert patient.examine().severity("updates_refused", "base") is Severity.INFO
