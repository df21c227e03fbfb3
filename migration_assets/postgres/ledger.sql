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
