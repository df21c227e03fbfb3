"""The steps on a week's archive: write it, read it again, say when it was last tried, and adopt it after a move.

PostgreSQL is on one side, files are on the other, and the ledger stands in between.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from migration_assets.archive.export import export_query, profile_slice
from migration_assets.archive.manifest import Manifest, new_generation, slice_folder, table_folder
from migration_assets.archive.ownership import (
    ArchiveWriter,
    LedgerIdentity,
    adopt,
    claim,
    read_archive_writer,
    read_owner,
    require_own,
    signers,
)
from migration_assets.archive.parts import to_stored
from migration_assets.archive.store import open_store, same_place
from migration_assets.archive.store_base import ArchiveStore
from migration_assets.archive.verification import DamagedArchiveError, trusted_manifest, verify_archive
from migration_assets.archive.writer import Progress, WriteLimits, write_slice
from migration_assets.copying.throttle import CopyLimits
from migration_assets.domain.definitions import Definitions
from migration_assets.domain.errors import ArchiveError, SliceStateError
from migration_assets.domain.fingerprint import METHOD, PORTABLE_METHOD
from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.domain.states import SliceState, instant_text, require_slice_transition
from migration_assets.ledger.archives import (
    ArchiveEvidence,
    ArchiveRecord,
    read_trials,
    record_archive,
    record_reread,
    require_archive,
)
from migration_assets.ledger.charge import is_base_in_charge
from migration_assets.ledger.definitions import require_all_rows, table_states
from migration_assets.ledger.slices import (
    SliceRecord,
    begin_attempt,
    end_attempt,
    note_failure,
    require_slice,
    slice_lock,
)
from migration_assets.ledger.steps import open_ledger, run_step
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.catalogue import changes_by_leaf, require_table
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.snapshots import base_tables, begin_reading
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamLimits
from migration_assets.stream.servers import require_servers

log = logging.getLogger(__name__)
_MB = 1_000_000
_ROW_GROUP_BYTES = 64 * _MB


@dataclass(frozen=True)
class Archived:
    """A week in Parquet that two engines found equal; `seconds` is the duration of the whole step."""

    record: ArchiveRecord
    manifest: Manifest
    seconds: float


def archive_store(migration: Migration) -> ArchiveStore:
    """Return the store of this migration's archives.

    Raises:
        ArchiveError: The URL cannot be read.
    """
    url = migration.settings.archive_url
    return open_store(url.get_secret_value() if url else str(migration.settings.var / "archive"))


def archive_week(
    migration: Migration, week: FiscalWeek, *, run_id: str | None = None, on_progress: Progress | None = None
) -> Archived:
    """Write the week to Parquet from one snapshot of its leaf, verify it, and replace an older archive with it.

    Raises:
        SliceStateError: The week is not signed off (while the base is in charge: not over), or it has left the base.
        ForeignArchiveError: The archive there was written by another ledger: this base is a copy, or was moved.
        ArchiveError: It cannot be written or does not read back equal; its `state_left` says what is in place.
        SliceBusyError: Another run works on the week.
    """
    store = archive_store(migration)

    def once() -> Archived:
        started = time.monotonic()
        timeouts = CopyLimits.of(migration.settings).timeouts()
        with migration.databases.session("base", f"{week.key}:archive", timeouts) as base:
            require_servers(migration.databases, base, migration.spec.relation)
            with slice_lock(base, require_slice(base, migration.spec.relation, week)) as record:
                # A rollback needs the slice's lock, so the side in charge cannot change until the archive is in place.
                own = is_base_in_charge(base, record.relation)
                if own:
                    _require_over(migration, record)
                require_slice_transition(record.state, SliceState.ARCHIVED, where=week.key, base_in_charge=own)
                if record.state is SliceState.RETIRED:
                    raise _has_left(week)
                writer = read_archive_writer(base, record.relation)
                require_own(store, record.relation, week, writer)
                attempt = begin_attempt(base, record, "archive", run_id)
                try:
                    manifest, changes, definitions = _write(migration, store, record, writer, on_progress)
                    with base.transaction():
                        evidence = _evidence(store, manifest, changes, definitions)
                        record_archive(base, record, evidence, run_id, base_in_charge=own)
                        end_attempt(base, attempt, "succeeded", base=manifest.native)
                except BaseException as error:
                    note_failure(base, attempt, error)
                    raise
                written = require_archive(base, migration.spec.relation, week)
        return Archived(written, manifest, time.monotonic() - started)

    return run_step(migration, f"archive of {week.key}", once)


def reread_archive(migration: Migration, week: FiscalWeek, *, run_id: str | None = None) -> Archived:
    """Read the week's files again and compare every byte with what the ledger knows; the ledger notes the result.

    Raises:
        ArchiveError: There is no archive, or it is no longer what was proven; says which file and what is wrong.
        SliceBusyError: Another run works on the week.
    """
    store = archive_store(migration)
    started = time.monotonic()
    with (
        migration.databases.session("base", f"{week.key}:reread", CopyLimits.of(migration.settings).timeouts()) as base,
        slice_lock(base, require_slice(base, migration.spec.relation, week)) as record,
    ):
        archive = require_archive(base, migration.spec.relation, week)
        attempt = begin_attempt(base, record, "reread", run_id)
        try:
            manifest = reread(store, base, archive)
        except BaseException as error:
            note_failure(base, attempt, error)
            raise
        end_attempt(base, attempt, "succeeded", base=archive.native)
        return Archived(require_archive(base, migration.spec.relation, week), manifest, time.monotonic() - started)


def reread(store: ArchiveStore, base: Connected, archive: ArchiveRecord) -> Manifest:
    """Read the archive again like `reread_archive`, for a caller who holds the slice's lock; records the result.

    Raises:
        ArchiveError: It is no longer what was proven.
    """
    try:
        manifest = trusted(store, archive)
        verify_archive(store, manifest)
    except DamagedArchiveError as error:
        # Only damage is recorded: other errors say nothing about the files.
        record_reread(base, archive.id, str(error))
        raise
    record_reread(base, archive.id, None)
    return manifest


def trusted(store: ArchiveStore, archive: ArchiveRecord) -> Manifest:
    """Return the archive's manifest, if it is the one that the ledger knows; the files themselves are not read.

    Raises:
        ArchiveError: It is missing or another one, or the archive lies in another store.
    """
    require_here(store, archive)
    return trusted_manifest(
        store, archive.relation, archive.week, archive.manifest_sha256, archive.portable, archive.native
    )


def require_here(store: ArchiveStore, archive: ArchiveRecord) -> None:
    """Require that the archive lies in this store, as the ledger has it; nothing is read.

    Raises:
        ArchiveError: The ledger says that it lies in another place.
    """
    folder = store.url_of(slice_folder(archive.relation, archive.week))
    if not same_place(folder, archive.location):
        raise ArchiveError(
            f"the archive lies in {archive.location}, and the settings say {folder}",
            where=archive.week.key,
            state_left="nothing was touched",
            next_step="set MIGRATION_ARCHIVE_URL back, or move the files and archive the week again",
        )


def _write(
    migration: Migration,
    store: ArchiveStore,
    record: SliceRecord,
    writer: ArchiveWriter,
    on_progress: Progress | None,
) -> tuple[Manifest, int, Definitions]:
    spec, week = migration.spec, record.week
    leaf = spec.table.sibling(record.leaf)
    settings = migration.settings
    with ExitStack() as stack:
        purpose = f"{week.key}:archive:snapshot"
        timeouts = StreamLimits.of(migration.settings).timeouts()
        reader = stack.enter_context(migration.databases.session("base", purpose, timeouts))
        changes = changes_by_leaf(reader, spec.table, [record.leaf]).get(record.leaf, 0)
        begin_reading(reader, base_tables(reader, spec, [week]))
        snapshot, lsn, at, server = require_row(
            reader.execute(
                "SELECT pg_export_snapshot(), pg_current_wal_insert_lsn()::text, clock_timestamp(),"
                " current_setting('server_version')"
            ).fetchone(),
            "a snapshot",
        )
        require_all_rows(reader, leaf, "base")
        states = table_states(reader, [spec.table, leaf])
        definitions = Definitions(None, states.get(spec.table), states.get(leaf))
        root = require_table(reader, spec.table, "base")
        profile = profile_slice(reader, leaf, root)
        key = root.base_primary_key(spec.control_column)
        manifest = Manifest(
            relation=spec.relation,
            week=week,
            control_column=spec.control_column,
            key_columns=key,
            lower_bound=record.lower_bound,
            upper_bound=record.upper_bound,
            generation=new_generation(at),
            rows=profile.native.rows,
            native=profile.native,
            native_method=METHOD,
            portable=profile.portable,
            portable_method=PORTABLE_METHOD,
            columns=profile.columns,
            statistics=profile.statistics,
            lsn=lsn,
            snapshot_at=at,
            archived_at=datetime.now(UTC),
            versions=_versions(server),
            ledger=str(writer.identity),
            files=(),
        )
        order = [spec.control_column, *(name for name in key if name != spec.control_column)]
        query = export_query(leaf, profile.columns, order).as_string(reader)
        limits = WriteLimits(settings.archive_file_mb * _MB, settings.archive_row_group_rows, _ROW_GROUP_BYTES)
        try:
            with arrow_stream(migration.databases.base_url, str(snapshot), query, (leaf,)) as batches:
                stored = (to_stored(batch, profile.columns) for batch in batches)
                return write_slice(store, manifest, stored, limits, on_progress, writer=writer), changes, definitions
        except ArchiveError:
            # If the server went away, this raises an error that is retried.
            reader.execute("SELECT 1")
            raise


def _evidence(store: ArchiveStore, manifest: Manifest, changes: int, definitions: Definitions) -> ArchiveEvidence:
    return ArchiveEvidence(
        location=store.url_of(slice_folder(manifest.relation, manifest.week)),
        generation=manifest.generation,
        manifest_sha256=manifest.sha256,
        files=len(manifest.files),
        bytes=manifest.total_bytes,
        native=manifest.native,
        portable=manifest.portable,
        portable_method=manifest.portable_method,
        lsn=manifest.lsn,
        snapshot_at=manifest.snapshot_at,
        leaf_changes=changes,
        definitions=definitions,
    )


def _versions(server: str) -> dict[str, str]:
    packages = ("migration-assets", "pyarrow", "duckdb", "adbc-driver-postgresql")
    return {**{name: version(name) for name in packages}, "PostgreSQL": server}


def _require_over(migration: Migration, record: SliceRecord) -> None:
    """Require that an unsigned week is over: while the base is in charge, no week can be signed off."""
    signed = record.state in {SliceState.SIGNED_OFF, SliceState.ARCHIVED, SliceState.RETIRED}
    upper = migration.calendar.bounds(record.week).upper
    if not signed and upper > migration.now():
        raise SliceStateError(
            f"the week is not over: it ends at {instant_text(upper)}",
            where=record.week.key,
            state_left="nothing was touched",
            next_step="wait until then: bookings of it are still to come",
        )


def _has_left(week: FiscalWeek) -> SliceStateError:
    return SliceStateError(
        "the week has left the base; its rows are in the archive alone",
        where=week.key,
        state_left="nothing was touched",
        next_step="to read the files again use the job verify_archives; to bring the week back, restore_slices",
    )


_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Trial:
    """The newest time that the archive's rows were read back, and the result.

    Attributes:
        what: The kind of trial that it was, such as a drill.
        equal: Whether the rows were equal.
        error: What went wrong, if anything.
        age_days: Days since then by the migration's clock; 0 if it lies in the future.
        drills: Number of drills of the week's archive so far.
    """

    what: str
    equal: bool
    error: str | None
    age_days: float
    drills: int


def last_trial(migration: Migration, week: FiscalWeek) -> Trial | None:
    """The newest drill or restore of the week's archive, or its making; None where there is no archive."""
    with open_ledger(migration, f"{week.key}:drills") as base:
        found = read_trials(base, migration.spec.relation, week)
    if not found:
        return None
    newest = found[-1]
    return Trial(
        newest.kind,
        newest.equal,
        newest.error,
        max(0.0, (migration.now() - newest.at).total_seconds() / _SECONDS_A_DAY),
        sum(trial.kind == "drill" for trial in found),
    )


