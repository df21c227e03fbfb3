"""A real migration's evidence holds; whoever rewrites the ledger or the chain, superuser or not, is found and named."""

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migration_assets.domain.evidence_chain import ChainRecord, EvidenceError, head_of, sealed
from migration_assets.domain.sign_off_evidence import digest
from migration_assets.evidence.facts import read_pack_facts
from migration_assets.evidence.pack import QuarterEvidence
from migration_assets.evidence.writing import verify_evidence, write_packs
from migration_assets.ledger.chain import read_chain, read_rows, verify_chain
from migration_assets.postgres.sessions import Connected
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import QUARTER, with_settings
from migration_assets_tests.evidence.story import tell

T = "public.amenity_bookings"
CHAIN = "UPDATE migration.evidence_chain SET "
# What somebody who may do anything does, and what the first break says then.
TAMPERING: dict[str, tuple[str, str]] = {
    "payload": (
        CHAIN + "payload = jsonb_set(payload, '{approved_by}', '\"Eve\"') WHERE kind = 'sign_off'",
        r"record 3: its payload \(sign_off\) was changed",
    ),
    "time": (CHAIN + "at = at + interval '1 microsecond' WHERE id = 4", r"record 4: was changed"),
    "one in the middle removed": (
        "DELETE FROM migration.evidence_chain WHERE id = 5",
        r"record 5: it is missing: record 6 comes after record 4",
    ),
    "two swapped": (
        CHAIN + "id = id + 1000; " + CHAIN + "id = CASE id WHEN 1004 THEN 5 WHEN 1005 THEN 4 ELSE id - 1000 END",
        r"record 4: does not follow the record before it",
    ),
    "tail removed": (
        "DELETE FROM migration.evidence_chain WHERE id > 6",
        r"no record speaks of \w+ \d+: it was put into the ledger behind the chain's back",
    ),
    "everything removed": (
        "DELETE FROM migration.evidence_chain",
        r"archive 1 has no record of its own, although .* the chain was removed",
    ),
    "evidence that no longer has a single text": (
        "UPDATE migration.sign_offs SET evidence = '0.5'",
        r"record 3: sign_off 1 was changed in the ledger: evidence",
    ),
    "fingerprint of an archive": (
        "UPDATE migration.archives SET sum_a = sum_a + 1 WHERE week = 'W02'",
        r"record \d+: archive 2 was changed in the ledger: sum_a",
    ),
    "fingerprint of a week that was reconciled": (
        "UPDATE migration.validations SET base_rows = base_rows - 1 WHERE week = 'W07' AND purpose = 'reconcile'",
        r"record 2: reconciliation 1 was changed in the ledger: weeks",
    ),
    "when a week was dropped": (
        "UPDATE migration.retirements SET dropped_at = dropped_at - interval '1 day' WHERE step = 'dropped'",
        r"record \d+: retirement_dropped 1 was changed in the ledger: dropped_at",
    ),
    "a restore that failed": (
        "UPDATE migration.restores SET equal = NOT equal WHERE kind = 'drill'",
        r"record \d+: restore 2 was changed in the ledger: equal",
    ),
    "a restore removed": (
        "DELETE FROM migration.restores WHERE kind = 'drill'",
        r"record \d+: speaks of restore 2, which the ledger does not have any more",
    ),
    "a signature put in": (
        """INSERT INTO migration.sign_offs (relation, quarter, approved_by, evidence, sha256)
           SELECT relation, quarter, 'Eve', evidence, sha256 FROM migration.sign_offs""",
        r"no record speaks of sign_off \d+: it was put into the ledger behind the chain's back",
    ),
}


@pytest.fixture(scope="module")
def told(signed: Migration) -> Migration:
    tell(signed)
    return signed


@contextmanager
def all_powerful(migration: Migration) -> Generator[Connected]:
    """A superuser without the trigger; everything is taken back at the end."""
    with migration.databases.session("base", "test") as base, base.transaction(force_rollback=True):
        base.execute("ALTER TABLE migration.evidence_chain DISABLE TRIGGER only_grows")
        yield base


def test_the_evidence_of_a_whole_life_holds(told: Migration) -> None:
    done = verify_evidence(told)
    assert done.breaks == ()
    assert done.holds
    with told.databases.session("base", "test") as base:
        kinds = [record.kind for record in read_chain(base, T)]
    assert kinds[:3] == ["genesis", "reconciliation", "sign_off"]
    assert {kind: kinds.count(kind) for kind in kinds[3:]} == {
        "archive": 4,
        "retirement_detaching": 3,
        "retirement_quarantined": 3,
        "retirement_dropped": 1,
        "retirement_returned": 1,
        "restore": 2,
    }


