"""While the base is in charge every watch also looks whether anybody still reads the legacy."""

import logging

import psycopg

from migration_assets.domain.errors import MigrationError
from migration_assets.domain.legacy_reads import ReadWatch
from migration_assets.ledger.decommissions import current_cutover, read_decommission
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Timeouts
from migration_assets.runtime import Migration
from migration_assets.watch.reads import look_for_reads

log = logging.getLogger(__name__)
_TIMEOUTS = Timeouts(lock=2_000, statement=15_000, idle_in_transaction=30_000)


def note_legacy_reads(migration: Migration) -> ReadWatch | None:
    """One look, kept in the ledger; None while the legacy is in charge or is closed, and where it could not be done.

    For a watch, which has seen to the ledger.

    Never raises what a server says: the next look makes up for this one.
    """
    try:
        with migration.databases.session("base", "watch:reads", _TIMEOUTS) as base:
            relation = migration.spec.relation
            cutover, closed = current_cutover(base, relation), read_decommission(base, relation)
            if cutover is None or (closed is not None and closed.state.final):
                return None
            with migration.databases.session("legacy", "watch:reads", _TIMEOUTS) as legacy:
                return look_for_reads(base, legacy, migration.spec, cutover.id)
    except (psycopg.Error, MigrationError) as error:
        log.info("whether the legacy is read could not be seen: %s", told(error))
        return None
