"""Appending to the chain: two at once make no fork, a crash leaves nothing, and nobody alters it by accident."""

from typing import Any, LiteralString

import psycopg
import pytest

from migration_assets.domain.evidence_chain import ChainKind, ChainRecord
from migration_assets.ledger.chain import (
    append,
    append_row,
    begin_chain,
    hold_chain,
    verify_chain,
)
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.postgres.sessions import Connected
from migration_assets_tests.ground import SPEC, Ground, at_once

T = SPEC.relation
INSERT: LiteralString = (
    "INSERT INTO migration.reconciliations (relation, quarter, marker, lsn, equal, duplicate_keys)"
    " VALUES (%s, 'FY25-Q2', 1, '0/1', true, 0) RETURNING id"
)


@pytest.fixture
def ledger(ground: Ground) -> Ground:
    with ground.databases.session("base", "test") as base:
        ensure_ledger(base)
    return ground


def insert(base: Connected) -> int:
    row = base.execute(INSERT, [T]).fetchone()
    assert row is not None
    return int(row[0])


def verified(ground: Ground) -> tuple[list[ChainRecord], list[str]]:
    with ground.databases.session("base", "test") as base:
        records, found = verify_chain(base, T)
    return records, [str(one) for one in found]


def _append_one(ground: Ground) -> int:
    with ground.databases.session("base", "test") as base, base.transaction():
        row = insert(base)
        return append_row(base, T, ChainKind.RECONCILIATION, row).id


def test_eight_at_once_make_one_chain_without_a_fork(ledger: Ground) -> None:
    results = at_once([lambda: _append_one(ledger)] * 8)
    assert sorted(str(result) for result in results) == [str(number) for number in range(2, 10)]
    records, found = verified(ledger)
    assert found == []
    assert [record.kind for record in records] == ["genesis", *["reconciliation"] * 8]


def test_a_second_writer_waits_for_the_first_ones_commit(ledger: Ground) -> None:
    with ledger.databases.session("base", "first") as first, ledger.databases.session("base", "second") as second:
        second.execute("SET lock_timeout = '300ms'")
        with first.transaction():
            mine = append_row(first, T, ChainKind.RECONCILIATION, insert(first))
            with pytest.raises(psycopg.errors.LockNotAvailable), second.transaction():
                append_row(second, T, ChainKind.RECONCILIATION, insert(second))
        with second.transaction():
            assert append_row(second, T, ChainKind.RECONCILIATION, insert(second)).previous_sha256 == mine.sha256
    assert verified(ledger)[1] == []


def test_an_old_snapshot_makes_no_fork(ledger: Ground) -> None:
    """In REPEATABLE READ the newest record seen may have an heir already: the table itself refuses a second one."""
    with ledger.databases.session("base", "test") as base:
        begin_chain(base, T)
        with pytest.raises(psycopg.errors.UniqueViolation), base.transaction():  # noqa: PT012
            base.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = insert(base)
            _append_one(ledger)
            append_row(base, T, ChainKind.RECONCILIATION, row)
        with base.transaction():
            base.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            hold_chain(base)  # the snapshot comes after it
            append_row(base, T, ChainKind.RECONCILIATION, insert(base))
    records, found = verified(ledger)
    assert (len(records), found) == (3, [])


def test_a_transaction_that_never_commits_leaves_neither_row_nor_record(ledger: Ground) -> None:
    _append_one(ledger)
    with ledger.databases.session("base", "test") as base:
        pid = base.info.backend_pid
        with pytest.raises(psycopg.OperationalError), base.transaction():  # noqa: PT012
            append_row(base, T, ChainKind.RECONCILIATION, insert(base))
            assert ledger.one("base", "SELECT pg_terminate_backend(%s)", pid)
            base.execute("SELECT 1")
    assert ledger.one("base", "SELECT count(*) FROM migration.reconciliations") == 1
    assert _append_one(ledger) == 3
    assert verified(ledger)[1] == []


ALTERATIONS: list[LiteralString] = [
    "UPDATE migration.evidence_chain SET quarter = NULL",
    "DELETE FROM migration.evidence_chain",
    "TRUNCATE migration.evidence_chain",
    "SET session_replication_role = replica; DELETE FROM migration.evidence_chain",
]


@pytest.mark.parametrize("statement", ALTERATIONS)
def test_the_chain_only_grows(ledger: Ground, statement: LiteralString) -> None:
    _append_one(ledger)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only grows"):
        ledger.run("base", statement)
    assert len(verified(ledger)[0]) == 2


def test_what_an_older_ledger_held_is_covered_by_the_first_record(ledger: Ground) -> None:
    older = "UPDATE migration.schema_versions SET upgraded_at = clock_timestamp() WHERE version = 5"
    with ledger.databases.session("base", "test") as base:
        insert(base)
        insert(base)
        base.execute(older)
        assert verified(ledger) == ([], []), "nothing was noted yet, and nothing had to be"
        with base.transaction():
            append_row(base, T, ChainKind.RECONCILIATION, insert(base))
    records, found = verified(ledger)
    assert found == []
    assert [row["row"] for row in records[0].payload["rows"]] == [1, 2]
    ledger.run("base", "UPDATE migration.reconciliations SET equal = false WHERE id = 2")
    assert verified(ledger)[1] == ["record 1: reconciliation 2 was changed in the ledger since the chain began"]


def test_a_chain_that_was_removed_as_a_whole_is_missed_also_once_it_begins_anew(ledger: Ground) -> None:
    _append_one(ledger)
    ledger.run("base", "ALTER TABLE migration.evidence_chain DISABLE TRIGGER only_grows",
               "DELETE FROM migration.evidence_chain",
               "ALTER TABLE migration.evidence_chain ENABLE ALWAYS TRIGGER only_grows")  # fmt: skip
    [found] = verified(ledger)[1]
    assert found.startswith("reconciliation 1 has no record of its own")
    _append_one(ledger)
    [found] = verified(ledger)[1]
    assert found.startswith("record 1: reconciliation 1 has no record of its own")


def test_anything_else_can_be_noted_and_each_table_has_a_chain_of_its_own(ledger: Ground) -> None:
    payload: dict[str, Any] = {"downtime_us": 41_000, "name": "Zoë \u2028 <b>", "nested": [{"a": None}, True]}
    with ledger.databases.session("base", "test") as base:
        append(base, T, "cutover_done", payload, run_id="r")
        append(base, "public.other", "cutover_done", payload)
        records, found = verify_chain(base, T)
    assert found == ()
    assert [(one.id, one.kind) for one in records] == [(1, "genesis"), (2, "cutover_done")]
    assert records[1].payload == payload
