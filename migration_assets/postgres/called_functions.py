"""What is run when a trigger, a rule or a default calls a function: that function, and all that it leads to in turn.

A function's body is only text to the catalogue. Its words are looked up among the names of functions, operators, views,
tables and domains that there are, so that one may be taken in which only has the name of a variable; what a text puts
together at run time is not found. Casts are called without a word, and so all of those that somebody made count.
"""

from typing import LiteralString

_NAMED_BY: LiteralString = (
    "SELECT CASE d.refclassid WHEN 'pg_operator'::regclass"
    " THEN (SELECT o.oprcode::oid FROM pg_operator o WHERE o.oid = d.refobjid) ELSE d.refobjid END"
    " FROM pg_depend d WHERE d.classid = '_catalogue'::regclass AND d.objid = _object"
    " AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)"
)
# Of a table counts what runs when somebody writes to it: defaults that call a function, triggers and rules but ours.
_TEXT: LiteralString = """
CASE c.kind
WHEN 'function' THEN pg_get_functiondef(c.oid)
WHEN 'domain' THEN (SELECT string_agg(pg_get_constraintdef(k.oid), E'\\n' ORDER BY k.conname) FROM pg_constraint k
                    WHERE k.contypid = c.oid)
ELSE (SELECT concat_ws(E'\\n', CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
        (SELECT string_agg(pg_get_expr(a.adbin, a.adrelid), E'\\n' ORDER BY a.adnum) FROM pg_attrdef a
         WHERE a.adrelid = r.oid AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass
            AND d.objid = a.oid AND d.refobjid >= 16384
            AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass))),
        (SELECT string_agg(pg_get_triggerdef(g.oid), E'\\n' ORDER BY g.tgname)
         FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
         WHERE g.tgrelid = r.oid AND NOT g.tgisinternal
               AND p.pronamespace IS DISTINCT FROM to_regnamespace('migration')),
        (SELECT string_agg(pg_get_ruledef(w.oid), E'\\n' ORDER BY w.rulename) FROM pg_rewrite w
         WHERE w.ev_class = r.oid AND w.rulename <> '_RETURN'))
      FROM pg_class r WHERE r.oid = c.oid)
END
"""
# A table that is only read runs nothing. Its name comes last, after that of its schema.
_WRITING: LiteralString = (
    r"\m(?:insert\s+into|update|delete\s+from|merge\s+into)\s+(?:only\s+)?"
    r'(?:[^\s.(;"]+\s*\.\s*|"[^"]+"\s*\.\s*)?(?:([^\s.(;"]+)|"([^"]+)")'
)
# The server folds ASCII letters alone; any other may be a part of a name, whatever the collation says of it.
_BODIES: LiteralString = """(
    WITH RECURSIVE roots(oid) AS (_roots), called(kind, oid) AS (
        SELECT 'function'::text, f.oid FROM pg_proc f WHERE f.oid >= 16384 AND f.prokind <> 'a'
            AND (f.oid IN (SELECT r.oid FROM roots r)
                 OR EXISTS (SELECT FROM roots r WHERE r.oid >= 16384)
                    AND f.oid IN (SELECT t.castfunc FROM pg_cast t))
        UNION
        SELECT n.kind, n.oid
        FROM called c,
             LATERAL (SELECT _text AS body) b,
             LATERAL (SELECT lower(m[1] COLLATE "C") AS word, false AS written
                      FROM regexp_matches(b.body, '((?:[[:alnum:]_$]|[^\\x01-\\x7f])+)', 'g') m
                      UNION
                      SELECT replace(m[1], '""', '"'), false FROM regexp_matches(b.body, '"(([^"]|"")+)"', 'g') m
                      UNION
                      SELECT m[1], false FROM regexp_matches(b.body, '[-+*/<>=~!@#%%^&|`?]+', 'g') m
                      UNION
                      SELECT coalesce(m[2], lower(m[1] COLLATE "C")), true
                      FROM regexp_matches(b.body, '_writing', 'gi') m) w,
             LATERAL (SELECT 'function' AS kind, f.oid FROM pg_proc f
                      WHERE f.proname = w.word::name AND f.oid >= 16384 AND f.prokind <> 'a'
                      UNION ALL
                      SELECT 'function', part.oid FROM pg_proc f JOIN pg_aggregate a ON a.aggfnoid = f.oid,
                             unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn,
                                          a.aggmfinalfn]::oid[]) part(oid)
                      WHERE f.proname = w.word::name AND part.oid >= 16384
                      UNION ALL
                      SELECT 'function', o.oprcode FROM pg_operator o
                      WHERE o.oprname = w.word::name AND o.oprcode >= 16384
                      UNION ALL
                      SELECT 'relation', r.oid FROM pg_class r
                      WHERE r.relname = w.word::name AND r.oid >= 16384
                            AND (r.relkind IN ('v', 'm') OR w.written AND r.relkind IN ('r', 'p'))
                            AND r.relpersistence <> 't'
                            AND r.relnamespace IS DISTINCT FROM to_regnamespace('migration')
                      UNION ALL
                      SELECT 'domain', t.oid FROM pg_type t
                      WHERE t.typname = w.word::name AND t.oid >= 16384 AND t.typtype = 'd') n
    )
    SELECT string_agg(concat_ws('|', b.body, pg_get_userbyid(p.proowner)), E'\\n' ORDER BY b.body)
    FROM called c LEFT JOIN pg_proc p ON c.kind = 'function' AND p.oid = c.oid, LATERAL (SELECT _text AS body) b
    WHERE b.body <> ''
)"""


def functions_of(catalogue: LiteralString, oid: LiteralString) -> LiteralString:
    """A query for `bodies`: the functions that one object of a catalogue names, such as a trigger of pg_trigger."""
    return _NAMED_BY.replace("_catalogue", catalogue).replace("_object", oid)


def bodies(roots: LiteralString) -> LiteralString:
    """An SQL expression: the definitions and owners of functions and of what these call; NULL where there are none.

    Args:
        roots: A query of the functions' oids, which may name columns of the query around it. The system's own functions
            are left out.
    """
    return _BODIES.replace("_text", _TEXT).replace("_writing", _WRITING).replace("_roots", roots)
