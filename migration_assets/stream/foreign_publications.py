"""Foreign publications that carry this program's own tables to their subscribers, and slots that may stall.

A native subscriber ends at the first row of a table that it does not have, and begins again for ever: it gets nothing
of anything any more, and its slot keeps WAL. Nothing that is published for us can be hidden from a publication FOR ALL
TABLES, so that preflight names them before the first marker is written, and the watch looks at them afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import LiteralString

from migration_assets.domain.table_spec import QualifiedName
from migration_assets.ledger.own_objects import HOLDS, MARKERS, REVERSE_MARKERS
from migration_assets.postgres.activity import APPLICATION_NAME
from migration_assets.postgres.sessions import Connected
from migration_assets.stream.slots import OUR_SLOTS

# The tables that a subscriber of all of the legacy's tables must have. It gets none of their rows.
SUBSCRIBERS_TABLES: LiteralString = (
    "CREATE SCHEMA IF NOT EXISTS migration; "
    + "".join(f"CREATE TABLE IF NOT EXISTS {table}; " for table in (MARKERS, HOLDS, REVERSE_MARKERS))
    + "CREATE TABLE IF NOT EXISTS migration.hold_token (token text NOT NULL);"
)
_PUBLICATIONS: LiteralString = """
SELECT p.pubname::text, p.puballtables,
       CASE WHEN p.puballtables THEN format(
           'BEGIN; DROP PUBLICATION %%I; CREATE PUBLICATION %%I FOR TABLES IN SCHEMA %%s WITH (publish = %%L,'
           ' publish_via_partition_root = %%s%%s); COMMIT;', p.pubname, p.pubname,
           (SELECT string_agg(quote_ident(nspname), ', ' ORDER BY nspname) FROM pg_namespace
            WHERE nspname NOT IN ('migration', 'information_schema') AND nspname NOT LIKE 'pg\\_%%'),
           concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
                     CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END),
           p.pubviaroot::text,
           CASE WHEN to_jsonb(p) ->> 'pubgencols' = 's' THEN ', publish_generated_columns = stored' END)
       ELSE format('ALTER PUBLICATION %%I DROP TABLES IN SCHEMA migration;', p.pubname) END
FROM pg_publication p
WHERE p.puballtables OR EXISTS (SELECT FROM pg_publication_namespace n
                                WHERE n.pnpubid = p.oid AND n.pnnspid = to_regnamespace('migration')) ORDER BY 1
"""
# A walsender's statement names its publications, if our role may see it.
_SLOTS: LiteralString = """
SELECT s.slot_name::text, CASE WHEN r.pid IS NOT NULL THEN {application} END, s.active,
       coalesce(position(%(publication)s IN a.query) > 0 OR a.query = '<insufficient privilege>', true)
FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
WHERE s.slot_type = 'logical' AND s.database = current_database() AND s.slot_name NOT LIKE %(ours)s ORDER BY 1
""".replace("{application}", APPLICATION_NAME)
_POSITIONS: LiteralString = """
SELECT s.slot_name::text, s.confirmed_flush_lsn::text FROM pg_replication_slots s
WHERE s.slot_type = 'logical' AND s.database = current_database() AND s.slot_name NOT LIKE %(ours)s
AND EXISTS (SELECT FROM pg_publication p WHERE p.puballtables OR EXISTS (
    SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = to_regnamespace('migration')))
"""
# Publications of the table itself, of a partition, or of all of its schema. Publications of everything are above.
_OF_THE_TABLE: LiteralString = """
WITH tables AS (
    SELECT c.oid, c.relnamespace FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
    UNION
    SELECT c.oid, c.relnamespace FROM pg_partition_tree(to_regclass(%(table)s)) t JOIN pg_class c ON c.oid = t.relid
)
SELECT p.pubname::text,
       -- By the topmost table that it publishes: a partition that is published alone keeps its name.
       p.pubviaroot AND (
           EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = to_regclass(%(table)s))
           OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid
                      WHERE n.pnpubid = p.oid AND c.oid = to_regclass(%(table)s)))
FROM pg_publication p
WHERE NOT p.puballtables AND p.pubname NOT LIKE %(ours)s
AND (EXISTS (SELECT FROM pg_publication_rel r JOIN tables t ON t.oid = r.prrelid WHERE r.prpubid = p.oid)
     OR EXISTS (SELECT FROM pg_publication_namespace n JOIN tables t ON t.relnamespace = n.pnnspid
                WHERE n.pnpubid = p.oid))
ORDER BY 1
"""
# Other output plugins know no publications: they are sent every table.
_OF_EVERYTHING: LiteralString = """
SELECT slot_name::text, plugin::text FROM pg_replication_slots WHERE slot_type = 'logical'
AND database = current_database() AND plugin <> 'pgoutput' AND slot_name NOT LIKE %(ours)s ORDER BY 1
"""


@dataclass(frozen=True)
class Follower:
    """Another receiver of changes of one side's table.

    Attributes:
        name: The name of the publication, or of the slot if its plugin knows no publications.
        what: The same in words.
        by_leaf: Whether a partition's changes are sent under the partition's own name.
        slots: Logical slots whose readers may follow it, with the readers' names.
    """

    name: str
    what: str
    by_leaf: bool
    slots: tuple[str, ...]


@dataclass(frozen=True)
class ForeignPublication:
    """A publication that carries everything in schema `migration`.

    Attributes:
        name: Its name.
        all_tables: FOR ALL TABLES; otherwise FOR TABLES IN SCHEMA migration.
        apart: Statements that publish the same without our schema.
        slots: Logical slots of the database whose readers may follow it, with the readers' names.
    """

    name: str
    all_tables: bool
    apart: str
    slots: tuple[str, ...]


def foreign_publications(connection: Connected) -> list[ForeignPublication]:
    """Read all such publications; our own name single tables."""
    found: list[ForeignPublication] = []
    for name, all_tables, apart in connection.execute(_PUBLICATIONS, {}).fetchall():
        found.append(ForeignPublication(name, all_tables, apart, _slots(connection, name)))
    return found


def followers(connection: Connected, table: QualifiedName) -> list[Follower]:
    """Everybody who is sent the table's changes, except our own streams and publications of everything."""
    asked = {"table": str(table), "ours": OUR_SLOTS}
    found = [
        Follower(name, f"publication {name}", not via_root, _slots(connection, name))
        for name, via_root in connection.execute(_OF_THE_TABLE, asked).fetchall()
    ]
    return found + [
        Follower(slot, f"slot {slot}, whose plugin {plugin} is given every table,", True, (slot,))
        for slot, plugin in connection.execute(_OF_EVERYTHING, asked).fetchall()
    ]


def _slots(connection: Connected, publication: str) -> tuple[str, ...]:
    """Return other people's slots whose readers may follow the publication, with their readers."""
    slots = connection.execute(_SLOTS, {"publication": publication, "ours": OUR_SLOTS}).fetchall()
    return tuple(f"{slot} ({reader or 'no reader now'})" for slot, reader, _, may_follow in slots if may_follow)


def slots_at_risk(connection: Connected) -> Mapping[str, str | None]:
    """Where each logical slot of others stands; empty where no publication of others carries our tables."""
    return dict(connection.execute(_POSITIONS, {"ours": OUR_SLOTS}).fetchall())
