"""Every cutover that ended, however it did, has a record in the chain; whoever rewrites one is found and named."""

import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import LiteralString

import pytest

from migration_assets.cutover import machine
from migration_assets.domain.evidence_chain import ChainKind
from migration_assets.domain.states import CutoverError
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger import cutovers as records
from migration_assets.ledger.chain import append_row, begin_chain, verify_chain
from migration_assets.ledger.cutovers import finish
from migration_assets.postgres.sessions import Connected
from migration_assets_tests.conftest import Databases
from migration_assets_tests.cutover.ground import CutoverGround, failing, ground_of
from migration_assets_tests.ground import SPEC

T = SPEC.relation
DECOMMISSIONED: LiteralString = (
    "INSERT INTO migration.decommissions (relation, cutover, approved_by, scope, state, final, former, finished_at)"
    " SELECT relation, max(id), 'Ada', 'database', 'done', '{\"total\": \"910/1/2\"}', '{\"grants\": []}',"
    " clock_timestamp() FROM migration.cutovers GROUP BY relation RETURNING id"
)


@pytest.fixture(scope="module")
def lived(servers: EmbeddedServers) -> Generator[CutoverGround]:
    """An aborted cutover, a rehearsal, a cutover whose hook failed and what took it back, a cutover, its rollback, a
    last one, and a decommission: cutovers 1 to 7."""
    name = f"test_{secrets.token_hex(6)}"
    servers.recreate_database("legacy", name)
    servers.recreate_database("base", name)
    ground = ground_of(servers.legacy_url(name), servers.base_url(name))
    with pytest.raises(CutoverError):
        ground.cut(base_url_for_legacy="postgresql://nobody@127.0.0.1:1/nowhere")
    ground.cut(rehearse=True)
    with pytest.raises(CutoverError):
        ground.cut(switch=failing("base"))
    ground.cut()
    ground.back()
    ground.cut()
    with ground.databases.session("base", "test") as base, base.transaction():
        row = base.execute(DECOMMISSIONED).fetchone()
        assert row is not None
        append_row(base, T, ChainKind.DECOMMISSION, row[0])
    yield ground
    servers.drop_database("base", name)
    servers.drop_database("legacy", name)


@pytest.fixture
def ground(databases: Databases) -> CutoverGround:
    return ground_of(databases.legacy_url, databases.base_url)


def test_every_end_has_its_record_in_order_and_the_chain_holds(lived: CutoverGround) -> None:
    chain = lived.evidence()
    said = [(one.payload["kind"], one.payload["outcome"]) for one in chain if one.kind == ChainKind.CUTOVER]
    assert said == [
        ("cutover", "aborted"),
        ("cutover", "rehearsed"),
        ("cutover", "aborted"),
        ("rollback", "succeeded"),
        ("cutover", "succeeded"),
        ("rollback", "succeeded"),
        ("cutover", "succeeded"),
    ]
    assert chain[0].payload["rows"] == [], "nothing came before the chain"
    last = chain[-2].payload
    assert isinstance(last["downtime_us"], int)
    assert set(last["timeline"]) >= {"begun", "held", "open", "done"}
    assert chain[-1].kind == ChainKind.DECOMMISSION


CUTOVER = "UPDATE migration.cutovers SET {} WHERE id = {}"
_COLUMNS = [
    ("kind", "kind = 'rollback'", 5),
    ("rehearse", "rehearse = NOT rehearse", 2),
    ("approved_by", "approved_by = 'Eve'", 5),
    ("state", "state = 'open'", 5),
    ("timeline", "timeline = jsonb_set(timeline, '{held,started}', '\"2024-01-01T00:00:00+00:00\"')", 5),
    ("timeline", "timeline = timeline || '{\"held\": 0.5}'", 5),
    ("timeline", "timeline = '[]'", 5),
    ("held_at", "held_at = held_at + interval '1 microsecond'", 5),
    ("opened_at", "opened_at = NULL", 5),
    ("opened_at", "opened_at = now()", 1),
    ("released_at", "released_at = released_at - interval '1 microsecond'", 5),
    ("downtime_us", "downtime_ms = downtime_ms / 2", 5),
    ("compared_weeks", "compared_weeks = compared_weeks + 1", 5),
    ("compared_rows", "compared_rows = compared_rows + 1", 5),
    ("error", "error = NULL", 1),
    ("outcome", "outcome = 'succeeded'", 1),
    ("run_id", "run_id = 'another'", 5),
    ("started_at", "started_at = started_at - interval '1 day'", 5),
    ("finished_at", "finished_at = finished_at - interval '1 day'", 5),
]
_DECOMMISSION = [
    ("cutover", "cutover = 1"),
    ("approved_by", "approved_by = 'Eve'"),
    ("note", "note = 'all is well'"),
    ("scope", "scope = 'table'"),
    ("last_read_at", "last_read_at = now()"),
    ("watched_since", "watched_since = now()"),
    ("final", "final = jsonb_set(final, '{total}', '\"911/1/2\"')"),
    ("former", "former = '{}'"),
    ("started_at", "started_at = now()"),
    ("finished_at", "finished_at = now() - interval '1 day'"),
]
_INTO = "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, outcome, finished_at)"
TAMPERING: dict[str, tuple[str, str]] = {
    **{
        f"{change} of {row}": (CUTOVER.format(change, row), rf"record \d+: cutover {row} was changed .*: {name}$")
        for name, change, row in _COLUMNS
    },
    **{
        change: (f"UPDATE migration.decommissions SET {change}", rf"record \d+: decommission 1 was changed .*: {name}$")
        for name, change in _DECOMMISSION
    },
    "made to run again": (CUTOVER.format("outcome = 'running'", 5), r"record \d+: speaks of cutover 5, which"),
    "taken out": ("DELETE FROM migration.cutovers WHERE id = 1", r"record \d+: speaks of cutover 1, which"),
    "put in": (
        f"{_INTO} VALUES ('{T}', 'cutover', true, 'Eve', 'rehearsed', now())",
        r"no record speaks of cutover \d+",
    ),
    "put in as of before": (
        f"{_INTO} VALUES ('{T}', 'cutover', true, 'Eve', 'rehearsed', '2020-01-01')",
        r"no record speaks of cutover \d+",
    ),
    "somebody else's deed": (
        "UPDATE migration.cutovers SET done_by = '{\"role\": \"eve\"}' WHERE id = 1",
        r"record \d+: cutover 1 was changed in the ledger: done_by",
    ),
    "nobody's deed": (
        "UPDATE migration.decommissions SET done_by = NULL",
        r"record \d+: decommission 1 was changed in the ledger: done_by",
    ),
    "decommission undone": (
        "UPDATE migration.decommissions SET state = 'severed'",
        r"record \d+: speaks of decommission 1, which the ledger does not have any more",
    ),
    "newest records taken out": (
        "DELETE FROM migration.evidence_chain WHERE kind = 'decommission'",
        r"no record speaks of decommission 1",
    ),
    "all records taken out": (
        "DELETE FROM migration.evidence_chain",
        r"cutover 1 has no record of its own, although it came after",
    ),
    "a record rewritten": (
        "UPDATE migration.evidence_chain SET payload = payload || '{\"approved_by\": \"Eve\"}' WHERE kind = 'cutover'",
        r"record \d+: its payload \(cutover\) was changed",
    ),
}  # fmt: skip


