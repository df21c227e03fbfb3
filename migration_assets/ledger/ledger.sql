-- The ledger's schema, version by version. Each statement block between the markers runs once, in order, in one
-- transaction with the row that says so. Never change a block that was released: add one.

-- version 1
CREATE TABLE migration.slices (
    relation        text NOT NULL,
    quarter         text NOT NULL CHECK (quarter ~ '^FY([0-9]{2}|[0-9]{4})-Q[1-4]$'),
    week            text NOT NULL CHECK (week ~ '^W(0[1-9]|1[0-3])$'),
    lock_key        integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    leaf            text NOT NULL,
    lower_bound     text NOT NULL,
    upper_bound     text NOT NULL,
    state           text NOT NULL DEFAULT 'absent' CHECK (
        state IN ('absent', 'copied', 'streaming', 'validated', 'signed_off', 'archived', 'retired')),
    method          text,
    legacy_rows     bigint,
    legacy_sum_a    numeric(40),
    legacy_sum_b    numeric(40),
    base_rows       bigint,
    base_sum_a      numeric(40),
    base_sum_b      numeric(40),
    snapshot_lsn    pg_lsn,
    snapshot_at     timestamptz,
    wire_bytes      bigint,
    table_bytes     bigint,
    index_bytes     bigint,
    seconds         jsonb,
    copied_at       timestamptz,
    verified_at     timestamptz,
    verified_equal  boolean,
    run_id          text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (relation, quarter, week),
    CHECK (state IN ('absent', 'retired') OR (copied_at IS NOT NULL AND legacy_rows IS NOT NULL
                                              AND base_rows IS NOT NULL))
);
COMMENT ON TABLE migration.slices IS 'One row per fiscal week: what the base holds of it, proven by which fingerprints';
COMMENT ON COLUMN migration.slices.lock_key IS 'advisory lock (71002, lock_key): held by whoever works on the slice';

CREATE TABLE migration.attempts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation        text NOT NULL,
    quarter         text NOT NULL,
    week            text NOT NULL,
    action          text NOT NULL CHECK (action IN ('copy', 'verify')),
    run_id          text,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    outcome         text NOT NULL DEFAULT 'running' CHECK (
        outcome IN ('running', 'succeeded', 'mismatch', 'failed', 'interrupted')),
    error           text,
    legacy_rows     bigint,
    legacy_sum_a    numeric(40),
    legacy_sum_b    numeric(40),
    base_rows       bigint,
    base_sum_a      numeric(40),
    base_sum_b      numeric(40),
    FOREIGN KEY (relation, quarter, week) REFERENCES migration.slices
);
CREATE INDEX ON migration.attempts (relation, quarter, week, id);
COMMENT ON TABLE migration.attempts IS
    'Every try at a slice; a running one whose slice is not locked was interrupted and left nothing behind';

CREATE TABLE migration.preflights (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation        text NOT NULL,
    taken_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id          text,
    blocking        integer NOT NULL,
    warnings        integer NOT NULL,
    findings        jsonb NOT NULL
);
CREATE INDEX ON migration.preflights (relation, id);
COMMENT ON TABLE migration.preflights IS 'Every preflight with all its findings; the last one is the gate';

-- version 2
ALTER TABLE migration.attempts DROP CONSTRAINT attempts_action_check;
ALTER TABLE migration.attempts ADD CONSTRAINT attempts_action_check
    CHECK (action IN ('copy', 'verify', 'join', 'validate', 'repair', 'undo'));

ALTER TABLE migration.slices
    ADD COLUMN changed_at        timestamptz,
    ADD COLUMN validated_at      timestamptz,
    ADD COLUMN validated_equal   boolean,
    ADD COLUMN validated_marker  bigint,
    ADD COLUMN validated_lsn     pg_lsn,
    ADD COLUMN validated_changes bigint;
COMMENT ON COLUMN migration.slices.changed_at IS
    'when we last put rows in: copy, join, live re-copy, repair; the stream''s own changes do not count here';
COMMENT ON COLUMN migration.slices.validated_changes IS
    'how many row changes the leaf had seen at the validation (pg_stat_all_tables): what came since then is shown';
UPDATE migration.slices SET changed_at = copied_at;

