-- One row: the users' objects that relation %(oid)s uses: types, collations, functions that use sequences.
-- Run only where introspection.sql says so with "uses_more", because it costs several times as much.
WITH RECURSIVE
used(oid) AS (
    SELECT atttypid FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
    UNION
    SELECT parts.oid
    FROM used
    JOIN pg_type t ON t.oid = used.oid
    LEFT JOIN pg_range r ON r.rngtypid = t.oid OR r.rngmultitypid = t.oid,
    LATERAL (
        VALUES (t.typbasetype), (CASE WHEN t.typcategory = 'A' THEN t.typelem END), (r.rngsubtype), (r.rngtypid)
        UNION ALL
        SELECT f.atttypid FROM pg_attribute f
        WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
    ) parts(oid)
    WHERE parts.oid <> 0
),
-- Collations that differ from the default of their type.
collations(oid) AS (
    SELECT a.attcollation FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE (a.attrelid = %(oid)s OR a.attrelid IN (SELECT u.typrelid FROM used JOIN pg_type u USING (oid) WHERE u.typtype = 'c'))
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> t.typcollation
    UNION
    SELECT d.typcollation FROM used JOIN pg_type d USING (oid) JOIN pg_type b ON b.oid = d.typbasetype
    WHERE d.typcollation <> b.typcollation
    UNION
    SELECT r.rngcollation FROM used JOIN pg_range r ON r.rngtypid = used.oid JOIN pg_type b ON b.oid = r.rngsubtype
    WHERE r.rngcollation <> b.typcollation
),
-- What runs for a new row: texts of defaults, the functions that these and the triggers call, and what those call, three
-- calls deep. A function's body is only text to the catalogue: its words are looked up among the existing names.
called(attnum, oid, body, depth) AS (
    SELECT entry.attnum, f.oid, f.prosrc, 0
    FROM (
        SELECT ad.adnum AS attnum, d.refobjid AS oid
        FROM pg_attrdef ad JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid
                                           AND d.refclassid = 'pg_proc'::regclass
        WHERE ad.adrelid = %(oid)s
        UNION
        SELECT a.attnum, d.refobjid
        FROM pg_attribute a JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = a.atttypid
                                            AND d.refclassid = 'pg_proc'::regclass AND d.deptype = 'n'
        JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
        WHERE a.attrelid = %(oid)s AND a.attnum > 0
        UNION
        SELECT 0, tgfoid FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal
    ) entry JOIN pg_proc f USING (oid)
    WHERE f.oid >= 16384
    UNION
    SELECT c.attnum, f.oid, f.prosrc, c.depth + 1
    FROM called c,
         LATERAL (SELECT DISTINCT m[1] AS word FROM regexp_matches(c.body, '[[:alnum:]_$]+', 'g') m) w
         JOIN pg_proc f ON f.proname IN (w.word, lower(w.word))
    WHERE c.depth < 3 AND f.oid >= 16384 AND f.oid <> c.oid
),
bodies AS (
    SELECT DISTINCT attnum, CASE WHEN attnum = 0 THEN 'trigger' ELSE 'function' END AS how,
           oid::regprocedure::text AS via, oid, body
    FROM called
    UNION ALL
    -- A constant is found by its dependency; its words would also match sequences of other schemas.
    SELECT ad.adnum, 'function', 'the default of its column', 0,
           regexp_replace(pg_get_expr(ad.adbin, ad.adrelid), 'nextval\(''([^'']|'''')*''::regclass\)', '', 'g')
    FROM pg_attrdef ad JOIN pg_attribute a ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum AND a.attgenerated = ''
    WHERE ad.adrelid = %(oid)s
    UNION ALL
    SELECT a.attnum, 'function', 'the default of its type', 0, coalesce(pg_get_expr(t.typdefaultbin, 0), '')
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
    WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasdef
),
drawing AS (SELECT * FROM bodies WHERE body ~* '\mnextval\M'),
draws AS (
    SELECT b.attnum, b.how, b.via, c.oid AS seq
    FROM drawing b,
         LATERAL (SELECT DISTINCT m[1] AS word FROM regexp_matches(b.body, '[[:alnum:]_$]+', 'g') m) w
         JOIN pg_class c ON c.relname IN (w.word, lower(w.word)) AND c.relkind = 'S'
    UNION
    SELECT b.attnum, b.how, b.via, d.refobjid
    FROM bodies b JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = b.oid
                                  AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
)
SELECT json_build_object(
    'types', (
        SELECT json_agg(json_build_object(
            'oid', t.oid::bigint,
            'name', format_type(t.oid, NULL),
            'base_name', CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
            'kind', t.typtype,
            'base', t.typbasetype::bigint,
            'element', CASE WHEN t.typcategory = 'A' THEN t.typelem::bigint ELSE 0 END,
            'subtype', COALESCE((SELECT r.rngsubtype::bigint FROM pg_range r
                                 WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid LIMIT 1), 0),
            'send', CASE WHEN t.typsend <> 0 THEN t.typsend::regproc::text END,
            'receives', t.typreceive <> 0,
            'not_null', t.typnotnull,
            -- typdefault is text that was written when the domain was made, under the search_path of that time.
            'default', COALESCE(pg_get_expr(t.typdefaultbin, 0), quote_literal(t.typdefault)),
            'collation', (SELECT format('%%I.%%I', n.nspname, co.collname) FROM pg_collation co
                          JOIN pg_namespace n ON n.oid = co.collnamespace
                          JOIN pg_type b ON b.oid = t.typbasetype
                          WHERE co.oid = t.typcollation AND t.typcollation <> b.typcollation),
            'checks', (SELECT json_agg(format('CONSTRAINT %%I %%s', k.conname, pg_get_constraintdef(k.oid))
                                       ORDER BY k.conname)
                       FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c' AND k.convalidated),
            'extension', (SELECT json_build_object('name', e.extname, 'schema', n.nspname)
                          FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                          JOIN pg_namespace n ON n.oid = e.extnamespace
                          WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                            AND d.refclassid = 'pg_extension'::regclass),
            'of_table', EXISTS (SELECT FROM pg_class r WHERE r.oid = t.typrelid AND r.relkind <> 'c'),
            'fields', (SELECT json_agg(json_build_object(
                           'name', f.attname, 'type', f.atttypid::bigint,
                           'type_name', format_type(f.atttypid, f.atttypmod),
                           'collation', (SELECT format('%%I.%%I', n.nspname, co.collname) FROM pg_collation co
                                         JOIN pg_namespace n ON n.oid = co.collnamespace
                                         WHERE co.oid = f.attcollation AND f.attcollation <> ft.typcollation)
                       ) ORDER BY f.attnum)
                       FROM pg_attribute f JOIN pg_type ft ON ft.oid = f.atttypid
                       WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped),
            'range', (SELECT json_build_object(
                          'range', r.rngtypid::bigint,
                          'subtype', format_type(r.rngsubtype, NULL),
                          'opclass', (SELECT format('%%I.%%I', n.nspname, o.opcname) FROM pg_opclass o
                                      JOIN pg_namespace n ON n.oid = o.opcnamespace
                                      WHERE o.oid = r.rngsubopc AND NOT o.opcdefault),
                          'collation', (SELECT format('%%I.%%I', n.nspname, co.collname) FROM pg_collation co
                                        JOIN pg_namespace n ON n.oid = co.collnamespace
                                        WHERE co.oid = r.rngcollation AND r.rngcollation <> b.typcollation),
                          'canonical', CASE WHEN r.rngcanonical <> 0 THEN r.rngcanonical::regproc::text END,
                          'subtype_diff', CASE WHEN r.rngsubdiff <> 0 THEN r.rngsubdiff::regproc::text END,
                          'subtype_diff_definition', (SELECT pg_get_functiondef(f.oid) FROM pg_proc f
                                                      WHERE f.oid = r.rngsubdiff AND f.oid >= 16384),
                          'multirange', format_type(r.rngmultitypid, NULL))
                      FROM pg_range r JOIN pg_type b ON b.oid = r.rngsubtype
                      WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid),
            'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
            'comment', obj_description(t.oid, 'pg_type')
        ) ORDER BY t.oid)
        FROM used JOIN pg_type t USING (oid)
    ),
    'collations', (
        -- Read as JSON, because the column of the locale was renamed in PostgreSQL 17.
        SELECT json_agg(json_build_object(
            'name', format('%%I.%%I', n.nspname, co.collname),
            'provider', co.collprovider,
            'locale', COALESCE(j->>'colllocale', j->>'colliculocale', co.collcollate),
            'ctype', co.collctype,
            'deterministic', co.collisdeterministic,
            'rules', j->>'collicurules'
        ) ORDER BY n.nspname, co.collname)
        FROM collations JOIN pg_collation co USING (oid) JOIN pg_namespace n ON n.oid = co.collnamespace,
             LATERAL to_jsonb(co) AS j
    ),
    'draws', (
        SELECT json_agg(json_build_object(
            'name', d.seq::regclass::text,
            'attnum', d.attnum,
            'column', (SELECT attname FROM pg_attribute a WHERE a.attrelid = %(oid)s AND a.attnum = d.attnum AND d.attnum > 0),
            'how', d.how,
            'via', d.via,
            'type_name', format_type(s.seqtypid, NULL),
            'options', to_json(s)
        ) ORDER BY d.attnum, d.how, d.via, d.seq)
        FROM draws d JOIN pg_sequence s ON s.seqrelid = d.seq
    ),
    'unknown_draws', (
        SELECT json_agg(DISTINCT b.via ORDER BY b.via) FROM drawing b
        WHERE b.oid <> 0 AND NOT EXISTS (SELECT FROM draws d WHERE d.via = b.via)
    )
)
