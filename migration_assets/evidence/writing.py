"""Writes evidence packs, records each in the chain, and verifies the chain, also against an older pack."""

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psycopg

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.evidence_chain import Break, ChainKind, ChainRecord, EvidenceError, Head, head_of
from migration_assets.domain.fiscal_calendar import FiscalQuarter
from migration_assets.domain.states import SliceState
from migration_assets.evidence.document import Answer, answer, document, head_in
from migration_assets.evidence.facts import read_pack_facts
from migration_assets.evidence.pack import PackFacts
from migration_assets.ledger.chain import append, begin_chain, verify_chain
from migration_assets.ledger.schema import require_ledger
from migration_assets.ledger.slices import read_slices
from migration_assets.ledger.steps import open_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, Timeouts, uncounted
from migration_assets.quarters.legacy_weeks import held_quarters
from migration_assets.runtime import Migration

_WHOLE = "migration"
log = logging.getLogger(__name__)
# Reading the records of years takes longer than the catalogue queries that the default timeouts are for.
_TIMEOUTS = Timeouts(statement=600_000, idle_in_transaction=600_000)


@dataclass(frozen=True)
class WrittenPack:
    """One written file; `quarter` is None for the whole migration, `answer` is the sentence at its top."""

    path: Path
    quarter: FiscalQuarter | None
    sha256: str
    answer: Answer
    head: Head


@dataclass(frozen=True)
class VerifiedChain:
    """The result of a verification; `head` is None for an empty chain, `pack` is the head that the pack names."""

    relation: str
    records: int
    head: Head | None
    breaks: tuple[Break, ...]
    pack: Head | None = None

    @property
    def holds(self) -> bool:
        """Whether no record was changed."""
        return not self.breaks


def write_packs(
    migration: Migration,
    quarters: Sequence[FiscalQuarter] = (),
    folder: Path | None = None,
    *,
    run_id: str | None = None,
) -> list[WrittenPack]:
    """Write the pack of each given quarter; by default of every quarter that was begun, and of the whole migration.

    Args:
        migration: The migration; its legacy is only asked which quarters it holds, and may be unreachable.
        quarters: The quarters to write; none for all and the whole.
        folder: Where the files go; by default `evidence` below `MIGRATION_VAR`.
        run_id: Recorded in the chain.

    Raises:
        EvidenceError: The ledger does not know a quarter, or a file cannot be written; packs written before remain.
    """
    target = (folder or migration.settings.var / "evidence").absolute()
    with open_ledger(migration, "evidence", _TIMEOUTS) as base:
        begin_chain(base, migration.spec.relation)
        scopes = _scopes(migration, base, quarters)
        return [_write(migration, base, scope, target, run_id) for scope in scopes]


def verify_evidence(migration: Migration, pack: Path | None = None) -> VerifiedChain:
    """Recompute every record and compare it with the ledger, and with the head that a pack names; changes nothing.

    Raises:
        EvidenceError: The file cannot be read, is not a pack, or is the pack of another table.
    """
    relation = migration.spec.relation
    known = content = None
    if pack is not None:
        content = _content(pack)
        known = head_in(content.decode(errors="replace"), str(pack))
        if known.relation != relation:
            raise EvidenceError(
                f"this pack is of {known.relation}, and the settings are of {relation}",
                where=str(pack),
                state_left="nothing was compared",
                next_step="set MIGRATION_TABLE, or give a pack of this table",
            )
    with migration.databases.session("base", "evidence", _TIMEOUTS) as base:
        require_ledger(base)
        with _one_moment(base):
            records, found = verify_chain(base, relation, pack=known)
    if content is not None and not _was_written(records, content):
        found = (*found, Break(None, f"no record has the SHA-256 of {pack}: the file was changed after it was written"))
    return VerifiedChain(relation, len(records), head_of(records), found, known)


def _scopes(migration: Migration, base: Connected, quarters: Sequence[FiscalQuarter]) -> Sequence[FiscalQuarter | None]:
    records = read_slices(base, migration.spec.relation)
    known = {record.week.quarter for record in records}
    lacking = [quarter.key for quarter in quarters if quarter not in known]
    if lacking or not known:
        raise EvidenceError(
            f"the ledger has no weeks of {', '.join(lacking) or migration.spec.relation}",
            where="evidence",
            state_left="nothing was written",
            next_step="see `migration-assets status` for the quarters that exist",
        )
    begun = sorted({record.week.quarter for record in records if record.state is not SliceState.ABSENT})
    return list(dict.fromkeys(quarters)) or [*begun, None]


def _write(
    migration: Migration, base: Connected, quarter: FiscalQuarter | None, folder: Path, run_id: str | None
) -> WrittenPack:
    held = None if quarter else _held(migration)
    with _one_moment(base):
        facts = _facts(migration, base, quarter, held)
    content = document(facts).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    table = re.sub(r"[^A-Za-z0-9_.-]+", "_", migration.spec.relation)
    path = folder / f"evidence-{table}-{quarter.key if quarter else _WHOLE}.html"
    # A random name: in a shared folder, a predictable one could be a link that another user put there.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Recorded before it is in place, so that no page is ever there that the chain does not know.
        append(
            base,
            migration.spec.relation,
            ChainKind.PACK,
            {"file": path.name, "sha256": sha256, "head": facts.head.id, "head_sha256": facts.head.sha256},
            quarter=quarter.key if quarter else None,
            run_id=run_id,
        )
        aside.replace(path)
    except OSError as error:
        raise EvidenceError(
            f"the file cannot be written: {error.strerror}",
            where=str(path),
            state_left="an older file of this name is unchanged",
            next_step="name a folder that can be written to with --to",
        ) from error
    finally:
        with suppress(OSError):  # after a success it was renamed and is gone
            aside.unlink(missing_ok=True)
    return WrittenPack(path, quarter, sha256, answer(facts), facts.head)


def _held(migration: Migration) -> list[FiscalQuarter] | None:
    """Return the quarters that the legacy holds, so that the page omits none; None if it cannot be asked."""
    try:
        with migration.databases.session("legacy", "evidence") as legacy:
            uncounted(legacy)
            description = require_table(legacy, migration.spec.table, "legacy")
            return held_quarters(legacy, description, migration.spec, migration.calendar)
    except (psycopg.Error, MigrationError) as error:
        log.warning("the legacy cannot be asked which quarters it holds: %s", told(error))
        return None


def _facts(
    migration: Migration, base: Connected, quarter: FiscalQuarter | None, held: Sequence[FiscalQuarter] | None
) -> PackFacts:
    return read_pack_facts(
        base,
        migration.spec,
        quarter,
        held=held,
        time_zone=migration.settings.fiscal_time_zone,
        package=version("migration-assets"),
    )


@contextmanager
def _one_moment(base: Connected) -> Generator[None]:
    with base.transaction():
        base.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _content(pack: Path) -> bytes:
    try:
        return pack.read_bytes()
    except OSError as error:
        raise EvidenceError(
            f"the file cannot be read: {error.strerror}",
            where=str(pack),
            state_left="nothing was compared",
            next_step="name a file that `migration-assets evidence write` wrote",
        ) from error


def _was_written(records: Sequence[ChainRecord], content: bytes) -> bool:
    sha256 = hashlib.sha256(content).hexdigest()
    return any(record.kind == ChainKind.PACK and record.payload.get("sha256") == sha256 for record in records)
