"""What grows with the table, or with the time since the cutover began, is done before writes are held, or refused."""

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from migration_assets.cutover import comparing, stages
from migration_assets.cutover.comparing import to_compare
from migration_assets.cutover.estimate import estimate_comparison
from migration_assets.cutover.reverse import NEAR_BYTES, reverse_distance
from migration_assets.cutover.stages import require_counted
from migration_assets.cutover.work import Work
from migration_assets.domain.states import CutoverError, CutoverState
from migration_assets.ledger.proofs import Proof
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.proof import validation
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.ordeal import settle_down
from migration_assets_tests.ground import wait_for


def at(monkeypatch: pytest.MonkeyPatch, state: CutoverState, happens: Callable[[Work], object]) -> None:
    original = stages.STAGES[state]

    def deed(work: Work) -> None:
        happens(work)
        original(work)

    monkeypatch.setitem(stages.STAGES, state, deed)  # pyright: ignore[reportArgumentType]


def weeks_to_compare(ground: CutoverGround) -> list[str]:
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        return [record.week.name for record in to_compare(base, legacy, ground.cutover_plan(compare_all=False))]


def validated(ground: CutoverGround) -> CutoverGround:
    """All weeks. The server counts the changes of a copied database from its beginning, and there were none yet."""
    for number in range(1, 14):
        ground.validate(number)
    return ground