CREATE TABLE migration.streams (
    relation            text PRIMARY KEY,
    publication         text NOT NULL,
    slot                text NOT NULL,
    subscription        text NOT NULL,
    status              text NOT NULL CHECK (status IN ('activating', 'live', 'paused', 'held', 'joining')),
    reason              text,
    row_filter          text,
    former_identity     text,
    exact_since_marker  bigint,
    exact_since_lsn     pg_lsn,
    exact_since         timestamptz,
    status_since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE migration.streams IS 'The change stream of a table: intent is written before the deed';
COMMENT ON COLUMN migration.streams.row_filter IS 'the publication''s filter, as the legacy prints it; NULL until it is set';
COMMENT ON COLUMN migration.streams.former_identity IS 'the legacy table''s replica identity before ours: d, n, f, or i:index';

CREATE TABLE migration.markers (
    relation            text NOT NULL,
    id                  integer NOT NULL,
    kind                text NOT NULL,
    sent_at             timestamptz NOT NULL,
    arrived_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (relation, id)
);
COMMENT ON TABLE migration.markers IS
    'Written by the apply worker alone: once a marker is visible, everything before it on the legacy is applied';
CREATE FUNCTION migration.wait_at_marker() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    -- Whoever takes a cut holds (71003, id) exclusively: the apply worker waits here, exactly at the marker.
    PERFORM pg_advisory_xact_lock_shared(71003, NEW.id);
    RETURN NEW;
END $$;
CREATE TRIGGER wait_at_marker BEFORE INSERT ON migration.markers
    FOR EACH ROW EXECUTE FUNCTION migration.wait_at_marker();
-- An apply worker's session fires only these.
ALTER TABLE migration.markers ENABLE ALWAYS TRIGGER wait_at_marker;

CREATE TABLE migration.cuts (
    relation            text NOT NULL,
    marker              integer NOT NULL,
    kind                text NOT NULL CHECK (kind IN ('validate', 'pause')),
    purpose             text NOT NULL,
    run_id              text,
    lsn                 pg_lsn NOT NULL,
    tries               integer NOT NULL,
    writers_held_ms     float8 NOT NULL,
    longest_try_ms      float8 NOT NULL,
    reached_ms          float8 NOT NULL,
    apply_held_ms       float8,
    taken_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (relation, marker)
);
COMMENT ON TABLE migration.cuts IS 'Every consistent cut: what it cost the legacy''s writers and the stream';
COMMENT ON COLUMN migration.cuts.writers_held_ms IS 'how long the try that succeeded held the legacy''s writers, waiting included';
COMMENT ON COLUMN migration.cuts.longest_try_ms IS 'the longest single try, failed ones included: the worst that a writer waited';
COMMENT ON COLUMN migration.cuts.reached_ms IS 'from the marker on the legacy until the apply worker stood at it';
COMMENT ON COLUMN migration.cuts.apply_held_ms IS 'how long the stream stood: until the base''s snapshot, or until ENABLE; NULL while it stands';

CREATE TABLE migration.validations (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    week                text NOT NULL,
    purpose             text NOT NULL CHECK (purpose IN ('validate', 'reconcile', 'join', 'copy', 'repair')),
    marker              integer,
    lsn                 pg_lsn NOT NULL,
    method              text NOT NULL,
    legacy_rows         bigint NOT NULL,
    legacy_sum_a        numeric(40) NOT NULL,
    legacy_sum_b        numeric(40) NOT NULL,
    base_rows           bigint NOT NULL,
    base_sum_a          numeric(40) NOT NULL,
    base_sum_b          numeric(40) NOT NULL,
    equal               boolean NOT NULL,
    missing             bigint NOT NULL DEFAULT 0,
    extra               bigint NOT NULL DEFAULT 0,
    changed             bigint NOT NULL DEFAULT 0,
    run_id              text,
    validated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (relation, quarter, week) REFERENCES migration.slices
);
CREATE INDEX ON migration.validations (relation, quarter, week, id);
COMMENT ON TABLE migration.validations IS
    'Every exact comparison of a slice; the counts are of rows that were missing in the base, too many, or different';

CREATE TABLE migration.reconciliations (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    marker              integer NOT NULL,
    lsn                 pg_lsn NOT NULL,
    equal               boolean NOT NULL,
    duplicate_keys      bigint NOT NULL,
    run_id              text,
    reconciled_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON migration.reconciliations (relation, quarter, id);
COMMENT ON TABLE migration.reconciliations IS 'Every comparison of a whole quarter at one cut';

CREATE TABLE migration.repairs (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    week                text NOT NULL,
    marker              integer NOT NULL,
    lsn                 pg_lsn NOT NULL,
    missing             bigint NOT NULL,
    extra               bigint NOT NULL,
    changed             bigint NOT NULL,
    run_id              text,
    repaired_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    undone_at           timestamptz,
    FOREIGN KEY (relation, quarter, week) REFERENCES migration.slices
);
CREATE TABLE migration.repaired_rows (
    repair_id           bigint NOT NULL REFERENCES migration.repairs,
    kind                text NOT NULL CHECK (kind IN ('missing', 'extra', 'changed')),
    key                 text[] NOT NULL,
    before              text,
    PRIMARY KEY (repair_id, key),
    CHECK ((kind = 'missing') = (before IS NULL))
);
COMMENT ON TABLE migration.repaired_rows IS
    'What a repair changed: the key''s columns as text, and the base''s row before it as a composite value''s text';

CREATE TABLE migration.sign_offs (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    approved_by         text NOT NULL CHECK (btrim(approved_by) <> ''),
    note                text NOT NULL DEFAULT '',
    evidence            jsonb NOT NULL,
    sha256              text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    run_id              text,
    signed_at           timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON migration.sign_offs (relation, quarter, id);
COMMENT ON TABLE migration.sign_offs IS
    'Who approved what on which proof; it stands while all of the quarter''s slices are still signed_off';

-- version 3
CREATE TABLE migration.stream_samples (
    relation            text NOT NULL,
    taken_at            timestamptz NOT NULL,
    stored_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    sample              jsonb NOT NULL,
    status              text GENERATED ALWAYS AS (sample ->> 'status') STORED,
    lag_seconds         float8 GENERATED ALWAYS AS ((sample ->> 'lag_seconds')::float8) STORED,
    retained_wal_bytes  bigint GENERATED ALWAYS AS ((sample ->> 'retained_wal_bytes')::bigint) STORED,
    unconfirmed_bytes   bigint GENERATED ALWAYS AS ((sample ->> 'unconfirmed_bytes')::bigint) STORED,
    apply_errors        bigint GENERATED ALWAYS AS ((sample ->> 'apply_errors')::bigint) STORED,
    active_sessions     integer GENERATED ALWAYS AS ((sample ->> 'legacy_active_sessions')::integer) STORED,
    PRIMARY KEY (relation, taken_at)
);
CREATE INDEX ON migration.stream_samples (stored_at);
COMMENT ON TABLE migration.stream_samples IS 'Every look at the change stream, for as long as the settings say';
COMMENT ON COLUMN migration.stream_samples.taken_at IS 'by the watcher''s clock; stored_at is by the base''s';

CREATE TABLE migration.alerts (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    code                text NOT NULL,
    severity            text NOT NULL CHECK (severity IN ('warning', 'critical')),
    what                text NOT NULL,
    next_step           text NOT NULL,
    since               timestamptz NOT NULL,
    seen_at             timestamptz NOT NULL,
    good_looks          integer NOT NULL DEFAULT 0,
    sent_at             timestamptz,
    sent_severity       text CHECK (sent_severity IN ('warning', 'critical')),
    cleared_at          timestamptz
);
CREATE UNIQUE INDEX ON migration.alerts (relation, code) WHERE cleared_at IS NULL;
COMMENT ON TABLE migration.alerts IS 'Every problem of a stream that was worth telling; at most one of a kind is open';

-- version 4
ALTER TABLE migration.attempts DROP CONSTRAINT attempts_action_check;
ALTER TABLE migration.attempts ADD CONSTRAINT attempts_action_check
    CHECK (action IN ('copy', 'verify', 'join', 'validate', 'repair', 'undo', 'archive', 'reread', 'retire', 'restore'));

ALTER TABLE migration.slices
    ADD COLUMN released_at      timestamptz,
    ADD COLUMN released_marker  bigint,
    ADD COLUMN released_lsn     pg_lsn;
COMMENT ON COLUMN migration.slices.released_at IS
    'since when the change stream no longer covers the slice, from which cut on; NULL while it does, or never did';

CREATE TABLE migration.archives (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    week                text NOT NULL,
    location            text NOT NULL,
    generation          text NOT NULL,
    manifest_sha256     text NOT NULL CHECK (manifest_sha256 ~ '^[0-9a-f]{64}$'),
    files               integer NOT NULL,
    bytes               bigint NOT NULL,
    method              text NOT NULL,
    rows                bigint NOT NULL,
    sum_a               numeric(40) NOT NULL,
    sum_b               numeric(40) NOT NULL,
    portable_method     text NOT NULL,
    portable_sum_a      numeric(40) NOT NULL,
    portable_sum_b      numeric(40) NOT NULL,
    lsn                 pg_lsn NOT NULL,
    snapshot_at         timestamptz NOT NULL,
    leaf_changes        bigint NOT NULL,
    run_id              text,
    archived_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_equal      boolean NOT NULL DEFAULT true,
    verify_error        text,
    superseded_at       timestamptz,
    FOREIGN KEY (relation, quarter, week) REFERENCES migration.slices
);
CREATE UNIQUE INDEX ON migration.archives (relation, quarter, week) WHERE superseded_at IS NULL;
COMMENT ON TABLE migration.archives IS
    'Every archive of a slice that was proven and put in place; the one that is not superseded is the archive';
COMMENT ON COLUMN migration.archives.location IS 'the slice''s folder as a URL, without credentials';
COMMENT ON COLUMN migration.archives.sum_a IS 'the native fingerprint of the leaf in the snapshot that was archived';
COMMENT ON COLUMN migration.archives.portable_sum_a IS 'the fingerprint that PostgreSQL and DuckDB compute alike';
COMMENT ON COLUMN migration.archives.leaf_changes IS
    'how many row changes the leaf had seen then (pg_stat_all_tables): a hint only, the fingerprint decides';
COMMENT ON COLUMN migration.archives.verified_equal IS 'what the last re-reading of the files said';

CREATE TABLE migration.retirements (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    week                text NOT NULL,
    archive_id          bigint NOT NULL REFERENCES migration.archives,
    step                text NOT NULL CHECK (step IN ('detaching', 'quarantined', 'dropped', 'returned')),
    run_id              text,
    begun_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    quarantined_at      timestamptz,
    drop_after          timestamptz,
    dropped_at          timestamptz,
    returned_at         timestamptz,
    FOREIGN KEY (relation, quarter, week) REFERENCES migration.slices
);
CREATE UNIQUE INDEX ON migration.retirements (relation, quarter, week) WHERE step IN ('detaching', 'quarantined');
COMMENT ON TABLE migration.retirements IS
    'Every slice that left the root: intent is written before the DETACH; at most one of a slice is under way';
COMMENT ON COLUMN migration.retirements.drop_after IS 'when the grace period ends, by the clock of the settings';

CREATE TABLE migration.restores (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    quarter             text NOT NULL,
    week                text NOT NULL,
    archive_id          bigint NOT NULL REFERENCES migration.archives,
    kind                text NOT NULL CHECK (kind IN ('restore', 'return', 'drill')),
    rows                bigint NOT NULL,
    equal               boolean NOT NULL,
    error               text,
    seconds             float8 NOT NULL,
    run_id              text,
    restored_at         timestamptz NOT NULL,
    FOREIGN KEY (relation, quarter, week) REFERENCES migration.slices
);
COMMENT ON TABLE migration.restores IS
    'Every restore from an archive or from quarantine, and every drill; restored_at is by the clock of the settings';

-- version 5
CREATE TABLE migration.evidence_chain (
    relation            text NOT NULL,
    id                  bigint NOT NULL CHECK (id >= 1),
    kind                text NOT NULL,
    quarter             text,
    payload             jsonb NOT NULL,
    payload_sha256      text NOT NULL CHECK (payload_sha256 ~ '^[0-9a-f]{64}$'),
    previous_sha256     text NOT NULL CHECK (previous_sha256 ~ '^[0-9a-f]{64}$'),
    sha256              text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    at                  timestamptz NOT NULL,
    run_id              text,
    PRIMARY KEY (relation, id),
    -- Whatever happens to the lock of those who append: the chain has no fork.
    UNIQUE (relation, previous_sha256)
);
COMMENT ON TABLE migration.evidence_chain IS
    'What was proven, signed, archived and retired: each record covers the one before, so that none can change unseen';
COMMENT ON COLUMN migration.evidence_chain.id IS 'its place in the relation''s chain: 1, 2, 3 and so on, without a gap';
COMMENT ON COLUMN migration.evidence_chain.sha256 IS
    'over id, relation, kind, quarter, payload_sha256, previous_sha256, at and run_id as canonical JSON';
CREATE FUNCTION migration.refuse_to_alter_evidence() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    -- Against accidents. Who may switch this off is found by `migration-assets evidence verify`.
    RAISE EXCEPTION 'the evidence chain only grows: % is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Nothing was changed. `migration-assets evidence verify` says whether the chain holds.';
END $$;
CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON migration.evidence_chain
    FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_to_alter_evidence();
-- A session of an apply worker, or one in the role of a replica, fires only these.
ALTER TABLE migration.evidence_chain ENABLE ALWAYS TRIGGER only_grows;

-- version 6
CREATE TABLE migration.cutovers (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation        text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('cutover', 'rollback')),
    rehearse        boolean NOT NULL,
    approved_by     text NOT NULL CHECK (btrim(approved_by) <> ''),
    state           text NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'waiting', 'held', 'drained', 'compared',
                        'sequences', 'reversed', 'open', 'switched', 'done', 'undoing', 'undone')),
    timeline        jsonb NOT NULL DEFAULT '{}',
    stream_barred   boolean NOT NULL DEFAULT false,
    held_at         timestamptz,
    opened_at       timestamptz,
    released_at     timestamptz,
    downtime_ms     float8,
    compared_weeks  integer,
    compared_rows   bigint,
    error           text,
    outcome         text NOT NULL DEFAULT 'running' CHECK (
        outcome IN ('running', 'succeeded', 'rehearsed', 'aborted')),
    run_id          text,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
CREATE UNIQUE INDEX ON migration.cutovers (relation) WHERE outcome = 'running';
COMMENT ON TABLE migration.cutovers IS
    'Every cutover and rollback: intent is written before each deed; at most one of a table is under way';
COMMENT ON COLUMN migration.cutovers.timeline IS 'by state: when its step was started and finished, by the base''s clock';
COMMENT ON COLUMN migration.cutovers.opened_at IS 'when the side that writes go to accepted them; NULL: it never did';
COMMENT ON COLUMN migration.cutovers.released_at IS 'when some side accepted writes again';
COMMENT ON COLUMN migration.cutovers.downtime_ms IS 'how long no side accepted writes';
COMMENT ON COLUMN migration.cutovers.stream_barred IS 'while set, nobody but the cutover may let the change stream go on';

CREATE TABLE migration.holds (
    relation        text PRIMARY KEY,
    owner           bigint NOT NULL,
    opener          bigint,
    opening         boolean NOT NULL DEFAULT false,
    held_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE migration.holds IS
    'A table of this name is on both sides: whose application writes are refused there, by which cutover';
COMMENT ON COLUMN migration.holds.opener IS 'the cutover that may end the hold in order to let writes in';
COMMENT ON COLUMN migration.holds.opening IS
    'the other side is, or is about to be, open for writes: from then on nobody ends this hold without a look there';

CREATE SEQUENCE migration.reverse_marker_id;
CREATE TABLE migration.reverse_markers (
    relation        text NOT NULL,
    id              bigint NOT NULL,
    sent_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (relation, id)
);
COMMENT ON TABLE migration.reverse_markers IS
    'Markers of the reverse stream: once one is visible on the legacy, everything before it on the base is applied there';

CREATE FUNCTION migration.bar_stream() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NEW.status <> 'held' AND EXISTS (
        SELECT FROM migration.cutovers c WHERE c.relation = NEW.relation AND c.stream_barred
    ) THEN
        RAISE EXCEPTION 'the change stream of % must not run: a cutover is under way, or the base is in charge',
            NEW.relation
            USING ERRCODE = '55000', HINT = 'finish or undo the cutover, or roll back; each lets the stream go on';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER bar_stream BEFORE INSERT OR UPDATE ON migration.streams
    FOR EACH ROW EXECUTE FUNCTION migration.bar_stream();

-- version 7
CREATE TABLE migration.legacy_reads (
    relation        text PRIMARY KEY,
    watched_since   timestamptz NOT NULL,
    seen_at         timestamptz NOT NULL,
    counters        jsonb NOT NULL DEFAULT '{}',
    last_read_at    timestamptz,
    last_reader     text
);
COMMENT ON TABLE migration.legacy_reads IS
    'While the base is in charge: whether anybody still reads the legacy''s table, seen by the watch look by look';
COMMENT ON COLUMN migration.legacy_reads.watched_since IS 'since when nothing can have been missed';
COMMENT ON COLUMN migration.legacy_reads.counters IS 'of the legacy''s statistics, at the last look';
COMMENT ON COLUMN migration.legacy_reads.last_read_at IS 'the look that last saw a read; NULL: none did';

CREATE TABLE migration.decommissions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation        text NOT NULL UNIQUE,
    cutover         bigint NOT NULL REFERENCES migration.cutovers (id),
    approved_by     text NOT NULL CHECK (btrim(approved_by) <> ''),
    note            text NOT NULL DEFAULT '',
    scope           text NOT NULL CHECK (scope IN ('database', 'table')),
    state           text NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'fingerprinted', 'closed', 'severed', 'done')),
    last_read_at    timestamptz,
    watched_since   timestamptz,
    final           jsonb NOT NULL DEFAULT '{}',
    former          jsonb NOT NULL DEFAULT '{}',
    error           text,
    run_id          text,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
