"""The functions of the triggers that refuse writes during a hold, and the token that lets our own steps pass."""

from collections.abc import Mapping
from typing import LiteralString

from psycopg import sql

from migration_assets.ledger.own_objects import HOLDS, NAMES_OF_HOLDS, require_no_collision
from migration_assets.ledger.session_locks import take_turn_at_objects
from migration_assets.postgres.own_schema import in_own_schema
from migration_assets.postgres.sessions import Connected, require_row

# A session passes with role and token. A reader of the ledger may see the token, but lacks the owner's rights; a
# session with those rights does not pass by accident.
_REFUSE_WRITES = """
BEGIN
    IF coalesce((SELECT h.token = pg_catalog.current_setting('migration.hold_token', true)
                 FROM migration.hold_token h), false)
       AND pg_catalog.pg_has_role(session_user, current_user, 'MEMBER') THEN
        RETURN NULL;
    END IF;
    -- ALTER TABLE … ENABLE TRIGGER ALL, as pg_restore says it, also enables a trigger that held nobody any more. Ours
    -- are never enabled like that. An old snapshot may not show a hold that stands: it is refused.
    IF TG_NARGS > 2 AND pg_catalog.current_setting('transaction_isolation') = 'read committed'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                       WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME AND t.tgenabled = 'A')
       AND NOT EXISTS (SELECT FROM migration.holds h WHERE h.relation = TG_ARGV[1]) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'writes to % are held on the %: a cutover of migration_assets moves them to the other database',
        TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = '25006',
        HINT = 'Try again shortly, on the database that the applications are switched to. Reads go on.'
            || ' A partition of the base may take writes through the table''s own name alone. Where no cutover is'
            || ' under way: migration-assets release-writes';
END """
# Names are qualified, because SET search_path would cost more than the rest of the function, for every row. The worker
# is looked up once: its process serves one subscription all its life, and runs no SQL of a client.
_REFUSE_ROWS = """
DECLARE
    me text := TG_ARGV[2] || '/' || pg_catalog.pg_backend_pid();
    worker text;
    kind text;
BEGIN
    IF pg_catalog.current_setting('migration.worker', true) = me THEN
        RETURN NULL;
    END IF;
    SELECT s.subname INTO worker FROM pg_catalog.pg_stat_subscription s WHERE s.pid = pg_catalog.pg_backend_pid();
    IF worker = TG_ARGV[2] THEN
        PERFORM pg_catalog.set_config('migration.worker', me, false);
        RETURN NULL;
    END IF;
    IF worker IS NULL THEN
        SELECT a.backend_type INTO kind FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a;
        IF kind = 'client backend' THEN
            RETURN NULL;  -- it met, or will meet, the trigger of the table that it named
        END IF;
    END IF;
    RAISE EXCEPTION 'writes to % are held on the %: % must not write there', TG_TABLE_NAME, TG_ARGV[0],
        coalesce('subscription ' || worker, kind, 'a process that is no client')
        USING ERRCODE = '25006',
        HINT = 'Disable that subscription: what it brings belongs to the other database.';
END """
# Slots are read from the server's memory, so that an old snapshot does not hide one.
_REFUSE_TRUNCATE = """
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = TG_ARGV[0]) THEN
        RAISE EXCEPTION 'TRUNCATE of % would not reach the legacy, which a rollback goes back to', TG_TABLE_NAME
            USING ERRCODE = '25006', HINT = 'DELETE reaches the legacy.';
    END IF;
    RETURN NULL;
END """
# By name: options and body. The body also decides whether a trigger is current (see `fences`).
_FUNCTIONS: Mapping[str, tuple[LiteralString, LiteralString]] = {
    "refuse_writes": ("SECURITY DEFINER SET search_path = pg_catalog, pg_temp", _REFUSE_WRITES),
    "refuse_rows": ("", _REFUSE_ROWS),
    "refuse_base_truncate": ("SET search_path = pg_catalog, pg_temp", _REFUSE_TRUNCATE),
}
# The loop revokes what default privileges may have granted to others on the new table.
_MAKE_KEY = """
CREATE TABLE migration.hold_token (token text NOT NULL);
COMMENT ON TABLE migration.hold_token IS
    'migration_assets: who sets migration.hold_token to it, and has its owner''s rights, writes where writes are held';
INSERT INTO migration.hold_token SELECT md5(gen_random_uuid()::text) || md5(gen_random_uuid()::text);
DO $$
DECLARE who text;
BEGIN
    FOR who IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
               FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = 'migration.hold_token'::regclass AND a.grantee <> c.relowner LOOP
        EXECUTE 'REVOKE ALL ON migration.hold_token FROM ' || who;
    END LOOP;
END $$
"""


def make_functions(connection: Connected) -> None:
    """Make the table of holds, the token and the current functions of the triggers; safe to repeat.

    Raises:
        ForeignObjectError: An object that is not ours has one of their names.
    """
    require_no_collision(connection, NAMES_OF_HOLDS)
    with connection.transaction():
        take_turn_at_objects(connection)
        row = connection.execute(
            "SELECT to_regclass('migration.holds') IS NULL, to_regclass('migration.hold_token') IS NULL"
        ).fetchone()
        no_holds, no_token = require_row(row, "to_regclass")
        if no_holds:
            connection.execute("CREATE SCHEMA IF NOT EXISTS migration; CREATE TABLE IF NOT EXISTS " + HOLDS)
        if no_token:
            connection.execute(_MAKE_KEY)
        for name, body in bodies(connection).items():
            connection.execute(
                sql.SQL("CREATE OR REPLACE FUNCTION migration.{}() RETURNS trigger LANGUAGE plpgsql {} AS {}").format(
                    sql.Identifier(name), sql.SQL(_FUNCTIONS[name][0]), sql.Literal(body)
                )
            )


def bodies(connection: Connected) -> dict[str, str]:
    """The body of each function, by name, with the name that our schema has in that database."""
    return {name: in_own_schema(connection, body) for name, (_, body) in _FUNCTIONS.items()}


def let_through(connection: Connected) -> None:
    """Let the session write, until the caller's transaction ends, also where writes are held.

    For our own steps (a true-up, a repair). The token is copied within the server and appears in no statement or log.
    """
    row = connection.execute("SELECT to_regclass('migration.hold_token') IS NOT NULL").fetchone()
    if require_row(row, "to_regclass")[0]:
        connection.execute("SELECT set_config('migration.hold_token', token, true) FROM migration.hold_token")
