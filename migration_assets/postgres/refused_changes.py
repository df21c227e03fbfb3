"""Publications that make the server refuse every UPDATE and DELETE of a table, whoever sends it.

At each change PostgreSQL checks the publications of the table against its replica identity: a column list must hold
the whole identity (with FULL no list is allowed), and a row filter may use columns of the identity only. The writer
gets the error, be it an application or an apply worker.
"""

from dataclasses import dataclass
from typing import Literal

from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.sessions import Connected


@dataclass(frozen=True)
class RefusedChanges:
    """One publication, and what it makes impossible.

    Attributes:
        publication: Its name.
        what: Which changes of which table are refused, and why.
        remedy: The statements that repair it, with words on what subscribers need first.
    """

    publication: str
    what: str
    remedy: str


# `forced` is the identity that the table is about to get. With publish_via_partition_root a leaf is published as the
# topmost ancestor that the publication names, else as itself.
_REFUSED = """
WITH tables AS (
    SELECT c.oid, coalesce(%(forced)s, c.relreplident::text) AS identity
    FROM pg_class c WHERE c.oid = to_regclass(%(table)s) AND c.relkind = 'r'
    UNION
    SELECT t.relid, coalesce(%(forced)s, c.relreplident::text)
    FROM pg_partition_tree(to_regclass(%(table)s)) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf
), keyed AS (
    SELECT t.oid, t.identity, i.indrelid IS NOT NULL AS has_key,
           coalesce((SELECT array_agg(a.attname) FROM unnest(i.indkey::int2[]) k
                     JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k), '{}') AS key
    FROM tables t LEFT JOIN pg_index i ON i.indrelid = t.oid
         AND (t.identity = 'd' AND i.indisprimary OR t.identity = 'i' AND i.indisreplident)
), published AS (
    SELECT p.oid AS publication, p.pubname, k.*,
           CASE WHEN p.pubviaroot THEN coalesce(
               (SELECT a.relid::oid FROM pg_partition_ancestors(k.oid) WITH ORDINALITY a(relid, place)
                WHERE EXISTS (SELECT FROM pg_publication_rel x WHERE x.prpubid = p.oid AND x.prrelid = a.relid)
                ORDER BY place DESC LIMIT 1), k.oid) ELSE k.oid END AS as_table,
           p.puballtables OR EXISTS (
               SELECT FROM pg_publication_rel x WHERE x.prpubid = p.oid
               AND (x.prrelid = k.oid OR x.prrelid IN (SELECT relid FROM pg_partition_ancestors(k.oid))))
           OR EXISTS (
               SELECT FROM pg_publication_namespace x JOIN pg_class c ON c.relnamespace = x.pnnspid
               WHERE x.pnpubid = p.oid
               AND (c.oid = k.oid OR c.oid IN (SELECT relid FROM pg_partition_ancestors(k.oid)))) AS is_published
    FROM pg_publication p, keyed k WHERE (p.pubupdate OR p.pubdelete) AND p.pubname <> %(own)s
), listed AS (
    SELECT p.*, r.prrelid, r.prqual, r.prattrs IS NOT NULL AS has_list,
           coalesce((SELECT array_agg(a.attname ORDER BY a.attnum) FROM unnest(r.prattrs::int2[]) k
                     JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k), '{}') AS columns,
           coalesce((SELECT array_agg(a.attname) FROM pg_depend d
                     JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                     WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid AND d.refobjid = r.prrelid
                     AND r.prqual IS NOT NULL
                     AND (r.prattrs IS NULL OR NOT a.attnum = ANY(r.prattrs::int2[])
                          OR position(quote_ident(a.attname) IN pg_get_expr(r.prqual, r.prrelid)) > 0)
                    ), '{}') AS filters
    FROM published p LEFT JOIN pg_publication_rel r ON r.prpubid = p.publication AND r.prrelid = p.as_table
    WHERE p.is_published
), judged AS (
    SELECT l.*, CASE
        WHEN l.identity = 'n' OR l.identity IN ('d', 'i') AND NOT l.has_key THEN 'nothing'
        WHEN l.identity = 'f' AND l.has_list THEN 'list'
        WHEN l.has_list AND NOT l.key <@ l.columns THEN 'key'
        WHEN l.identity <> 'f' AND NOT l.filters <@ l.key THEN 'filter'
    END AS why
    FROM listed l
)
SELECT j.pubname::text, j.why, count(*), min(j.oid::regclass::text), min(j.prrelid::regclass::text),
       format('BEGIN; ALTER PUBLICATION %%I DROP TABLE %%s; ALTER PUBLICATION %%I ADD TABLE %%s%%s; COMMIT;',
              j.pubname, j.prrelid::regclass, j.pubname, j.prrelid::regclass,
              ' WHERE (' || pg_get_expr(j.prqual, j.prrelid) || ')'),
       format('BEGIN; ALTER PUBLICATION %%I DROP TABLE %%s; ALTER PUBLICATION %%I ADD TABLE %%s; COMMIT;',
              j.pubname, j.prrelid::regclass, j.pubname, j.prrelid::regclass),
       (SELECT string_agg(format('%%I %%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = j.prrelid AND a.attnum > 0 AND NOT a.attisdropped
        AND NOT a.attname = ANY(j.columns)),
       array_to_string(j.columns, ', '), array_to_string(j.filters, ', ')
FROM judged j WHERE j.why IS NOT NULL
GROUP BY j.pubname, j.why, j.prrelid, j.prqual, j.columns, j.filters ORDER BY 1, 2, 4
"""


def refused_changes(
    connection: Connected, table: QualifiedName, *, identity: Literal["f"] | None = None, own: str = ""
) -> list[RefusedChanges]:
    """Find every publication that makes updates and deletes of the table, or of its leaves, fail.

    Args:
        connection: The side that holds the table.
        table: An ordinary or a partitioned one; where there is none, nothing is refused.
        identity: The replica identity that it is about to get; None: the one that it has.
        own: A publication that is not looked at: ours, which the caller makes anew.
    """
    # With this search_path every name comes out qualified, so that the statements run in any session.
    with connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog")
        rows = connection.execute(_REFUSED.encode(), {"table": str(table), "forced": identity, "own": own}).fetchall()
    return [_refused(*row) for row in rows]


def _refused(
    name: str,
    why: str,
    tables: int,
    table: str,
    published: str | None,
    with_filter: str,
    plain: str,
    missing: str | None,
    columns: str,
    filters: str,
) -> RefusedChanges:
    where = table if tables == 1 else f"{table} and {tables - 1} more partitions"
    fails = f"every UPDATE and DELETE of {where} fails"
    if why == "list":
        what = f"publication {name} has a column list ({columns}), and with REPLICA IDENTITY FULL {fails}"
    elif why == "key":
        what = f"publication {name} has a column list ({columns}) without the whole replica identity: {fails}"
    elif why == "filter":
        what = f"publication {name} filters rows by ({filters}), which are not all in the replica identity: {fails}"
    else:
        what = f"publication {name} publishes updates and deletes of a table without replica identity: {fails}"
    if why == "nothing":
        return RefusedChanges(name, what, f"ALTER TABLE {table} REPLICA IDENTITY FULL; -- on each such table")
    if why == "filter":
        return RefusedChanges(name, what, f"{plain} -- its subscribers then get every row")
    before = (
        f"its subscribers first need the columns that they do not have yet: on each of them ALTER TABLE {published} ADD"
        f" COLUMN … for {missing}. Then, here: " if missing else ""
    )  # fmt: skip
    return RefusedChanges(name, what, f"{before}{with_filter} -- it then publishes all columns")
