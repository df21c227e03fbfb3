"""What is run when a trigger, a rule or a default calls a function: that function, and all that it calls in turn.

A function's body is only text to the catalogue. Its words are looked up among the names of functions that there are,
so that one may be taken in which only has the name of a variable; what a text puts together at run time is not found.
"""

from typing import LiteralString

_NAMED_BY: LiteralString = (
    "SELECT d.refobjid FROM pg_depend d WHERE d.classid = '_catalogue'::regclass AND d.objid = _object"
    " AND d.refclassid = 'pg_proc'::regclass"
)
_BODIES: LiteralString = """(
    WITH RECURSIVE called(oid) AS (
        SELECT f.oid FROM pg_proc f WHERE f.oid IN (_roots) AND f.oid >= 16384 AND f.prokind <> 'a'
        UNION
        SELECT f.oid
        FROM called c,
             LATERAL (SELECT pg_get_functiondef(c.oid) AS body) b,
             LATERAL (SELECT lower(m[1]) AS word FROM regexp_matches(b.body, '[[:alnum:]_$]+', 'g') m
                      UNION
                      SELECT replace(m[1], '""', '"') FROM regexp_matches(b.body, '"(([^"]|"")+)"', 'g') m) w
             JOIN pg_proc f ON f.proname = w.word::name
        WHERE f.oid >= 16384 AND f.prokind <> 'a'
    )
    SELECT string_agg(concat_ws('|', pg_get_functiondef(c.oid), pg_get_userbyid(p.proowner)), E'\\n'
                      ORDER BY c.oid::regprocedure::text)
    FROM called c JOIN pg_proc p USING (oid)
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
    return _BODIES.replace("_roots", roots)
