"""After a base was moved by dump and restore, upgraded or failed over: its archive is its own again, by name."""

import logging
from dataclasses import dataclass

from migration_assets.archive.archiving import archive_store
from migration_assets.archive.layout import table_folder
from migration_assets.archive.ledger_identity import adopt, read_archive_writer
from migration_assets.archive.ownership import claim, read_owner, signers
from migration_assets.domain.archive_writer import LedgerIdentity
from migration_assets.domain.errors import ArchiveError
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.runtime import Migration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adopted:
    """Where the place is, and the ledgers that this one says it was before; none where it was its own already."""

    where: str
    ledgers: tuple[str, ...]


def adopt_archive(migration: Migration, by: str) -> Adopted:
    """From now on this base writes the archive, and the one that did must not: it is refused from here on.

    What the other wrote is this ledger's own as far as this ledger knows it. Nothing else changes: no file of a week is
    touched.

    Args:
        migration: Whose archive.
        by: Who says that this base has taken the place of the other.

    Raises:
        ArchiveError: The place is another migration's, or the store says no.
    """
    store, relation = archive_store(migration), migration.spec.relation
    where = store.url_of(table_folder(relation))
    with migration.databases.session("base", "adopt-archive") as base:
        ensure_ledger(base)
        writer = read_archive_writer(base, relation)
        found = set(signers(store, relation))
        try:
            found.update([owner] if (owner := read_owner(store, relation)) is not None else [])
        except ArchiveError as error:  # a file that says nothing is replaced
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
