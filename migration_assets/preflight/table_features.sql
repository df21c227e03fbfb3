-- Everything that depends on relation %(oid)s: kind, name, a description, and the statements that create it on the base.
-- Run with search_path = pg_catalog, so that every name outside the system's schemas is qualified. Run on the base's root
-- it finds what was already created there, under the same kind and name. %(ours)s are this program's own names.
WITH RECURSIVE
me AS (
    SELECT c.*, c.oid::regclass::text AS sql_name FROM pg_class c WHERE c.oid = %(oid)s
),
leaves AS (
    SELECT relid::oid AS oid FROM pg_partition_tree(%(oid)s) WHERE isleaf AND (SELECT relkind FROM me) = 'p'
    UNION SELECT oid FROM me WHERE relkind <> 'p'
),
-- The row type and its array type.
rowtypes AS (
    SELECT t.oid FROM pg_type t, me WHERE t.oid = me.reltype OR t.typelem = me.reltype AND t.typcategory = 'A'
),
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
views(oid, depth) AS (
    SELECT r.ev_class, 1
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s
      AND r.ev_class <> %(oid)s
    UNION
    SELECT r.ev_class, v.depth + 1
    FROM views v
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> v.oid
    WHERE v.depth < 20
),
found(kind, name, shown, statement, place) AS (
    SELECT CASE WHEN k.confrelid = me.oid THEN 'incoming foreign key' ELSE 'outgoing foreign key' END,
           CASE WHEN k.confrelid = me.oid THEN format('%%I on %%s', k.conname, k.conrelid::regclass) ELSE k.conname END,
           format('%%I on %%s: %%s', k.conname, k.conrelid::regclass, pg_get_constraintdef(k.oid)),
           CASE WHEN k.confrelid <> me.oid THEN
               format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s;', me.sql_name, k.conname, pg_get_constraintdef(k.oid)) END,
           0
    FROM me JOIN pg_constraint k ON me.oid IN (k.confrelid, k.conrelid)
    WHERE k.contype = 'f' AND k.conparentid = 0
    UNION ALL
    SELECT 'exclusion constraint', k.conname, format('%%I: %%s', k.conname, pg_get_constraintdef(k.oid)), NULL, 0
    FROM pg_constraint k WHERE k.conrelid = %(oid)s AND k.contype = 'x'
    UNION ALL
    SELECT 'check constraint that was never validated', k.conname,
           format('%%I: %%s', k.conname, pg_get_constraintdef(k.oid)), NULL, 0
    FROM me JOIN pg_constraint k ON k.conrelid = me.oid WHERE k.contype = 'c' AND NOT k.convalidated
    UNION ALL
    SELECT 'domain check that was never validated', format('%%I of %%s', k.conname, format_type(k.contypid, NULL)),
           format('%%I of %%s: %%s', k.conname, format_type(k.contypid, NULL), pg_get_constraintdef(k.oid)),
           format('ALTER DOMAIN %%s ADD CONSTRAINT %%I %%s;', format_type(k.contypid, NULL), k.conname,
                  pg_get_constraintdef(k.oid)), 0
    FROM pg_constraint k WHERE k.contypid IN (SELECT oid FROM used) AND k.contype = 'c' AND NOT k.convalidated
    UNION ALL
    SELECT 'trigger', t.tgname, t.tgname,
           rtrim(pg_get_functiondef(t.tgfoid), E'\n') || '; ' || pg_get_triggerdef(t.oid) || ';'
           || CASE t.tgenabled WHEN 'O' THEN '' ELSE format(
                  ' ALTER TABLE %%s %%s TRIGGER %%I;', me.sql_name,
                  CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END,
                  t.tgname) END, 0
    FROM me JOIN pg_trigger t ON t.tgrelid = me.oid
    WHERE NOT t.tgisinternal AND NOT t.tgname = ANY(%(ours)s)
    UNION ALL
    SELECT 'rule', r.rulename, r.rulename, pg_get_ruledef(r.oid), 0
    FROM pg_rewrite r WHERE r.ev_class = %(oid)s AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT 'row security policy', p.polname, p.polname,
           format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s%%s%%s;', p.polname, me.sql_name,
                  CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                   FROM unnest(p.polroles) r),
                  ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                  ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'), 0
    FROM me JOIN pg_policy p ON p.polrelid = me.oid
    UNION ALL
    SELECT 'extended statistics', format('%%I.%%I', n.nspname, s.stxname), s.stxname, pg_get_statisticsobjdef(s.oid) || ';', 0
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = %(oid)s
    UNION ALL
    SELECT 'privilege', g.who, format('%%s to %%s', g.what, g.who),
           format('GRANT %%s ON %%s TO %%s;', g.what, g.sql_name, g.who), 0
    FROM (SELECT me.sql_name, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS what,
                 CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who
          FROM me, aclexplode(me.relacl) a WHERE a.grantee <> me.relowner GROUP BY 1, 3) g
    UNION ALL
    SELECT 'column privilege', format('%%s of %%s', g.who, g.attname), format('%%s (%%I) to %%s', g.what, g.attname, g.who),
           format('GRANT %%s ON %%s TO %%s;', g.sql_what, g.sql_name, g.who), 0
    FROM (SELECT me.sql_name, a.attname, string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) AS what,
                 string_agg(format('%%s (%%I)', x.privilege_type, a.attname), ', ' ORDER BY x.privilege_type) AS sql_what,
                 CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS who
          FROM me JOIN pg_attribute a ON a.attrelid = me.oid AND a.attnum > 0 AND NOT a.attisdropped,
               aclexplode(a.attacl) x GROUP BY 1, 2, 5) g
    UNION ALL
    -- Rights that tables which are created later get by themselves: the base's leaves are such tables.
    SELECT 'default privilege', format('%%s by %%s', g.who, g.owner),
           format('%%s to %%s on tables that %%s makes%%s', g.what, g.who, g.owner, ' in schema ' || g.schema),
           format('ALTER DEFAULT PRIVILEGES FOR ROLE %%s%%s GRANT %%s ON TABLES TO %%s;', g.owner, ' IN SCHEMA ' || g.schema,
                  g.what, g.who), 0
    FROM (SELECT quote_ident(pg_get_userbyid(d.defaclrole)) AS owner, quote_ident(n.nspname) AS schema,
                 string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) AS what,
                 CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS who
          FROM me JOIN pg_default_acl d ON d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, me.relnamespace)
          LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) x
          WHERE x.grantee <> d.defaclrole GROUP BY 1, 2, 4) g
    UNION ALL
    SELECT 'child table', i.inhrelid::regclass::text, i.inhrelid::regclass::text, NULL, 0
    FROM me JOIN pg_inherits i ON i.inhparent = me.oid WHERE me.relkind = 'r'
    UNION ALL
    SELECT 'parent table', i.inhparent::regclass::text, i.inhparent::regclass::text, NULL, 0
    FROM pg_inherits i WHERE i.inhrelid = %(oid)s
    UNION ALL
    SELECT 'unlogged table', me.sql_name, me.sql_name, NULL, 0 FROM me WHERE me.relpersistence = 'u'
    UNION ALL
    SELECT 'typed table', format_type(me.reloftype, NULL), format('OF %%s', format_type(me.reloftype, NULL)), NULL, 0
    FROM me WHERE me.reloftype <> 0
    UNION ALL
    SELECT 'extension that the table belongs to', e.extname, e.extname, NULL, 0
    FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = %(oid)s AND d.refclassid = 'pg_extension'::regclass
    UNION ALL
    SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, c.oid::regclass::text,
           c.oid::regclass::text,
           format('CREATE %%s %%s%%s AS %%s', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END,
                  c.oid::regclass, ' WITH (' || array_to_string(c.reloptions, ', ') || ')',
                  rtrim(pg_get_viewdef(c.oid), E' \n')), max(v.depth)
    FROM views v JOIN pg_class c ON c.oid = v.oid
    WHERE c.relkind IN ('v', 'm') AND c.relnamespace IS DISTINCT FROM to_regnamespace('migration') GROUP BY c.oid
    UNION ALL
    SELECT 'rule of another table', format('%%I on %%s', r.rulename, r.ev_class::regclass),
           format('%%I on %%s', r.rulename, r.ev_class::regclass), pg_get_ruledef(r.oid), 0
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE r.rulename <> '_RETURN' AND r.ev_class <> %(oid)s AND r.oid IN (
        SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s)
    UNION ALL
    SELECT 'function that uses it', p.oid::regprocedure::text, p.oid::regprocedure::text,
           rtrim(pg_get_functiondef(p.oid), E'\n') || ';', 30
    FROM pg_proc p WHERE p.prokind IN ('f', 'p') AND p.oid IN (
        SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
        AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s
             OR d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM views)
             OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (SELECT oid FROM rowtypes)))
    UNION ALL
    -- The catalogue does not record names in texts: a function that contains the table's name may mean another table.
    SELECT 'function whose text names it', p.oid::regprocedure::text, p.oid::regprocedure::text,
           rtrim(pg_get_functiondef(p.oid), E'\n') || ';', 31
    FROM me, pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE p.prokind IN ('f', 'p') AND l.lanname NOT IN ('internal', 'c') AND p.prosqlbody IS NULL
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'migration')
      AND p.prosrc ~* ('\m' || regexp_replace(me.relname, '([^[:alnum:]_])', '\\\1', 'g') || '\M')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                      AND d.deptype = 'e')
      AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgrelid = %(oid)s)
    UNION ALL
    SELECT 'function that a default calls', format('%%s of column %%s', d.refobjid::regprocedure, a.attname),
           format('%%s of column %%I', d.refobjid::regprocedure, a.attname),
           rtrim(pg_get_functiondef(d.refobjid), E'\n') || ';', 0
    FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc p ON p.oid = d.refobjid AND p.oid >= 16384 AND p.prokind = 'f'
    WHERE f.adrelid = %(oid)s
    UNION ALL
    SELECT 'column of the row''s type', format('%%s.%%I', a.attrelid::regclass, a.attname),
           format('%%s.%%I', a.attrelid::regclass, a.attname), NULL, 0
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.atttypid IN (SELECT oid FROM rowtypes) AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relkind IN ('r', 'p', 'f', 'c')
    UNION ALL
    SELECT 'storage parameter', o.option, o.option, format(
        'DO $do$ DECLARE leaf regclass; BEGIN FOR leaf IN SELECT relid FROM pg_partition_tree(%%L) WHERE isleaf LOOP'
        ' EXECUTE format(''ALTER TABLE %%%%s SET (%%s)'', leaf); END LOOP; END $do$;', me.sql_name,
        replace(o.option, '''', '''''')), 0
    FROM me, (
        SELECT p.option FROM (
            SELECT l.oid, unnest(c.reloptions) AS option FROM leaves l JOIN pg_class c ON c.oid = l.oid
            UNION ALL
            SELECT l.oid, 'toast.' || unnest(t.reloptions) FROM leaves l JOIN pg_class c ON c.oid = l.oid
            JOIN pg_class t ON t.oid = c.reltoastrelid) p
        GROUP BY p.option HAVING count(*) = (SELECT count(*) FROM leaves)) o
    UNION ALL
    SELECT 'statistics target', format('%%s=%%s', a.attname, a.attstattarget), format('%%I: %%s', a.attname, a.attstattarget),
           format('ALTER TABLE %%s ALTER COLUMN %%I SET STATISTICS %%s;', me.sql_name, a.attname, a.attstattarget), 0
    FROM me JOIN pg_attribute a ON a.attrelid = me.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) >= 0
    UNION ALL
    SELECT 'column option', format('%%s: %%s', o.attname, o.option), format('%%I: %%s', o.attname, o.option), format(
        'DO $do$ DECLARE leaf regclass; BEGIN FOR leaf IN SELECT relid FROM pg_partition_tree(%%L) WHERE isleaf LOOP'
        ' EXECUTE format(''ALTER TABLE %%%%s ALTER COLUMN %%s SET (%%s)'', leaf); END LOOP; END $do$;', me.sql_name,
        replace(replace(quote_ident(o.attname), '''', ''''''), '%%', '%%%%'), o.option), 0
    FROM me, (
        SELECT p.attname, p.option FROM (
            SELECT a.attname, unnest(a.attoptions) AS option FROM leaves l
            JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped) p
        GROUP BY 1, 2 HAVING count(*) = (SELECT count(*) FROM leaves)) o
    UNION ALL
    SELECT 'security label', format('%%s of %%s', l.provider, coalesce(a.attname, me.relname)),
           format('%%s of %%s', l.provider, coalesce(a.attname, me.relname)),
           format('SECURITY LABEL FOR %%I ON %%s %%s%%s IS %%L;', l.provider,
                  CASE WHEN l.objsubid = 0 THEN 'TABLE' ELSE 'COLUMN' END, me.sql_name, '.' || quote_ident(a.attname),
                  l.label), 0
    FROM me JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = me.oid
    LEFT JOIN pg_attribute a ON a.attrelid = me.oid AND a.attnum = l.objsubid AND l.objsubid > 0
    UNION ALL
    SELECT 'tablespace', s.spcname, s.spcname, format('ALTER TABLE %%s SET TABLESPACE %%I;', me.sql_name, s.spcname), 0
    FROM me JOIN pg_tablespace s ON s.oid = me.reltablespace
    UNION ALL
    SELECT 'access method', m.amname, m.amname, NULL, 0
    FROM me JOIN pg_am m ON m.oid = me.relam WHERE m.amname <> 'heap'
    UNION ALL
    SELECT 'event trigger', e.evtname, format('%%s on %%s', e.evtname, e.evtevent), NULL, 0
    FROM pg_event_trigger e WHERE e.evtenabled <> 'D'
    UNION ALL
    -- Everything else that PostgreSQL records as depending on the table, or on its row type.
    SELECT 'unknown', pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.classid, d.objid, d.objsubid),
           NULL, 0
    FROM pg_depend d LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    WHERE (d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s
           OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (SELECT oid FROM rowtypes))
      AND NOT (d.classid IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_trigger'::regclass,
                             'pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass,
                             'pg_statistic_ext'::regclass, 'pg_publication_rel'::regclass)
               OR coalesce(c.relkind IN ('i', 'I', 'S', 't', 'r', 'p', 'f', 'c', 'v', 'm'), false))
    UNION ALL
    SELECT 'unknown', format('%%s of pg_shdepend', s.deptype), format('a dependence of kind %%s on %%s', s.deptype,
           s.refclassid::regclass), NULL, 0
    FROM pg_shdepend s
    WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND s.classid = 'pg_class'::regclass AND s.objid = %(oid)s AND s.deptype NOT IN ('o', 'a', 'i', 'r', 't')
)
SELECT kind, name::text, shown::text, statement FROM found ORDER BY place, kind, name
