"""Everything that a migration could leave behind on the legacy, read straight from the catalogue, to be compared."""

from typing import Any

from migration_assets_tests.ground import Ground

_MINE = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
_QUERIES = {
    "schemas": "SELECT nspname, nspowner, nspacl::text FROM pg_namespace n WHERE " + _MINE,
    # Not relhastriggers: a hint, which PostgreSQL itself takes back at the next VACUUM.
    "relations": (
        "SELECT n.nspname, c.relname, c.oid, c.relfilenode, c.relkind, c.relowner, c.relacl::text, c.relreplident,"
        " c.relrowsecurity, c.reloptions::text FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE " + _MINE
    ),
    "columns": (
        "SELECT c.relname, a.attname, a.atttypid, a.attnotnull, a.attacl::text, a.attidentity FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _MINE
    ),
    "indexes": (
        "SELECT pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisreplident, i.indisclustered FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _MINE
    ),
    "constraints": "SELECT conname, pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN pg_namespace n"
    " ON n.oid = c.connamespace WHERE " + _MINE,
    "triggers": "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger"
    " WHERE NOT tgisinternal",
    "functions": "SELECT n.nspname, p.proname, p.prosrc, p.proacl::text FROM pg_proc p JOIN pg_namespace n"
    " ON n.oid = p.pronamespace WHERE " + _MINE,
    "types": "SELECT n.nspname, t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE " + _MINE,
    "publications": "SELECT p.pubname, r.prrelid::regclass::text FROM pg_publication p"
    " LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid",
    "slots": "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()",
    "subscriptions": "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
    " WHERE d.datname = current_database()",
    "event triggers": "SELECT evtname FROM pg_event_trigger",
    "comments": "SELECT objoid, objsubid, description FROM pg_description WHERE objoid >= 16384",
    "settings": "SELECT setrole, setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
    " WHERE d.datname = current_database()",
}


def catalogue(ground: Ground) -> dict[str, list[Any]]:
    """The legacy's, by kind; equal to another one if and only if nothing differs."""
    return {
        kind: sorted(map(repr, ground.ask("legacy", query)))  # pyright: ignore[reportArgumentType]
        for kind, query in _QUERIES.items()
    }


def assert_as_found(ground: Ground, before: dict[str, list[Any]]) -> None:
    """Nothing on the legacy differs."""
    now = catalogue(ground)
    differing = {
        kind: (sorted(set(now[kind]) - set(before[kind])), sorted(set(before[kind]) - set(now[kind])))
        for kind in before
        if now[kind] != before[kind]
    }
    assert not differing, differing
