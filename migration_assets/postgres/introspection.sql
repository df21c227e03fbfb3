-- One row: everything the catalogue says of relation %(oid)s. Run with search_path = pg_catalog, so that every
-- name that is not the system's comes out qualified.
WITH RECURSIVE
used(oid) AS (
    SELECT atttypid FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
    UNION
    SELECT parts.oid
    FROM used
    JOIN pg_type t ON t.oid = used.oid
    LEFT JOIN pg_range r ON r.rngtypid = t.oid OR r.rngmultitypid = t.oid,
    LATERAL (VALUES (t.typbasetype), (CASE WHEN t.typcategory = 'A' THEN t.typelem END), (r.rngsubtype)) parts(oid)
    WHERE parts.oid <> 0
),
sequences AS (
    SELECT DISTINCT s.seqrelid, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle, s.seqtypid,
           dep.attnum
    FROM (
        SELECT d.refobjid AS seq, ad.adnum AS attnum
        FROM pg_attrdef ad
        JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid
                        AND d.refclassid = 'pg_class'::regclass
        WHERE ad.adrelid = %(oid)s
        UNION ALL
        SELECT d.objid, d.refobjsubid
        FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attidentity <> ''
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s
          AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
    ) dep
    JOIN pg_sequence s ON s.seqrelid = dep.seq
)
SELECT json_build_object(
    'kind', c.relkind,
    'persistence', c.relpersistence,
    'comment', obj_description(c.oid, 'pg_class'),
    'columns', (
        SELECT json_agg(json_build_object(
            'name', a.attname,
            'attnum', a.attnum,
            'type', a.atttypid,
            'type_name', format_type(a.atttypid, a.atttypmod),
            'not_null', a.attnotnull,
            'default', CASE WHEN a.attgenerated = '' OR a.attgenerated IS NULL THEN pg_get_expr(d.adbin, d.adrelid) END,
            'expression', CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
            'generated', a.attgenerated,
            'identity', a.attidentity,
            'deterministic', COALESCE(co.collisdeterministic, true),
            'collation', CASE WHEN a.attcollation <> t.typcollation THEN format('%%I.%%I', cn.nspname, co.collname) END,
            'storage', CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END,
            'compression', NULLIF(a.attcompression, ''),
            'comment', col_description(c.oid, a.attnum)
        ) ORDER BY a.attnum)
        FROM pg_attribute a
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation co ON co.oid = a.attcollation
        LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
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
            -- typdefault is text from the day the domain was made, under the search_path of that day.
            'default', COALESCE(pg_get_expr(t.typdefaultbin, 0), quote_literal(t.typdefault)),
            'collation', (SELECT format('%%I.%%I', n.nspname, co.collname) FROM pg_collation co
                          JOIN pg_namespace n ON n.oid = co.collnamespace
                          JOIN pg_type b ON b.oid = t.typbasetype
                          WHERE co.oid = t.typcollation AND t.typcollation <> b.typcollation),
            'checks', (SELECT json_agg(format('CONSTRAINT %%I %%s', k.conname, pg_get_constraintdef(k.oid))
                                       ORDER BY k.conname)
                       FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c' AND k.convalidated),
            'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
            'comment', obj_description(t.oid, 'pg_type')
        ) ORDER BY t.oid)
        FROM used JOIN pg_type t USING (oid)
    ),
    'primary_key', (
        SELECT json_agg(a.attname ORDER BY k.position)
        FROM pg_constraint p, unnest(p.conkey) WITH ORDINALITY k(attnum, position)
        JOIN pg_attribute a ON a.attrelid = %(oid)s AND a.attnum = k.attnum
        WHERE p.conrelid = c.oid AND p.contype = 'p'
    ),
    'checks', (
        -- Without a NO INHERIT, which a partitioned table refuses.
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
            'name', format('%%I.%%I', sn.nspname, sc.relname),
            'attnum', s.attnum,
            'type_name', format_type(s.seqtypid, NULL),
            'options', format('INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START WITH %%s CACHE %%s%%s',
                              s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
                              CASE WHEN s.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END)
        ) ORDER BY s.attnum)
        FROM sequences s
        JOIN pg_class sc ON sc.oid = s.seqrelid
        JOIN pg_namespace sn ON sn.oid = sc.relnamespace
    )
)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s