COMMENT ON TABLE migration.decommissions IS
    'The point of no return: the legacy is made inactive. Intent is written before each deed; one row of a table ever';
COMMENT ON COLUMN migration.decommissions.scope IS 'whether the legacy''s whole database was closed, or its table alone';
COMMENT ON COLUMN migration.decommissions.final IS
    'the legacy''s last fingerprints: {"total": ..., "weeks": {...}}, numbers as text';
COMMENT ON COLUMN migration.decommissions.former IS 'grants and settings as they were before, for a person who must go back';

-- version 8
ALTER TABLE migration.slices DROP CONSTRAINT slices_check;
-- A week that was born in the base is archived without ever having been compared with a legacy.
ALTER TABLE migration.slices ADD CONSTRAINT slices_check CHECK (
    state IN ('absent', 'archived', 'retired')
    OR (copied_at IS NOT NULL AND legacy_rows IS NOT NULL AND base_rows IS NOT NULL));

-- version 9
CREATE TABLE migration.acceptances (
    relation        text NOT NULL,
    code            text NOT NULL,
    subject         text NOT NULL,
    accepted_by     text NOT NULL,
    reason          text NOT NULL,
    accepted_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    digest          text NOT NULL,
    PRIMARY KEY (relation, code, subject)
);
COMMENT ON TABLE migration.acceptances IS
    'Findings that block until a named person accepts them, each by its code and the name of the thing that it is about';