@pytest.mark.long
def test_what_the_base_wrote_since_the_slot_began_is_read_before_writes_are_held(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances: list[int] = []

    def note(work: Work) -> None:
        distances.append(reverse_distance(work.base, work.reverse))

    def write(work: Work) -> None:
        with psycopg.connect(ground.databases.base_url) as other:
            other.execute("CREATE TABLE public.other AS SELECT repeat(md5(n::text), 60) FROM generate_series(1, 1) n")
            other.execute("INSERT INTO public.other SELECT repeat(md5(n::text), 200) FROM generate_series(1, 60000) n")
            other.execute("INSERT INTO public.other SELECT string_agg(md5((n * m)::text), '') FROM"
                          " generate_series(1, 9000) n, generate_series(1, 200) m GROUP BY n")  # fmt: skip
        note(work)

    at(monkeypatch, CutoverState.WAITING, write)
    at(monkeypatch, CutoverState.DRAINED, note)
    ground.cut(timeout_seconds=60.0)
    before, after = distances
    assert before > NEAR_BYTES
    assert after < NEAR_BYTES / 2
    ground.insert("base")
    settle_down(ground)
    ground.equal()


@pytest.mark.long
def test_a_comparison_that_cannot_end_in_time_is_refused_before_anything_is_held(ground: CutoverGround) -> None:
    validated(ground)
    ground.run(
        "base",
        "UPDATE migration.cuts c SET taken_at = v.validated_at - interval '4 s'"
        " FROM migration.validations v WHERE (v.relation, v.marker) = (c.relation, c.marker)",
    )
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        plan = ground.cutover_plan()
        found = estimate_comparison(base, plan, to_compare(base, legacy, plan))
    assert (found.weeks, found.rows) == (13, 910)
    assert found.seconds == pytest.approx(13 * 4 / 2)
    with pytest.raises(
        CutoverError, match=r"comparing 13 weeks with 910 rows .* about 26\.0 s .* timeout of 20 s"
    ) as caught:
        ground.cut()
    assert "MIGRATION_CUTOVER_TIMEOUT_SECONDS to " in str(caught.value)
    assert "MIGRATION_CUTOVER_COMPARE_ALL=false" in str(caught.value)
    assert ground.records()[-1].held_at is None
    assert ground.records()[-1].outcome == "aborted"
    ground.insert("legacy")
    # Few of them changed, or there is time enough: it is done, and is known to be quick from then on.
    record = ground.cut(compare_all=False)
    assert record.outcome == "succeeded"
    assert record.compared_weeks is not None
    assert record.compared_weeks < 13
    assert ground.back(timeout_seconds=60.0).compared_weeks == 13
    assert ground.cut().compared_weeks == 13


@pytest.mark.long
def test_weeks_that_changed_are_validated_before_writes_are_held_and_only_what_changed_again_is_compared(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    validated(ground)
    assert weeks_to_compare(ground) == []
    ground.run("legacy", "UPDATE bookings SET guests = 9 WHERE booked_at < '2024-04-22'")
    ground.drain()
    wait_for(lambda: weeks_to_compare(ground) == ["W01", "W02", "W03"], "the changes are counted")
    at(monkeypatch, CutoverState.HELD, lambda _: ground.insert("legacy", "2024-06-01 00:00+00"))
    with caplog.at_level(logging.INFO):
        record = ground.cut(compare_all=False)
    assert "3 weeks changed since their validation" in caplog.text
    assert (record.compared_weeks, record.compared_rows) == (1, 71)
    monkeypatch.undo()
    # The other way nothing can be validated before: what applications wrote since is compared.
    ground.insert("base", "2024-06-20 00:00+00")
    assert ground.back(compare_all=False).compared_weeks == 1
    ground.assert_same()


@pytest.mark.long
def test_changes_that_a_session_keeps_to_itself_are_waited_for_and_never_taken_for_none(ground: CutoverGround) -> None:
    """It goes from one transaction into the next, so that the server does not count what it deleted."""
    with psycopg.connect(ground.databases.base_url, autocommit=True) as stranger:
        validated(ground)
        stranger.execute("SELECT pg_stat_force_next_flush()")
        stranger.execute("BEGIN; DELETE FROM bookings_fy25_q2_w05 WHERE id = 31; COMMIT; BEGIN")
        assert weeks_to_compare(ground) == []
        with pytest.raises(CutoverError, match=f"backend {stranger.info.backend_pid} .*idle in transaction since"):
            ground.cut(compare_all=False, patience_seconds=0.5)
        assert ground.watch() is None
        stranger.execute("COMMIT")
        with pytest.raises(CutoverError, match=r"W05: .*1 missing"):
            ground.cut(compare_all=False)
    ground.repair(5)
    with psycopg.connect(ground.databases.base_url) as reader:
        reader.execute("SELECT count(*) FROM bookings")
        with pytest.raises(CutoverError, match=f"backend {reader.info.backend_pid} "):
            ground.cut(compare_all=False, patience_seconds=0.5)
        # Whatever it did before its transaction was seen by proofs that are younger than that.
        ground.run("base", "UPDATE migration.cuts SET taken_at = taken_at + interval '1 hour'")
        assert ground.cut(compare_all=False).outcome == "succeeded"
    ground.equal()


@pytest.mark.long
def test_a_server_that_counts_nothing_proves_nothing(ground: CutoverGround) -> None:
    validated(ground)
    assert weeks_to_compare(ground) == []
    database = ground.one("base", "SELECT quote_ident(current_database())")
    with psycopg.connect(ground.databases.base_url, autocommit=True) as base:
        base.execute(f"ALTER DATABASE {database} SET track_counts = off".encode())
        assert len(weeks_to_compare(ground)) == 13


@pytest.mark.long
def test_a_week_that_differs_is_found_before_anything_is_begun(ground: CutoverGround) -> None:
    validated(ground)
    ground.run("base", "UPDATE bookings SET guests = 77 WHERE id = 1")
    wait_for(lambda: weeks_to_compare(ground), "the change is counted")
    with pytest.raises(CutoverError):
        ground.cut(compare_all=False)
    assert ground.records() == []
    ground.insert("legacy")


@pytest.mark.long
def test_what_is_applied_while_a_week_is_compared_counts_as_changed_since(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated(ground)
    original, once = validation.prove, [True]

    def slow(*args: object, **more: object) -> object:
        if once.pop():
            before = ground.one("base", "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname ~ '_w01$'")
            ground.run("legacy", "UPDATE bookings SET guests = 9 WHERE id = 91")
            ground.drain()
            ground.run("legacy", "UPDATE bookings SET guests = 9 WHERE id = 91")
            wait_for(lambda: ground.one("base", "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname ~ '_w01$'")
                     > before, "the change is counted")  # fmt: skip
        return original(*args, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(validation, "prove", slow)
    ground.validate(1)
    assert weeks_to_compare(ground) == ["W01"]


@pytest.mark.long
def test_where_the_server_began_to_count_anew_every_week_is_compared(ground: CutoverGround) -> None:
    validated(ground)
    ground.run("base", "SELECT pg_stat_reset()")
    assert len(weeks_to_compare(ground)) == 13


def test_not_only_clients_keep_changes_to_themselves(ground: CutoverGround) -> None:
    """A WAL sender takes statements as well; one that streams takes none, and our own worker tells all at its end."""
    with ground.databases.session("base", "test") as base, ground.replicating("base") as sender:
        since = base.execute("SELECT clock_timestamp()").fetchone()
        assert since is not None
        sender.execute("BEGIN; DELETE FROM bookings_fy25_q2_w05 WHERE id = 31; COMMIT; BEGIN")
        with pytest.raises(CutoverError, match=f"backend {sender.info.backend_pid} .*idle in transaction since") as one:
            require_counted(base, ground.cutover_plan(patience_seconds=0.0), since[0])
        assert one.value.what.count("backend ") == 1, "not the apply worker"
        sender.execute("COMMIT")


@pytest.mark.long
def test_a_comparison_of_many_weeks_locks_few_of_them_at_once(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server has room for some thousand locks; years of weeks with their indexes, by each worker, are more."""
    original, locked = comparing.prove, list[int]()

    def counted(legacy: Connected, base: Connected, *arguments: Any, **options: Any) -> Proof:
        row = base.execute(
            "SELECT count(*) FROM pg_locks k JOIN pg_class c ON c.oid = k.relation"
            " WHERE k.pid = pg_backend_pid() AND c.relname ~ '_w[0-9]+$'"
        ).fetchone()
        locked.append(int(require_row(row, "a count")[0]))
        return original(legacy, base, *arguments, **options)

    monkeypatch.setattr(comparing, "prove", counted)
    assert ground.cut(rehearse=True).compared_weeks == 13
    assert locked == [13] * 13, "one picture of all weeks, while they are few"
    locked.clear()
    monkeypatch.setattr(comparing, "_LEAVES_LOCKED", 12)
    ground.as_we("base", "UPDATE bookings SET guests = 99 WHERE id = 1")
    with pytest.raises(CutoverError, match="W01: 0 missing, 0 extra, 1 changed"):
        ground.cut(rehearse=True)
    assert (len(locked), max(locked)) == (13, 1)
