"""What a pack says of cutovers: of a real one, and of every way in which one can end."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from migration_assets.cutover.machine import cut_over, roll_back
from migration_assets.domain.evidence_chain import Break
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.domain.states import CutoverKind, CutoverState
from migration_assets.evidence.document import Level, answer, document
from migration_assets.evidence.pack import CutoverFacts, DecommissionFacts, StepTimes
from migration_assets.evidence.tables import standing
from migration_assets.evidence.writing import verify_evidence, write_packs
from migration_assets.readiness.step import cutover_plan
from migration_assets.runtime import Migration
from migration_assets_tests.defs.conftest import keep_only_the_quarter
from migration_assets_tests.evidence.test_pages import EVIL, Q2, TAGS, Strict, pack

S = CutoverState
AT = datetime(2024, 7, 1, 3, tzinfo=UTC)
# Milliseconds after the beginning at which each step begins.
BEGUN = {S.BEGUN: 0, S.WAITING: 900, S.HELD: 990, S.DRAINED: 1010, S.COMPARED: 1020, S.SEQUENCES: 1060}


def at(ms: float) -> datetime:
    return AT + timedelta(milliseconds=ms)


def steps(begun: dict[CutoverState, int]) -> tuple[StepTimes, ...]:
    return tuple(StepTimes(state, at(ms), None) for state, ms in begun.items())


def cutover(number: int, **changes: object) -> CutoverFacts:
    """One that succeeded: no side accepted writes from 1000 to 1080 ms after its beginning."""
    begun = {**BEGUN, S.REVERSED: 1065, S.OPEN: 1075, S.SWITCHED: 1081, S.DONE: 1090}
    made = CutoverFacts(
        number, CutoverKind.CUTOVER, False, "Ada Lovelace", "succeeded", AT, at(1100), at(1000), at(1080), at(1080),
        80.0, 13, 13091, None, steps(begun),
    )  # fmt: skip
    return replace(made, **changes)


def rehearsal(number: int, **changes: object) -> CutoverFacts:
    return cutover(number, **{"rehearse": True, "outcome": "rehearsed", "opened_at": None, **changes})


def rollback(number: int, **changes: object) -> CutoverFacts:
    return cutover(number, **{"kind": CutoverKind.ROLLBACK, **changes})


CLOSED = DecommissionFacts(
    "Grace Hopper", "after a quarter", "database", AT, AT + timedelta(days=90), AT, None, Fingerprint(13091, 5, 7), 13,
    complete=True,
)  # fmt: skip


def text_of(page: str) -> str:
    return " ".join("".join(Strict(page).texts).split())


@pytest.mark.parametrize(
    ("cutovers", "closed", "said"),
    [
        ((), None, "The applications work on the old database: they were not moved yet."),
        ((rehearsal(1),), None, "The applications work on the old database: they were not moved yet."),
        (
            (rehearsal(1), cutover(2)),
            None,
            "2024-07-01 03:00:01 UTC; Ada Lovelace approved the cutover, during which nobody could write to the",
        ),
        (
            (cutover(1), rollback(2, opened_at=at(9000), approved_by="Bob")),
            None,
            "have worked on the old database again since 2024-07-01 03:00:09 UTC; Bob approved the rollback",
        ),
        ((cutover(1, outcome="running"),), None, "That cutover was not finished when this page was written."),
        (
            (cutover(1),),
            CLOSED,
            "on 2024-09-29 03:00:00 UTC, approved by Grace Hopper. Its last fingerprint: 13,091 rows, checksum 0000",
        ),
        ((cutover(1),), replace(CLOSED, finished_at=None), "is being closed for good since 2024-07-01 03:00:00 UTC"),
        ((cutover(1),), replace(CLOSED, scope="table"), "The table in the old database was decommissioned"),
    ],
)
def test_every_page_says_where_the_applications_work(
    cutovers: tuple[CutoverFacts, ...], closed: DecommissionFacts | None, said: str
) -> None:
    for scope in (Q2, None):
        facts = pack(scope, cutovers=cutovers, decommission=closed)
        assert said in standing(facts)
        page = text_of(document(facts))
        moved = any(one.opened_at for one in cutovers)
        assert page.count(said) == 1 + moved, "in its section, and on top where they were moved"
        broken = replace(facts, breaks=(Break(1, "was changed"),))
        assert text_of(document(broken)).count(said) == 1, "a broken record is not repeated on top"


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (cutover(1), "the applications moved to the new database"),
        (rollback(1), "the applications moved back to the old database"),
        (rehearsal(1), "everything but the move was done, and taken back as planned"),
        (
            cutover(1, outcome="aborted", opened_at=None, error="CutoverError: the sides differ", steps=steps(
                {**BEGUN, S.UNDOING: 1070, S.UNDONE: 1090})),
            "“set the next keys” and undone: the applications stayed on the old databaseCutoverError: the sides differ",
        ),
        (
            rollback(1, outcome="aborted", opened_at=None, held_at=None, downtime_ms=None, steps=steps({S.BEGUN: 0})),
            "stopped at “prepare” and undone: the applications stayed on the new database",
        ),
        (cutover(1, outcome="aborted", error="the hook failed"), "could not be told: taken back by the next one"),
        (cutover(1, outcome="running", opened_at=None, finished_at=None), "not finished when this page was written"),
        (cutover(1, outcome="aborted", opened_at=None, steps=()), "stopped and undone"),
    ],
)  # fmt: skip
def test_every_end_has_its_words(one: CutoverFacts, said: str) -> None:
    page = text_of(document(pack(None, cutovers=(one,))))
    assert said in page
    assert "Ada Lovelace" in page


def test_the_steps_without_writes_add_up_to_the_downtime_and_nothing_else_is_in_them() -> None:
    found = cutover(1).without_writes
    assert [step.state for step in found] == [S.HELD, S.DRAINED, S.COMPARED, S.SEQUENCES, S.REVERSED, S.OPEN]
    lengths = [((step.finished or AT) - step.started) / timedelta(milliseconds=1) for step in found]
    assert lengths == [10, 10, 40, 5, 10, 5]
    assert cutover(1, held_at=None).without_writes == ()
    assert cutover(1, downtime_ms=None).without_writes == ()


def test_the_plot_is_of_the_last_move_to_the_new_database_and_names_the_longest_step() -> None:
    page = document(pack(None, cutovers=(cutover(3), rehearsal(4), rollback(5))))
    assert "cutover no. 3, 2024-07-01 03:00:01 UTC" in page
    assert "the longest step, “compare both databases”, took 40.0 ms" in page
    plot = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)[-1]
    bars = [(float(bar.get("x", "")), float(bar.get("width", ""))) for bar in ET.fromstring(plot).iter("rect")]  # noqa: S314 - ours
    assert len(bars) == 6
    for (x, width), (after, _) in pairwise(bars):
        assert x + width == pytest.approx(after, abs=0.2), "each begins where the one before ends"
    assert "rehearsal no. 4" in document(pack(None, cutovers=(rehearsal(4),)))
    assert "was spent on" not in document(pack(None, cutovers=(cutover(1, held_at=None),)))
    assert document(pack(Q2, cutovers=(cutover(3),))).count("<svg") == 4


def test_whatever_is_in_it_is_escaped_and_long_errors_are_cut() -> None:
    one = cutover(1, approved_by=EVIL, error=EVIL + "x" * 5000, outcome="aborted")
    closed = replace(CLOSED, approved_by=EVIL, note=EVIL)
    page = document(pack(None, cutovers=(one,), decommission=closed))
    assert Strict(page).tags <= TAGS
    assert "x" * 500 not in page


def test_a_quarter_that_began_after_the_move_is_not_said_to_be_left_behind() -> None:
    empty = replace(pack().quarters[0], quarter=Q2.next, signatures=(), weeks=(), reconciliations=())
    facts = pack(None, quarters=(*pack().quarters, empty), held=(Q2, Q2.next))
    assert answer(facts).level is Level.OPEN
    assert answer(replace(facts, cutovers=(cutover(1),))).level is Level.GOOD
    assert answer(replace(facts, cutovers=(cutover(1), rollback(2)))).level is Level.OPEN
    left = replace(facts, cutovers=(cutover(1),), held=(Q2.next.next,))
    assert f"{Q2.next.next.key} is in the old database alone" in " ".join(answer(left).details)


def test_an_old_database_that_was_closed_is_not_missed() -> None:
    facts = replace(pack(None), held=None, cutovers=(cutover(1),))
    assert answer(facts).details
    assert answer(replace(facts, decommission=CLOSED)).details == ()


@pytest.mark.long
def test_pages_of_a_real_cutover(signed: Migration, tmp_path: Path) -> None:
    keep_only_the_quarter(signed)
    plan = cutover_plan(signed)
    cut_over(plan, approved_by="Ada Lovelace")
    cut_over(plan, approved_by="Ada Lovelace", rehearse=False)
    roll_back(plan, approved_by="Grace Hopper")
    done = cut_over(plan, approved_by="Ada Lovelace", rehearse=False)
    quarter, whole = (pack.path for pack in write_packs(signed, (), tmp_path))
    page = text_of(whole.read_text())
    for said in (
        "have worked on the new database since",
        "everything but the move was done",
        "the applications moved back to the old database",
        f"{done.compared_weeks} weeks, {done.compared_rows:,} rows: the same",
        f"cutover no. {done.id}",
        "compare both databases",
    ):
        assert said in page, said
    assert whole.read_text().count("<svg") == quarter.read_text().count("<svg") + 1
    assert "have worked on the new database since" in quarter.read_text()
    assert verify_evidence(signed, whole).holds
    with signed.databases.session("base", "test") as base:
        base.execute("UPDATE migration.cutovers SET timeline = '[1, {\"held\": 2.5}]' WHERE id = %s", [done.id])
    [broken] = write_packs(signed, (), tmp_path)[1:]
    assert broken.answer.word == "The record is broken"