COMMENT ON COLUMN migration.acceptances.digest IS
    'SHA-256 of what the thing was made of when it was accepted: another thing of its name is not accepted';

CREATE TABLE migration.orphans (
    cutover         bigint NOT NULL REFERENCES migration.cutovers (id),
    key             text NOT NULL,
    before          bigint,
    after           bigint,
    counted_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cutover, key)
);
COMMENT ON TABLE migration.orphans IS
    'Rows of the legacy that point nowhere by a foreign key, which no apply worker checks: counted by every rollback';
COMMENT ON COLUMN migration.orphans.before IS 'before the base''s writes were held; NULL: could not be counted';
COMMENT ON COLUMN migration.orphans.after IS 'when the legacy was open again; NULL: could not be counted';

CREATE TABLE migration.servers (
    relation            text NOT NULL,
    side                text NOT NULL CHECK (side IN ('legacy', 'base')),
    system_identifier   text NOT NULL,
    timeline            bigint NOT NULL,
    database_oid        bigint NOT NULL,
    database_name       text NOT NULL,
    server_version      text NOT NULL,
    lsn_seen            pg_lsn NOT NULL,
    seen_at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    markers_since       bigint NOT NULL,
    recorded_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    recorded_by         text NOT NULL,
    PRIMARY KEY (relation, side)
);
COMMENT ON TABLE migration.servers IS
    'The two servers that a stream rests on: another one in the place of either is told by what differs from this';
