-- One row: the description of relation %(oid)s. Run with search_path = pg_catalog, so that every name that is not the
-- system's comes out qualified. Short on purpose: it runs in every new session, also while writes are held.
-- What only some tables have is in introspection_used.sql; "uses_more" says whether this table needs that query.
WITH col AS (
    SELECT a.*, t.typname, t.typtype, t.typcategory, t.typcollation, t.typstorage, t.typsend, t.typreceive,
           d.oid AS default_oid, pg_get_expr(d.adbin, d.adrelid) AS expression
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
)
SELECT json_build_object(
    'kind', c.relkind,
    'comment', obj_description(c.oid, 'pg_class'),
    'uses_more', EXISTS (
        SELECT FROM col
        WHERE atttypid >= 16384 OR typtype <> 'b' OR typcategory = 'A' OR attcollation <> typcollation
           -- The dependencies do not name a sequence that nextval gets from anything but a constant.
           OR attgenerated = '' AND regexp_replace(expression, 'nextval\(''([^'']|'''')*''::regclass\)', '', 'g') ~* '\mnextval\M'
           OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = default_oid
                      AND d.refclassid = 'pg_proc'::regclass AND d.refobjid >= 16384)
    ) OR EXISTS (
        -- Our own trigger functions are known to use no sequence.
        SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
        WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND f.oid >= 16384
          AND (f.pronamespace IS DISTINCT FROM to_regnamespace('migration') OR f.proname <> ALL(%(ours)s))
    ),
    'columns', (
        SELECT json_agg(json_build_object(
            'name', attname,
            'attnum', attnum,
            'type', atttypid,
            'type_name', format_type(atttypid, atttypmod),
            'not_null', attnotnull,
            'default', CASE WHEN attgenerated = '' THEN expression END,
            'expression', CASE WHEN attgenerated <> '' THEN expression END,
            'generated', attgenerated,
            'identity', attidentity,
            'deterministic', COALESCE((SELECT collisdeterministic FROM pg_collation WHERE oid = attcollation), true),
            'collation', CASE WHEN attcollation <> typcollation THEN (
                SELECT format('%%I.%%I', n.nspname, co.collname)
                FROM pg_collation co JOIN pg_namespace n ON n.oid = co.collnamespace WHERE co.oid = attcollation) END,
            'storage', CASE WHEN attstorage <> typstorage THEN attstorage END,
            'compression', NULLIF(attcompression, ''),
            'comment', col_description(attrelid, attnum)
        ) ORDER BY attnum)
        FROM col
    ),
    -- Complete for the system's own types; types of users are in introspection_used.sql.
    'types', (
        SELECT json_agg(json_build_object(
            'oid', atttypid::bigint, 'name', format_type(atttypid, NULL), 'kind', typtype,
            'base', 0, 'element', 0, 'subtype', 0, 'fields', NULL,
            'send', CASE WHEN typsend <> 0 THEN typsend::regproc::text END, 'receives', typreceive <> 0))
        FROM col
    ),
    'primary_key', (
        SELECT json_agg(a.attname ORDER BY k.position)
        FROM pg_constraint p, unnest(p.conkey) WITH ORDINALITY k(attnum, position)
        JOIN pg_attribute a ON a.attrelid = %(oid)s AND a.attnum = k.attnum
        WHERE p.conrelid = c.oid AND p.contype = 'p'
    ),
    'primary_key_name', (SELECT p.conname FROM pg_constraint p WHERE p.conrelid = c.oid AND p.contype = 'p'),
    'primary_key_deferral', (
        SELECT CASE WHEN p.condeferrable THEN
            'DEFERRABLE INITIALLY ' || CASE WHEN p.condeferred THEN 'DEFERRED' ELSE 'IMMEDIATE' END END
        FROM pg_constraint p WHERE p.conrelid = c.oid AND p.contype = 'p'
    ),
    'checks', (
        -- NO INHERIT is cut off, because a partitioned table refuses it.
        SELECT json_agg(json_build_object('name', k.conname,
                                          'definition', format('CHECK (%%s)', pg_get_expr(k.conbin, k.conrelid)),
                                          'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname)
        FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated
    ),
    'indexes', (
        SELECT json_agg(json_build_object(
            'name', ic.relname,
            'unique', i.indisunique,
            'valid', i.indisvalid AND i.indisready,
            'prefix', format('CREATE %%sINDEX %%I ON %%s%%I.%%I USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' END,
                             ic.relname, CASE WHEN c.relkind = 'p' THEN 'ONLY ' END, n.nspname, c.relname),
            'definition', pg_get_indexdef(i.indexrelid),
            'constraint', (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
                           WHERE k.conindid = i.indexrelid AND k.conrelid = c.oid AND k.contype = 'u'),
            'key_columns', (SELECT json_agg(a.attname ORDER BY k.position)
                            FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, position)
                            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                            WHERE k.position <= i.indnkeyatts),
            'comment', obj_description(ic.oid, 'pg_class')
        ) ORDER BY ic.relname)
        FROM pg_index i
        JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND NOT i.indisprimary AND NOT i.indisexclusion
    ),
    'sequences', (
        SELECT json_agg(json_build_object(
            'name', u.seq::regclass::text,
            'attnum', u.attnum,
            'column', (SELECT attname FROM col WHERE attnum = u.attnum),
            'how', u.how,
            'type_name', format_type(s.seqtypid, NULL),
            'options', to_json(s)
        ) ORDER BY u.attnum, u.how, u.seq)
        FROM (
            SELECT d.refobjid, col.attnum::int, 'default'
            FROM col JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = default_oid
                                     AND d.refclassid = 'pg_class'::regclass
            UNION
            SELECT d.objid, d.refobjsubid, CASE d.deptype WHEN 'i' THEN 'identity' ELSE 'owned' END
            FROM pg_depend d
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0
              AND d.classid = 'pg_class'::regclass AND d.deptype IN ('i', 'a')
        ) u(seq, attnum, how) JOIN pg_sequence s ON s.seqrelid = u.seq
    )
)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s
