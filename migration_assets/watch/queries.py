"""What several questions to the legacy begin with: which tables are ours, and which sessions are not."""

from typing import LiteralString

from migration_assets.postgres.other_sessions import APPLICATION_NAME

FAMILY: LiteralString = """
WITH RECURSIVE family AS (
    SELECT to_regclass(%(table)s)::oid AS oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid
)
"""
"""`family`: the table with its children, should it have any."""

CLIENTS: LiteralString = """
clients AS (
    SELECT a.*, {application} AS application,
           coalesce(a.client_addr::text, 'local') AS address
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
      -- Of other roles' sessions a role without pg_read_all_stats sees neither kind nor query.
      AND coalesce(a.backend_type, 'client backend') = 'client backend'
      AND NOT EXISTS (SELECT FROM pg_stat_replication r WHERE r.pid = a.pid)
      AND NOT EXISTS (SELECT FROM pg_stat_subscription s WHERE s.pid = a.pid)
      AND NOT starts_with(coalesce(a.application_name, ''), 'migration_assets:')
)
""".replace("{application}", APPLICATION_NAME)
"""`clients`, after WITH or a comma: sessions in the database that are not ours."""