COMMENT ON COLUMN migration.servers.lsn_seen IS 'a position that was on the server''s disk; it never stands before it again';
COMMENT ON COLUMN migration.servers.markers_since IS
    'every later marker that this side sent is on the other side, or something was skipped';

CREATE TABLE migration.server_changes (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation            text NOT NULL,
    what                text NOT NULL,
    found_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    mended_at           timestamptz,
    mended_by           text
);
CREATE UNIQUE INDEX ON migration.server_changes (relation) WHERE mended_at IS NULL;
COMMENT ON TABLE migration.server_changes IS
    'A server came back as another, or earlier than it was: until that is mended no step trusts the stream or its proofs';

-- A repair at a slot's own snapshot has no marker.
ALTER TABLE migration.repairs ALTER COLUMN marker DROP NOT NULL;

-- What proofs saw of the tables themselves: what was altered or rewritten since is proven no more.
ALTER TABLE migration.slices ADD COLUMN definitions jsonb;
ALTER TABLE migration.validations ADD COLUMN definitions jsonb;
ALTER TABLE migration.archives ADD COLUMN definitions jsonb;
COMMENT ON COLUMN migration.slices.definitions IS
    'oid, files and a digest of the definition of the legacy''s table, the root and the leaf, as the newest proof saw them';
