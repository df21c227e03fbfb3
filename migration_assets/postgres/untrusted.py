"""How the catalogue tells whether a role that is not ours could have its statements run as our role.

A trigger, a rule or a default calls a function; that function, and all that it leads to in turn, is followed.
"""

from typing import LiteralString

# A superuser passes pg_has_role for every role: where we are one, only real memberships count.
TRUSTED: LiteralString = """
WITH trusted AS (
    SELECT r.oid FROM pg_roles r, pg_roles me WHERE me.rolname = current_user
    AND (r.oid = me.oid OR r.rolsuper OR NOT me.rolsuper AND pg_has_role(r.oid, 'USAGE')
         OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = me.oid AND m.roleid = r.oid))
)
"""
# Names of the views, and their functions, by which the hot rows are read.
_HOT_VIEWS: LiteralString = "^hot_[0-9a-f]{12}$"
# The parts of a table: its defaults, constraints, indexes, triggers, rules, policies and statistics, and the table
# itself for the types of its columns. Each can name a function that runs at a read or a write.
_PARTS: LiteralString = """(
    SELECT h.classid, h.objid FROM pg_depend h
    WHERE h.refclassid = 'pg_class'::regclass AND h.refobjid = _table AND h.deptype IN ('a', 'i')
    UNION ALL SELECT 'pg_class'::regclass, _table
)"""
# The users' objects that a part uses, with their owners; for an operator its function counts.
_USED: LiteralString = """(
    SELECT d.refclassid, d.refobjid, d.objsubid, coalesce(p.proowner, t.typowner) AS owner FROM pg_depend d
    LEFT JOIN pg_operator x ON d.refclassid = 'pg_operator'::regclass AND x.oid = d.refobjid
    LEFT JOIN pg_proc p ON p.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE x.oprcode END
    LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
    WHERE d.classid = part.classid AND d.objid = part.objid AND d.refobjid >= 16384
      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
)"""
# Objects by which another role could run its statements as our role, or read what is ours: those that it owns, to
# which it may add triggers, rules, defaults and policies; and those on which it has the TRIGGER right. What a former
# owner added stays when a table is handed over: a part that uses its function or type, a rule, an inheriting table.
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
"""SQL: the name that the body of pg_proc `p`, a function of ours, has for our schema; NULL where it names none."""
# Usually our role owns all in the schema, and has granted rights on the views only: this query sees that at once. It
# goes from our tables to what they use: the other order takes 50 ms, and more in a database with many types.
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


_NAMED_BY: LiteralString = (
    "SELECT CASE d.refclassid WHEN 'pg_operator'::regclass"
    " THEN (SELECT o.oprcode::oid FROM pg_operator o WHERE o.oid = d.refobjid) ELSE d.refobjid END"
    " FROM pg_depend d WHERE d.classid = '_catalogue'::regclass AND d.objid = _object"
    " AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)"
)
_CALLS: LiteralString = (
    "EXISTS (SELECT FROM pg_depend d WHERE d.classid = '_catalogue'::regclass AND d.objid = _object"
    " AND d.refobjid >= 16384 AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass))"
)


def _calls(catalogue: LiteralString, oid: LiteralString) -> LiteralString:
    return _CALLS.replace("_catalogue", catalogue).replace("_object", oid)


