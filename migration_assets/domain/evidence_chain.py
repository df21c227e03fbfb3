"""The chain of evidence: records that each cover the one before, so that none can be changed unseen. Pure: no clock.

A record also says who really did it: beside the name that was typed, what the machine knows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.plain_text import UNPRINTABLE
from migration_assets.domain.sign_off_evidence import digest, moment_text

FORMAT = "migration_assets evidence, version 1"
FIRST = "0" * 64
"""Stands in for the previous SHA-256 in the first record."""


class EvidenceError(MigrationError):
    """An evidence pack cannot be written or read; the databases and the ledger are unchanged."""


class ChainKind(StrEnum):
    """The kind of event that a record covers; a record of a kind in `LEDGER_KINDS` covers one ledger row, by its id."""

    GENESIS = "genesis"
    SIGN_OFF = "sign_off"
    RECONCILIATION = "reconciliation"
    ARCHIVE = "archive"
    DETACHING = "retirement_detaching"
    QUARANTINED = "retirement_quarantined"
    DROPPED = "retirement_dropped"
    RETURNED = "retirement_returned"
    RESTORE = "restore"
    CUTOVER = "cutover"
    DECOMMISSION = "decommission"
    ACCEPTANCE = "acceptance"
    PACK = "pack"


# A later acceptance overwrites the row of an earlier one, so its record contains everything itself.
LEDGER_KINDS = frozenset(ChainKind) - {ChainKind.GENESIS, ChainKind.ACCEPTANCE, ChainKind.PACK}
# Columns that the base's own clock wrote; other times are by the clock of this program.
_WRITTEN_AT: Mapping[str, str] = {
    ChainKind.SIGN_OFF: "signed_at",
    ChainKind.RECONCILIATION: "reconciled_at",
    ChainKind.ARCHIVE: "archived_at",
    ChainKind.DETACHING: "begun_at",
    ChainKind.CUTOVER: "finished_at",
    ChainKind.DECOMMISSION: "finished_at",
}
RowKey = tuple[str, int]
"""Kind and id of a ledger row."""
_Ledger = Mapping[RowKey, Mapping[str, Any]]


@dataclass(frozen=True)
class ChainRecord:
    """One record; ids are 1, 2, 3… within a relation. `payload` is plain JSON without floats."""

    id: int
    relation: str
    kind: str
    quarter: str | None
    payload: dict[str, Any]
    payload_sha256: str
    previous_sha256: str
    sha256: str
    at: datetime
    run_id: str | None

    @property
    def row(self) -> RowKey | None:
        """The ledger row that it covers; None if it covers none."""
        number = self.payload.get("row")
        return (self.kind, number) if self.kind in LEDGER_KINDS and isinstance(number, int) else None


@dataclass(frozen=True)
class Head:
    """The newest record: its hash tells whether anything before it was changed."""

    relation: str
    id: int
    sha256: str


@dataclass(frozen=True)
class Break:
    """One place where the evidence does not hold: the record (None: no single one), and what is wrong."""

    record: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.record is None else f"record {self.record}: {self.what}"


def sealed(
    before: ChainRecord | None,
    *,
    relation: str,
    kind: str,
    quarter: str | None,
    payload: dict[str, Any],
    at: datetime,
    run_id: str | None,
) -> ChainRecord:
    """Make the record that follows `before` (None for the first one), with its hashes.

    Raises:
        ValueError: The payload has no canonical text: it holds a float, or a value that is not JSON.
    """
    number, previous = (before.id + 1, before.sha256) if before else (1, FIRST)
    payload_sha256 = digest(payload)
    sha256 = _record_sha256(number, relation, kind, quarter, payload_sha256, previous, at, run_id)
    return ChainRecord(number, relation, kind, quarter, payload, payload_sha256, previous, sha256, at, run_id)


def head_of(records: Sequence[ChainRecord]) -> Head | None:
    """The head of records in order; None if there are none."""
    return Head(records[-1].relation, records[-1].id, records[-1].sha256) if records else None


def breaks(
    records: Sequence[ChainRecord], ledger: _Ledger, *, since: Mapping[ChainKind, datetime] | None = None
) -> Iterator[Break]:
    """Yield everything that is wrong, breaks within the chain first; nothing when the evidence holds.

    Args:
        records: All records of one relation, by id.
        ledger: The present contents of every ledger row that records can cover.
        since: The time from which each kind is recorded: a newer row must have a record of its own.
    """
    since = since or {}
    yield from _links(records)
    yield from _against_ledger(records, ledger, since)
    yield from _begun_late(records, ledger, since)


def from_before(
    records: Sequence[ChainRecord], ledger: _Ledger, kind: ChainKind, since: datetime | None
) -> list[RowKey]:
    """Rows older than the time from which their kind is recorded; the kind's first record also adds theirs.

    Until then these rows need no record, just as no row needs one before the chain's first record.
    """
    if not records or since is None or since <= records[0].at or any(record.kind == kind for record in records):
        return []
    covered = {key for record in records for key, _ in _spoken_of(record)}
    limit = moment_text(since) or ""
    older = {key for key, says in ledger.items() if key[0] == kind and _written_at(key, says) <= limit}
    return sorted(older - covered)


def missing_head(records: Sequence[ChainRecord], known: Head) -> Break | None:
    """The break when the chain no longer contains a head that was known once; None when it contains it."""
    there = next((record for record in records if record.id == known.id), None)
    if there is None:
        last = f"ends with record {records[-1].id}" if records else "is empty"
        return Break(known.id, f"the pack knows it, and the chain {last}: its tail was removed")
    if there.sha256 != known.sha256:
        return Break(
            known.id,
            f"the pack knows it as {known.sha256}, the chain has {there.sha256}: the chain was written anew since",
        )
    return None


def genesis_payload(relation: str, ledger: _Ledger) -> dict[str, Any]:
    """The payload of the first record: the SHA-256 of every ledger row that existed before the chain."""
    rows = [{"kind": kind, "row": number, "sha256": digest(dict(says))} for (kind, number), says in ledger.items()]
    rows.sort(key=lambda row: (row["kind"], row["row"]))
    return {"format": FORMAT, "relation": relation, "rows": rows}


def _links(records: Sequence[ChainRecord]) -> Iterator[Break]:
    before: ChainRecord | None = None
    for record in records:
        expected = before.id + 1 if before else 1
        if record.id != expected:
            last = expected if record.id <= expected + 1 else record.id - 1
            names = f"records {expected} to {last} are" if last > expected else "it is"
            after = f"record {before.id}" if before else "nothing"
            yield Break(expected, f"{names} missing: record {record.id} comes after {after}")
        elif record.previous_sha256 != (before.sha256 if before else FIRST):
            yield Break(record.id, "does not follow the record before it: one of the two was changed or swapped")
        if before is None and record.kind != ChainKind.GENESIS and record.id == 1:
            yield Break(record.id, f"the first record is {record.kind}, not {ChainKind.GENESIS.value}")
        yield from _itself(record)
        before = record


def _itself(record: ChainRecord) -> Iterator[Break]:
    try:
        payload = digest(record.payload)
    except ValueError as error:
        payload = f"none ({error})"
    if payload != record.payload_sha256:
        yield Break(record.id, f"its payload ({record.kind}) was changed: its SHA-256 is not the one that was noted")
        return
    sha256 = _record_sha256(record.id, record.relation, record.kind, record.quarter, record.payload_sha256,
                            record.previous_sha256, record.at, record.run_id)  # fmt: skip
    if sha256 != record.sha256:
        yield Break(record.id, f"was changed ({record.kind}): its SHA-256 does not cover what it says now")


def _against_ledger(
    records: Sequence[ChainRecord], ledger: _Ledger, since: Mapping[ChainKind, datetime]
) -> Iterator[Break]:
    spoken: set[RowKey] = set()
    for record in records:
        for key, sha256 in _spoken_of(record):
            spoken.add(key)
            says = ledger.get(key)
            if says is None:
                yield Break(record.id, f"speaks of {named(key)}, which the ledger does not have any more")
            elif digest(dict(says)) != sha256:
                yield Break(record.id, f"{named(key)} was changed in the ledger{_which(record, says)}")
    if not records:
        return  # the chain has not begun: its first record will cover the existing rows
    for kind, moment in since.items():
        spoken.update(from_before(records, ledger, kind, moment))
    for key in ledger:
        if key not in spoken:
            yield Break(None, f"no record speaks of {named(key)}: it was put into the ledger behind the chain's back")


def _begun_late(
    records: Sequence[ChainRecord], ledger: _Ledger, since: Mapping[ChainKind, datetime]
) -> Iterator[Break]:
    """Find rows that a removed and restarted chain covers only in its first record.

    Such a chain begins with a record of all existing rows, also of rows that must have records of their own.
    """
    before = {key for key, _ in _spoken_of(records[0])} if records else set(ledger)
    own = {record.row for record in records}
    limits = {kind.value: moment_text(moment) or "" for kind, moment in since.items()}
    for key in sorted(before & set(ledger) - own):
        if key[0] in limits and _written_at(key, ledger[key]) > limits[key[0]]:
            what = f"{named(key)} has no record of its own, although it came after the chain was there"
            why = "the chain was removed, or another program wrote the row"
            yield Break(records[0].id if records else None, f"{what}: {why}")


def _written_at(key: RowKey, says: Mapping[str, Any]) -> str:
    # All texts have one format and one zone, so they sort as the times do.
    return str(says.get(_WRITTEN_AT.get(key[0], ""), ""))


def _spoken_of(record: ChainRecord) -> Iterator[tuple[RowKey, str]]:
    if record.row is not None:
        yield record.row, digest({name: value for name, value in record.payload.items() if name != "row"})
    elif record.kind == ChainKind.GENESIS:
        rows = record.payload.get("rows")
        for row in cast("list[object]", rows) if isinstance(rows, list) else []:
            match row:
                case {"kind": str(kind), "row": int(number), "sha256": str(sha256)}:
                    yield (kind, number), sha256
                case _:
                    pass  # the payload was changed; the record's own SHA-256 reports that


def _which(record: ChainRecord, says: Mapping[str, Any]) -> str:
    if record.kind == ChainKind.GENESIS:
        return " since the chain began"
    names = [name for name in dict.fromkeys((*says, *record.payload)) if name != "row"]
    changed = [name for name in names if record.payload.get(name) != says.get(name)]
    return f": {', '.join(changed)}" if changed else ""


def named(key: RowKey) -> str:
    """`sign_off 7`."""
    kind, number = key
    return f"{kind} {number}"


def _record_sha256(
    number: int,
    relation: str,
    kind: str,
    quarter: str | None,
    payload_sha256: str,
    previous_sha256: str,
    at: datetime,
    run_id: str | None,
) -> str:
    return digest({
        "format": FORMAT,
        "id": number,
        "relation": relation,
        "kind": kind,
        "quarter": quarter,
        "payload_sha256": payload_sha256,
        "previous_sha256": previous_sha256,
        "at": moment_text(at),
        "run_id": run_id,
    })  # fmt: skip


# What Dagster, or the program that launches its runs, calls the person. Other tags are not about persons.
USER_TAGS = ("user", "dagster/user")
_LONGEST = 200


@dataclass(frozen=True)
class Doer:
    """A process of this program: its user and host, and who launched the run that it works for.

    `os_user` may be empty (a container's uid without a name); `tags` holds those of `USER_TAGS` that the run has.
    """

    os_user: str
    host: str
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_json(self) -> str:
        """As JSON for a session setting, from which the ledger reads it; the server adds the session's role."""
        tags = {name: _fit(value) for name, value in self.tags.items()}
        return json.dumps({"os_user": _fit(self.os_user), "host": _fit(self.host), "tags": tags})


def _fit(text: str) -> str:
    """Tags are written by others, and a text that no jsonb can hold would keep the run's deeds from the ledger."""
    return UNPRINTABLE.sub(" ", text[:_LONGEST]).encode("utf-8", "replace").decode()


def doer_text(done_by: object) -> str:
    """What the ledger recorded of the doer, for people; empty for rows of older versions or of other programs."""
    noted = _object_of(done_by)
    if "role" not in noted:
        return ""
    host = noted.get("host")
    process = [f"{noted.get('os_user') or 'somebody'} on {host}"] if host else []
    tags = [f"{name} {value}" for name, value in _object_of(noted.get("tags")).items()]
    return ", ".join([f"role {noted['role']}", *process, *tags])


def _object_of(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