@pytest.mark.parametrize("name", TAMPERING)
def test_whoever_rewrites_it_is_found_and_named(told: Migration, name: str) -> None:
    statement, expected = TAMPERING[name]
    with all_powerful(told) as base:
        for one in statement.split("; "):
            assert base.execute(one.encode()).rowcount > 0
        _, found = verify_chain(base, T)
    assert found
    assert re.match(expected, str(found[0])), [str(one) for one in found]
    assert verify_evidence(told).holds, "it was taken back"


def test_a_signature_rewritten_together_with_its_own_hash_is_found(told: Migration) -> None:
    with all_powerful(told) as base:
        row = base.execute("SELECT evidence FROM migration.sign_offs").fetchone()
        assert row is not None
        evidence = row[0] | {"approved_by": "Eve"}
        base.execute(
            "UPDATE migration.sign_offs SET approved_by = 'Eve', evidence = %s::text::jsonb, sha256 = %s",
            [json.dumps(evidence), digest(evidence)],
        )
        state = read_facts(base, told)
        assert state.void == (), "by itself it looks as if Eve had signed"
        _, found = verify_chain(base, T)
    assert [str(one) for one in found] == [
        "record 3: sign_off 1 was changed in the ledger: approved_by, evidence, sha256"
    ]


def read_facts(base: Connected, migration: Migration) -> QuarterEvidence:
    facts = read_pack_facts(base, migration.spec, QUARTER, held=None, time_zone="UTC", package="0")
    return facts.quarters[0]


def _written_anew(base: Connected) -> None:
    """The most that can be done from inside: the ledger, and a whole chain that fits it."""
    old = read_chain(base, T)
    base.execute("UPDATE migration.sign_offs SET approved_by = 'Eve'")
    base.execute("DELETE FROM migration.evidence_chain")
    says = read_rows(base, T)
    before: ChainRecord | None = None
    for one in old:
        payload = {"row": one.row[1], **says[one.row]} if one.row else one.payload
        before = sealed(before, relation=T, kind=one.kind, quarter=one.quarter, payload=payload, at=one.at,
                        run_id=one.run_id)  # fmt: skip
        base.execute(
            "INSERT INTO migration.evidence_chain VALUES (%s, %s, %s, %s, %s::text::jsonb, %s, %s, %s, %s, %s)",
            [T, before.id, before.kind, before.quarter, json.dumps(payload), before.payload_sha256,
             before.previous_sha256, before.sha256, before.at, before.run_id],
        )  # fmt: skip


def test_a_chain_written_anew_is_only_found_by_who_kept_a_page(told: Migration) -> None:
    with all_powerful(told) as base:
        known = head_of(read_chain(base, T))
        assert known is not None
        assert verify_chain(base, T, pack=known)[1] == ()
        _written_anew(base)
        assert verify_chain(base, T)[1] == ()
        [found] = verify_chain(base, T, pack=known)[1]
    assert "the chain was written anew since" in str(found)


def test_a_removed_tail_is_found_by_who_kept_a_page_also_where_the_ledger_lost_the_same_rows(told: Migration) -> None:
    with all_powerful(told) as base:
        known = head_of(read_chain(base, T))
        assert known is not None
        base.execute("DELETE FROM migration.evidence_chain WHERE kind = 'restore' AND payload->>'kind' = 'drill'")
        base.execute("DELETE FROM migration.restores WHERE kind = 'drill'")
        assert verify_chain(base, T)[1] == ()
        [found] = verify_chain(base, T, pack=known)[1]
    assert re.match(r"record \d+: the pack knows it, and the chain ends with record \d+: its tail", str(found))


def test_a_page_proves_the_chain_later_and_itself(told: Migration, tmp_path: Path) -> None:
    [pack] = write_packs(told, [QUARTER], tmp_path)
    write_packs(told, [QUARTER], tmp_path / "again")
    done = verify_evidence(told, pack.path)
    assert done.holds
    assert done.pack == pack.head
    assert done.head is not None
    assert done.head.id == pack.head.id + 2
    pack.path.write_text(pack.path.read_text().replace("Ada Lovelace", "Eve"))
    [found] = verify_evidence(told, pack.path).breaks
    assert "the file was changed after it was written" in str(found)


def test_what_is_no_page_of_this_table_is_said(told: Migration, tmp_path: Path) -> None:
    [pack] = write_packs(told, [QUARTER], tmp_path)
    with pytest.raises(EvidenceError, match=r"and the settings are of public\.other"):
        verify_evidence(with_settings(told, table="public.other"), pack.path)
    (tmp_path / "other.html").write_text("<html><meta name=x>")
    with pytest.raises(EvidenceError, match="not an evidence pack"):
        verify_evidence(told, tmp_path / "other.html")
    with pytest.raises(EvidenceError, match="cannot be read"):
        verify_evidence(told, tmp_path / "nowhere.html")