@dataclass(frozen=True)
class Adopted:
    """The adopted place, and the identities that this ledger now declares its former ones; none if it was its own."""

    where: str
    ledgers: tuple[str, ...]


def adopt_archive(migration: Migration, by: str) -> Adopted:
    """Make this base the writer of the archive; the base that wrote it before is refused from now on.

    Archives that the other base wrote count as this ledger's own if this ledger recorded them. No file of a week is
    touched.

    Args:
        migration: The migration whose archive is adopted.
        by: The person who confirms that this base has replaced the other one.

    Raises:
        ArchiveError: The place belongs to another migration, or the store refuses.
    """
    store, relation = archive_store(migration), migration.spec.relation
    where = store.url_of(table_folder(relation))
    with open_ledger(migration, "adopt-archive") as base:
        writer = read_archive_writer(base, relation)
        found = set(signers(store, relation))
        try:
            found.update([owner] if (owner := read_owner(store, relation)) is not None else [])
        except ArchiveError as error:  # an unreadable `ledger.json` is replaced
            log.warning("%s", error.what)
        strangers = [one for one in found if not _same_ledger(one, writer.identity)]
        if strangers:
            raise ArchiveError(
                f"archives of another ledger lie there: {', '.join(sorted(strangers))}",
                where=where,
                state_left="nothing was changed",
                next_step="give this base a place of its own: MIGRATION_ARCHIVE_URL",
            )
        others = tuple(sorted(found - {str(writer.identity)} - writer.before))
        with base.transaction():
            adopt(base, relation, writer.identity, (str(writer.identity), *others), by)
            claim(store, relation, writer)
    return Adopted(where, others)


def _same_ledger(text: str, identity: LedgerIdentity) -> bool:
    try:
        return LedgerIdentity.parse(text).ledger == identity.ledger
    except ValueError:
        return False
