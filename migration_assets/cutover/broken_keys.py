"""Counts, around a rollback, the rows of the legacy that break its foreign keys: the way back is checked by none."""

import logging

import psycopg

from migration_assets.cutover.work import Work
from migration_assets.postgres.foreign_keys import count_orphans, note_orphans, read_foreign_keys
from migration_assets.postgres.server_messages import told

# One key's counting may take so long; nobody is held meanwhile.
SECONDS = 30.0
log = logging.getLogger(__name__)


def note_broken_keys(work: Work, *, after: bool) -> None:
    """Into the ledger, key by key. A rollback is the way out: what cannot be counted does not stop it."""
    try:
        keys = read_foreign_keys(work.legacy, work.plan.stream.spec.table)
        found = count_orphans(work.legacy, keys, seconds=SECONDS)
        note_orphans(work.base, work.id, found, after=after)
    except psycopg.Error as error:
        if work.legacy.broken or work.base.broken:
            raise
        log.warning("the legacy's foreign keys could not be looked at: %s", told(error))
        return
    for one in found:
        if one.rows:
            log.warning("rows of the legacy point nowhere, which its foreign key does not notice: %s", one)