# For a table, all that runs at a write to it: defaults, checks and indexes that call a function, domains, policies, and
# triggers and rules that are not ours. What a partition has from its root is included for the root only, so that one
# more partition changes nothing.
_TEXT: LiteralString = (
    """
CASE c.kind
WHEN 'function' THEN pg_get_functiondef(c.oid)
WHEN 'domain' THEN (SELECT concat_ws(E'\\n', format_type(t.typbasetype, NULL),
        (SELECT string_agg(pg_get_constraintdef(k.oid), E'\\n' ORDER BY k.conname) FROM pg_constraint k
         WHERE k.contypid = t.oid)) FROM pg_type t WHERE t.oid = c.oid)
WHEN 'rule' THEN pg_get_ruledef(c.oid)
WHEN 'view' THEN pg_get_viewdef(c.oid)
ELSE (SELECT concat_ws(E'\\n',
        (SELECT string_agg(pg_get_expr(a.adbin, a.adrelid), E'\\n' ORDER BY a.adnum) FROM pg_attrdef a
         WHERE a.adrelid = r.oid AND NOT r.relispartition AND _default_calls),
        (SELECT string_agg(pg_get_constraintdef(k.oid), E'\\n' ORDER BY k.conname) FROM pg_constraint k
         WHERE k.conrelid = r.oid AND k.contype IN ('c', 'x') AND k.coninhcount = 0 AND _constraint_calls),
        (SELECT string_agg(concat_ws(' ', pg_get_expr(i.indexprs, r.oid), pg_get_expr(i.indpred, r.oid)), E'\\n'
                           ORDER BY i.indexrelid)
         FROM pg_index i WHERE i.indrelid = r.oid AND _index_calls
               AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)),
        (SELECT string_agg(format_type(a.atttypid, NULL), E'\\n' ORDER BY a.attnum)
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'd' AND NOT r.relispartition),
        CASE WHEN r.relrowsecurity THEN concat_ws(' ', 'row security', r.relforcerowsecurity) END,
        (SELECT string_agg(concat_ws('|', y.polpermissive, y.polcmd, y.polroles::regrole[]::text,
                                     pg_get_expr(y.polqual, r.oid), pg_get_expr(y.polwithcheck, r.oid)), E'\\n'
                           ORDER BY y.polname)
         FROM pg_policy y WHERE y.polrelid = r.oid),
        (SELECT string_agg(concat_ws(' ', g.tgenabled, pg_get_triggerdef(g.oid)), E'\\n' ORDER BY g.tgname)
         FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
         WHERE g.tgrelid = r.oid AND NOT g.tgisinternal
               AND NOT EXISTS (SELECT FROM pg_trigger o WHERE o.oid = g.tgparentid AND o.tgenabled = g.tgenabled)
               AND p.pronamespace IS DISTINCT FROM to_regnamespace('migration')),
        (SELECT string_agg(concat_ws(' ', w.ev_enabled, pg_get_ruledef(w.oid)), E'\\n' ORDER BY w.rulename)
         FROM pg_rewrite w WHERE w.ev_class = r.oid AND w.rulename <> '_RETURN'))
      FROM pg_class r WHERE r.oid = c.oid)
END
""".replace("_default_calls", _calls("pg_attrdef", "a.oid"))
    .replace("_constraint_calls", _calls("pg_constraint", "k.oid"))
    .replace("_index_calls", _calls("pg_class", "i.indexrelid"))
)
# Finds tables that a body writes to; a table that is only read runs nothing. The name may follow a schema's.
_WRITING: LiteralString = (
    r"\m(?:insert\s+into|update|delete\s+from|merge\s+into|copy)\s+(?:only\M\s*)?\(?\s*"
    r'(?:[^\s.(;"]+\s*\.\s*|"[^"]+"\s*\.\s*)?(?:([^\s.(;")]+)|"([^"]+)")'
)
# A comment may be between two words, but what looks like one may be inside a literal: both forms are searched.
_UNCOMMENTED: LiteralString = r"b.body || ' ' || regexp_replace(b.body, '--[^\n]*|/\*.*?\*/', ' ', 'g')"
# The server folds ASCII letters only; any other character may be part of a name, whatever the collation says.
_WORDS: LiteralString = """
SELECT lower(m[1] COLLATE "C"), false FROM regexp_matches(b.body, '((?:[[:alnum:]_$]|[^\\x01-\\x7f])+)', 'g') m
UNION SELECT replace(m[1], '""', '"'), false FROM regexp_matches(b.body, '"(([^"]|"")+)"', 'g') m
UNION SELECT m[1], false FROM regexp_matches(b.body, '[-+*/<>=~!@#%%^&|`?]+', 'g') m
UNION SELECT coalesce(m[2], lower(m[1] COLLATE "C")), true FROM regexp_matches(_uncommented, '_writing', 'gi') m
UNION SELECT coalesce(m[1], lower(m[2] COLLATE "C")), true
    FROM regexp_matches(_uncommented, '\\mtruncate\\s+([^;]+)', 'gi') t,
         regexp_matches(t[1], '"([^"]+)"|([^\\s.,;"]+)', 'g') m
"""
_MEANT: LiteralString = """
SELECT 'function' AS kind, f.oid FROM pg_proc f
WHERE f.proname = w.word::name AND f.oid >= 16384 AND f.prokind <> 'a'
UNION ALL
SELECT 'function', part.oid FROM pg_proc f JOIN pg_aggregate a ON a.aggfnoid = f.oid,
       unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn,
                    a.aggmfinalfn]::oid[]) part(oid)
WHERE f.proname = w.word::name AND part.oid >= 16384
UNION ALL
SELECT 'function', o.oprcode FROM pg_operator o WHERE o.oprname = w.word::name AND o.oprcode >= 16384
UNION ALL
SELECT CASE WHEN w.written THEN 'table' ELSE 'view' END, r.oid FROM pg_class r
WHERE r.relname = w.word::name AND r.oid >= 16384
      AND (r.relkind IN ('v', 'm') OR w.written AND r.relkind IN ('r', 'p', 'f'))
      AND r.relpersistence <> 't' AND r.relnamespace IS DISTINCT FROM to_regnamespace('migration')
UNION ALL
SELECT 'domain', t.oid FROM pg_type t WHERE t.typname = w.word::name AND t.oid >= 16384 AND t.typtype = 'd'
"""
# Partitions and children; tables whose foreign keys cascade from here; the tables below an updatable view.
_FOLLOWED: LiteralString = """
SELECT 'table', i.inhrelid FROM pg_inherits i WHERE c.kind = 'table' AND i.inhparent = c.oid
UNION ALL
SELECT 'table', k.conrelid FROM pg_constraint k
WHERE c.kind = 'table' AND k.confrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0
      AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
UNION ALL
SELECT 'table', d.refobjid FROM pg_rewrite v JOIN pg_depend d
ON d.classid = 'pg_rewrite'::regclass AND d.objid = v.oid AND d.refclassid = 'pg_class'::regclass
WHERE c.kind = 'table' AND v.ev_class = c.oid AND v.rulename = '_RETURN' AND d.refobjid <> c.oid
      AND d.refobjid >= 16384
"""
_BODIES: LiteralString = """(
    WITH RECURSIVE roots(oid) AS (_roots), called(kind, oid) AS (
        SELECT * FROM (
            SELECT 'function'::text, f.oid FROM pg_proc f WHERE f.oid >= 16384 AND f.prokind <> 'a'
                AND (f.oid IN (SELECT r.oid FROM roots r)
                     OR EXISTS (SELECT FROM roots r WHERE r.oid >= 16384)
                        AND f.oid IN (SELECT t.castfunc FROM pg_cast t))
            UNION ALL SELECT 'rule', x.oid FROM (_rules) AS x(oid)) AS first
        UNION
        SELECT n.kind, n.oid
        FROM called c,
             LATERAL (SELECT _text AS body) b,
             LATERAL (
                 SELECT m.kind, m.oid FROM (_words) AS w(word, written), LATERAL (_meant) AS m
                 UNION ALL _followed
             ) AS n
    )
    SELECT string_agg(DISTINCT concat_ws('|', b.body, pg_get_userbyid(p.proowner)), E'\\n')
    FROM called c LEFT JOIN pg_proc p ON c.kind = 'function' AND p.oid = c.oid, LATERAL (SELECT _text AS body) b
    WHERE b.body <> ''
)"""


def functions_of(catalogue: LiteralString, oid: LiteralString) -> LiteralString:
    """A query for `bodies`: the functions that an object uses, such as a trigger, by its catalogue and oid."""
    return _NAMED_BY.replace("_catalogue", catalogue).replace("_object", oid)


def bodies(roots: LiteralString, *, rules: LiteralString = "SELECT NULL::oid WHERE false") -> LiteralString:
    """An SQL expression: the definitions and owners of functions and of all that they call; NULL where there are none.

    Args:
        roots: A query of the functions' oids, which may name columns of the surrounding query. The system's own
            functions are left out.
        rules: A query of rules' oids, whose statements count like a function's body.
    """
    return (
        _BODIES.replace("_words", _WORDS)
        .replace("_meant", _MEANT)
        .replace("_followed", _FOLLOWED)
        .replace("_text", _TEXT)
        .replace("_uncommented", _UNCOMMENTED)
        .replace("_writing", _WRITING)
        .replace("_rules", rules)
        .replace("_roots", roots)
    )