COMMENT ON COLUMN migration.validations.definitions IS 'the same, of this comparison';
COMMENT ON COLUMN migration.archives.definitions IS 'the same, of the root and the leaf that were archived';

ALTER TABLE migration.repairs
    ALTER COLUMN quarter DROP NOT NULL,
    ALTER COLUMN week DROP NOT NULL,
    ADD COLUMN side text NOT NULL DEFAULT 'base' CHECK (side IN ('base', 'legacy')),
    ADD COLUMN legacy_transaction xid8,
    ADD COLUMN legacy_undo xid8,
    ADD COLUMN applied boolean,
    ADD CHECK ((side = 'legacy') = (legacy_transaction IS NOT NULL)),
    ADD CHECK ((week IS NULL) = (quarter IS NULL) AND (week IS NOT NULL OR side = 'legacy'));
COMMENT ON COLUMN migration.repairs.week IS 'NULL: of rows of the legacy at times that no week has';
COMMENT ON COLUMN migration.repairs.side IS
    'which side was changed: the base after the legacy, or, while the base was in charge, the legacy after the base';
COMMENT ON COLUMN migration.repairs.legacy_transaction IS
    'the legacy''s transaction that changed it; where `applied` is not set, pg_xact_status on the legacy tells whether';
COMMENT ON COLUMN migration.repairs.legacy_undo IS 'the one that took it back; undone_at holds where that committed';
COMMENT ON COLUMN migration.repairs.applied IS 'of a repair of the legacy: known to have been committed there';