@contextmanager
def all_powerful(ground: CutoverGround) -> Generator[Connected]:
    with ground.databases.session("base", "test") as base, base.transaction(force_rollback=True):
        base.execute("ALTER TABLE migration.evidence_chain DISABLE TRIGGER only_grows")
        yield base


@pytest.mark.parametrize("name", TAMPERING)
def test_whoever_rewrites_a_cutover_is_found_and_named(lived: CutoverGround, name: str) -> None:
    statement, expected = TAMPERING[name]
    with all_powerful(lived) as base:
        assert base.execute(statement.encode()).rowcount > 0
        _, found = verify_chain(base, T)
    assert found
    assert re.match(expected, str(found[0])), [str(one) for one in found]


def test_what_the_next_rollback_takes_from_a_cutover_is_no_tampering(lived: CutoverGround) -> None:
    with all_powerful(lived) as base:
        base.execute("UPDATE migration.cutovers SET stream_barred = NOT stream_barred")
        assert verify_chain(base, T)[1] == ()
    lived.evidence()


def test_an_end_is_noted_once(lived: CutoverGround) -> None:
    before = lived.records()
    with lived.databases.session("base", "test") as base:
        finish(base, 5, "aborted")
    assert lived.records() == before
    lived.evidence()


@pytest.mark.long
def test_an_end_whose_record_cannot_be_written_is_no_end_and_whoever_settles_it_writes_it(
    ground: CutoverGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise machine.psycopg.OperationalError("the base went away")

    with monkeypatch.context() as patched:
        patched.setattr(records, "append_row", fail)
        with pytest.raises(CutoverError):
            ground.cut()
    left = ground.records()[-1]
    assert (left.outcome, left.state, ground.charge()) == ("running", "done", "base")
    assert all(one.kind != ChainKind.CUTOVER for one in ground.evidence())
    ground.let_go()
    assert ground.records()[-1].outcome == "succeeded"
    assert ground.evidence()[-1].payload["outcome"] == "succeeded"


def ended(base: Connected, when: str) -> int:
    """One as a program of before wrote it: without a record."""
    row = base.execute(
        "INSERT INTO migration.cutovers (relation, kind, rehearse, approved_by, outcome, finished_at, done_by)"
        " VALUES (%s, 'cutover', true, 'Ada', 'rehearsed', clock_timestamp() + %s::interval, NULL) RETURNING id",
        [T, when],
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.long
def test_cutovers_of_before_their_kind_was_noted_are_covered_with_the_first_record(ground: CutoverGround) -> None:
    with ground.databases.session("base", "test") as base:
        begin_chain(base, T)
        with base.transaction(force_rollback=True):
            ended(base, "-1 year")
            assert verify_chain(base, T)[1] != (), "no upgrade explains it"
        one, two = ended(base, "0"), ended(base, "0")
        base.execute("UPDATE migration.schema_versions SET upgraded_at = clock_timestamp() WHERE version = 7")
        assert verify_chain(base, T)[1] == (), "nothing was noted of them, and nothing had to be"
        with base.transaction(force_rollback=True):
            late = ended(base, "1 hour")
            assert [str(found) for found in verify_chain(base, T)[1]] == [
                f"no record speaks of cutover {late}: it was put into the ledger behind the chain's back"
            ]
    ground.cut(rehearse=True)
    noted = [record for record in ground.evidence() if record.kind == ChainKind.CUTOVER]
    assert [record.row for record in noted] == [("cutover", number) for number in (one, two, late + 1)]
    assert ["done_by" in record.payload for record in noted] == [False, False, True], "covered as they were written"
    with ground.databases.session("base", "test") as base:
        late = ended(base, "-1 year")
        base.execute("UPDATE migration.cutovers SET approved_by = 'Eve' WHERE id = %s", [one])
        assert [str(found).partition(":")[2] or str(found) for found in verify_chain(base, T)[1]] == [
            f" cutover {one} was changed in the ledger: approved_by",
            " it was put into the ledger behind the chain's back",
        ]
