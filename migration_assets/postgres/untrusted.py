"""How it is seen in the catalogue whether a role that is not ours could have its statements run as our role."""

from typing import LiteralString

# A superuser is every role's member by effect: for one only real memberships count.
TRUSTED: LiteralString = """
WITH trusted AS (
    SELECT r.oid FROM pg_roles r, pg_roles me WHERE me.rolname = current_user
    AND (r.oid = me.oid OR r.rolsuper OR NOT me.rolsuper AND pg_has_role(r.oid, 'USAGE')
         OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = me.oid AND m.roleid = r.oid))
)
"""
# What questions read, and the function below it.
_HOT_VIEWS: LiteralString = "^hot_[0-9a-f]{12}$"
# What belongs to a table: its defaults, constraints, indexes, triggers, rules, policies, statistics; and the table
# itself, for the types of its columns. Each of them can name a function that runs when somebody writes or reads.
_PARTS: LiteralString = """(
    SELECT h.classid, h.objid FROM pg_depend h
    WHERE h.refclassid = 'pg_class'::regclass AND h.refobjid = _table AND h.deptype IN ('a', 'i')
    UNION ALL SELECT 'pg_class'::regclass, _table
)"""
# What a part uses that is not the system's own, and who owns it; of an operator its function counts.
_USED: LiteralString = """(
    SELECT d.refclassid, d.refobjid, d.objsubid, coalesce(p.proowner, t.typowner) AS owner FROM pg_depend d
    LEFT JOIN pg_operator x ON d.refclassid = 'pg_operator'::regclass AND x.oid = d.refobjid
    LEFT JOIN pg_proc p ON p.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE x.oprcode END
    LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
    WHERE d.classid = part.classid AND d.objid = part.objid AND d.refobjid >= 16384
      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
)"""
# What could run somebody's statements as our role, or show him what is ours: whose owner may add triggers, rules,
# defaults and policies to it, or replace its text; the right to add a trigger. What he added while a table was his own
# stays when it is handed over: a part that uses a function or a type of his, a rule, a table that inherits.
UNTRUSTED: LiteralString = (
    """
, ours AS (
    SELECT c.oid, c.relname, c.relowner, c.relacl, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
           WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind
    FROM pg_class c WHERE c.relnamespace = to_regnamespace('migration') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND (c.relname = ANY(%(names)s) OR c.relname ~ '_hot_views')
)
SELECT format('role %%I owns %%s migration.%%I', pg_get_userbyid(o.relowner), lower(o.kind), o.relname),
       format('ALTER %%s migration.%%I OWNER TO CURRENT_USER;', o.kind, o.relname)
FROM ours o WHERE o.relowner NOT IN (SELECT oid FROM trusted)
UNION ALL
SELECT format('role %%I owns function %%s', pg_get_userbyid(p.proowner), p.oid::regprocedure),
       format('ALTER FUNCTION %%s OWNER TO CURRENT_USER;', p.oid::regprocedure)
FROM pg_proc p WHERE p.pronamespace = to_regnamespace('migration') AND p.proowner NOT IN (SELECT oid FROM trusted)
AND (p.proname = ANY(%(functions)s) OR p.proname ~ '_hot_views')
UNION ALL
SELECT format('%%s uses %%s of role %%I', pg_describe_object(part.classid, part.objid, used.objsubid),
              pg_describe_object(used.refclassid, used.refobjid, 0), pg_get_userbyid(used.owner)),
       CASE part.classid
       WHEN 'pg_attrdef'::regclass THEN
           (SELECT format('ALTER TABLE migration.%%I ALTER COLUMN %%I DROP %%s;', o.relname, a.attname,
                          CASE a.attgenerated WHEN '' THEN 'DEFAULT' ELSE 'EXPRESSION' END)
            FROM pg_attrdef e JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
            WHERE e.oid = part.objid)
       WHEN 'pg_constraint'::regclass THEN
           (SELECT format('ALTER TABLE migration.%%I DROP CONSTRAINT %%I;', o.relname, k.conname)
            FROM pg_constraint k WHERE k.oid = part.objid)
       WHEN 'pg_rewrite'::regclass THEN format('DROP %%s migration.%%I;', o.kind, o.relname)
       ELSE CASE WHEN part.objid = o.oid THEN
           (SELECT format('ALTER TABLE migration.%%I ALTER COLUMN %%I TYPE %%s;', o.relname, a.attname,
                          coalesce(nullif(format_type(t.typbasetype, t.typtypmod), '-'), 'text'))
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = o.oid AND a.attnum = used.objsubid)
       ELSE (SELECT format('DROP %%s %%s;', upper(replace(i.type, ' object', '')), i.identity)
             FROM pg_identify_object(part.classid, part.objid, 0) i) END END
FROM ours o, LATERAL _parts part, LATERAL _used used
WHERE used.owner NOT IN (SELECT oid FROM trusted)
  AND (part.classid <> 'pg_rewrite'::regclass OR o.kind <> 'TABLE')
UNION ALL
SELECT format('rule %%I on migration.%%I is none of ours', w.rulename, o.relname),
       format('DROP RULE %%I ON migration.%%I;', w.rulename, o.relname)
FROM ours o JOIN pg_rewrite w ON w.ev_class = o.oid AND w.rulename <> '_RETURN'
UNION ALL
SELECT format('%%s inherits from %%s, and role %%I owns one of them', i.inhrelid::regclass, i.inhparent::regclass,
              pg_get_userbyid(c.relowner)),
       format('ALTER TABLE %%s NO INHERIT %%s;', i.inhrelid::regclass, i.inhparent::regclass)
FROM ours o JOIN pg_inherits i ON o.oid IN (i.inhrelid, i.inhparent)
JOIN pg_class c ON c.oid = CASE o.oid WHEN i.inhrelid THEN i.inhparent ELSE i.inhrelid END
WHERE c.relowner NOT IN (SELECT oid FROM trusted)
UNION ALL
SELECT format('%%s may put triggers on migration.%%I', g.who, min(o.relname))
       || CASE WHEN count(*) > 1 THEN format(' and %%s other tables', count(*) - 1) ELSE '' END,
       format('REVOKE TRIGGER ON ALL TABLES IN SCHEMA migration FROM %%s;', g.who)
FROM ours o CROSS JOIN LATERAL (
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)::text) END AS who
    FROM aclexplode(o.relacl) a WHERE a.privilege_type = 'TRIGGER' AND a.grantee NOT IN (SELECT oid FROM trusted)) g
GROUP BY g.who
ORDER BY 1
""".replace("_parts", _PARTS.replace("_table", "o.oid"))
    .replace("_used", _USED)
    .replace("_hot_views", _HOT_VIEWS)
)
NAMED_IN_BODY: LiteralString = "substring(p.prosrc FROM '([a-z][a-z0-9_]*)[.](?:cutovers|hold_token)')"
"""What a function of ours, pg_proc `p`, calls our schema; NULL where it does not speak of it."""
# Mostly all in the schema is our own, and nobody was granted anything but on the views: that is seen at once. From our
# tables to what they use, in this order: the other way round it takes 50 ms, and more in a database with many types.
ALL_OURS: LiteralString = """
SELECT NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                   AND (c.relowner <> me.oid OR c.relacl IS NOT NULL AND c.relkind <> 'v'
                        OR c.relkind IN ('r', 'p') AND (c.relhasrules OR c.relhassubclass)))
   AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND (p.proowner <> me.oid OR _named <> n.nspname))
   AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p'))
   AND NOT EXISTS (SELECT FROM (SELECT c.oid FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
                                OFFSET 0) c,
                   LATERAL (SELECT * FROM _parts one OFFSET 0) part,
                   LATERAL (SELECT FROM pg_depend d WHERE (d.classid, d.objid) = (part.classid, part.objid)
                            AND d.refobjid >= 16384
                            AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
                            AND NOT EXISTS (SELECT FROM pg_proc p WHERE d.refclassid = 'pg_proc'::regclass
                                            AND p.oid = d.refobjid AND p.proowner = me.oid) OFFSET 0) used)
FROM pg_namespace n, pg_roles me WHERE n.nspname = 'migration' AND me.rolname = current_user
""".replace("_parts", _PARTS.replace("_table", "c.oid")).replace("_named", NAMED_IN_BODY)