CREATE TABLE migration.accounted (
    relation        text PRIMARY KEY,
    file            bigint,
    horizon         xid8 NOT NULL,
    accounted_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE migration.accounted IS
    'The gate of a cutover was passed: every row of the legacy was in a week. Since then the watch tells of what is not';
COMMENT ON COLUMN migration.accounted.file IS 'the legacy''s table as it was: pg_relation_filenode; NULL: no plain heap';
COMMENT ON COLUMN migration.accounted.horizon IS 'the oldest transaction that ran on the legacy then';

CREATE TABLE migration.stream_parts (
    relation        text PRIMARY KEY,
    subscription    text,
    publication     text,
    alterations     integer NOT NULL DEFAULT 0,
    what            text,
    noticed_at      timestamptz
);
COMMENT ON TABLE migration.stream_parts IS
    'The rows of PostgreSQL''s catalogue that a stream is made of, as this program left them: others were altered by hand';
COMMENT ON COLUMN migration.stream_parts.subscription IS
    'oid and xmin of its row on the base; empty: there is none; NULL: our role may not see that';
COMMENT ON COLUMN migration.stream_parts.publication IS 'the same of its rows on the legacy; NULL: never looked at';
COMMENT ON COLUMN migration.stream_parts.alterations IS
    'how often somebody else altered one of them; what was proven at a lower count is proven no more';

-- version 10
CREATE TABLE migration.ledger_identity (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id              uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO migration.ledger_identity DEFAULT VALUES;
COMMENT ON TABLE migration.ledger_identity IS
    'The ledger''s own number. A copy of the base has the same one, and is told by where it lies: archives name both';

CREATE TABLE migration.archive_adoptions (
    relation        text NOT NULL,
    adopted         text NOT NULL,
    adopter         text NOT NULL,
    adopted_by      text NOT NULL,
    role            text NOT NULL DEFAULT session_user,
    adopted_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (relation, adopted, adopter)
);
COMMENT ON TABLE migration.archive_adoptions IS
    'The base was moved: what the ledger wrote to its archive before, from there, is its own here. A copy of this base has these rows, too, and is another adopter';

CREATE TABLE migration.confirmations (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation        text NOT NULL,
    step            text NOT NULL,
    subject         text NOT NULL,
    examined        jsonb NOT NULL,
    code_sha256     text NOT NULL,
    run_id          text,
    given_to        text NOT NULL DEFAULT session_user,
    given_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    spent_at        timestamptz,
    spent_by        text,
    cutover         bigint,
    UNIQUE (relation, code_sha256)
);
COMMENT ON TABLE migration.confirmations IS
    'Codes that dry runs gave out: a step that cannot be undone, or that holds writes, asks for one, and uses it up';
COMMENT ON COLUMN migration.confirmations.examined IS
    'what the step rests on, as it was then; where that has changed the code is good for nothing';
COMMENT ON COLUMN migration.confirmations.spent_by IS 'the one call that used it';
COMMENT ON COLUMN migration.confirmations.cutover IS
    'the cutover or rollback that used it: where that was undone before anything was opened, it may be used again';

ALTER TABLE migration.cuts ADD COLUMN worker text;
COMMENT ON COLUMN migration.cuts.worker IS
    'the apply worker that brought the marker: process and beginning. As long as it lives nothing was skipped since';

CREATE TABLE migration.watchers (
    relation        text PRIMARY KEY,
    token           text NOT NULL,
    pid             integer NOT NULL,
    backend_start   timestamptz NOT NULL,
    until           timestamptz NOT NULL
);
COMMENT ON TABLE migration.watchers IS
    'The one watcher that judges and tells now; the others only look. It is replaced when its session or its time ends';

-- version 11
-- Beside the name that somebody typed: the role, the process's user and machine, and the tags of its run. Rows of before
-- have none.
DO $$
DECLARE deed text;
BEGIN
    FOREACH deed IN ARRAY ARRAY['sign_offs', 'cutovers', 'decommissions', 'repairs', 'retirements', 'restores',
                                'acceptances', 'archive_adoptions'] LOOP
        EXECUTE format('ALTER TABLE migration.%I ADD COLUMN done_by jsonb', deed);
        EXECUTE format('ALTER TABLE migration.%I ALTER COLUMN done_by SET DEFAULT coalesce(nullif('
            'current_setting(''migration_assets.doer'', true), ''''), ''{}'')::jsonb'
            ' || jsonb_build_object(''role'', session_user::text)', deed);
        EXECUTE format('COMMENT ON COLUMN migration.%I.done_by IS %L', deed,
            'who really did it: role, user and machine of the process, tags of the run that name a person');
    END LOOP;
END $$;

ALTER TABLE migration.repairs ADD COLUMN images_removed_at timestamptz;
COMMENT ON COLUMN migration.repairs.images_removed_at IS
    'when its rows of migration.repaired_rows went, by their age; it cannot be taken back any more';

-- What advisory locks were for, which anybody who may connect can take. A program that still has them must end first.
DO $$
DECLARE who integer;
BEGIN
    SELECT min(k.pid) INTO who FROM pg_locks k JOIN pg_stat_activity a USING (pid)
    WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 2 AND k.classid IN (71002, 71004, 71006, 71007)
      AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND has_table_privilege(a.usesysid, 'migration.slices', 'UPDATE');
    IF who IS NOT NULL THEN
        RAISE EXCEPTION 'an older program of migration_assets is at work: backend %', who USING ERRCODE = '55006';
    END IF;
END $$;
CREATE UNLOGGED TABLE migration.session_locks (
    id              bigint PRIMARY KEY,
    name            text NOT NULL,
    shared          boolean NOT NULL,
    pid             integer NOT NULL,
    role            oid NOT NULL,
    backend_start   timestamptz,
    since           timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE migration.session_locks IS
    'Who works on what: of the rows of one name the first has the lock, as long as the session that wrote it lives';
COMMENT ON COLUMN migration.slices.lock_key IS 'whoever works on the slice holds the lock "slice " and this number';
-- The apply worker waits for a row of the marker's own key instead.
DROP TRIGGER IF EXISTS wait_at_marker ON migration.markers;
DROP FUNCTION IF EXISTS migration.wait_at_marker();
UPDATE migration.alerts SET code = 'marker_key_missing' WHERE code = 'marker_trigger_missing';
UPDATE migration.stream_samples
    SET sample = replace(sample::text, 'marker_trigger_missing', 'marker_key_missing')::jsonb
    WHERE sample::text LIKE '%marker_trigger_missing%';
