"""Two worlds for what a terminal shows: a ledger with every kind of slice in it, and one live quarter.

Of the ledger the rows are of real copies, the states as later steps leave them. Each test leaves the live quarter as
it found it, under CDC and equal.
"""

import os
import secrets
from collections.abc import Generator
from pathlib import Path

import pytest

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets.watch.overview import Overview, read_overview
from migration_assets_tests.clones import Clones
from migration_assets_tests.ground import QUARTER, SPEC, Ground
from migration_assets_tests.terminal.live_quarter import LiveQuarter, live_quarter

_HISTORY = """
UPDATE migration.slices SET state = 'validated', validated_at = now() - interval '3 h', validated_equal = true,
    validated_marker = 7, validated_lsn = '0/10', validated_changes = 0, changed_at = now() - interval '9 h'
WHERE week IN ('W01', 'W02', 'W03', 'W04');
UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W01';
UPDATE migration.slices SET validated_at = now() - interval '30 h', changed_at = now() - interval '40 h'
WHERE week = 'W03';
UPDATE migration.slices SET state = 'streaming', validated_equal = false WHERE week = 'W04';
INSERT INTO migration.attempts (relation, quarter, week, action, outcome, error, finished_at)
VALUES ('public.bookings', 'FY25-Q2', 'W04', 'validate', 'mismatch', '2 missing, 0 extra, 1 changed', now()),
       ('public.bookings', 'FY25-Q2', 'W07', 'copy', 'failed', 'DiskFull: no [room] left', now());
INSERT INTO migration.cuts (relation, marker, kind, purpose, lsn, tries, writers_held_ms, longest_try_ms, reached_ms,
                            apply_held_ms, taken_at)
SELECT 'public.bookings', n, 'validate', 'FY25-Q2|W01:validate', '0/10', 1, n, n + 50, 20, 15,
       now() - n * interval '1 min'
FROM generate_series(1, 100) n;
INSERT INTO migration.streams (relation, publication, slot, subscription, status)
VALUES ('public.bookings', 'p', 's', 'not_there', 'live');
INSERT INTO migration.alerts (relation, code, severity, what, next_step, since, seen_at)
VALUES ('public.bookings', 'lag', 'warning', 'the base is 34 s behind', 'look for [locks]', now(), now()),
       ('public.bookings', 'slot_lost', 'critical', 'the slot is lost', 'rebuild', now() - interval '4 min', now());
"""
_SAMPLES = """
INSERT INTO migration.stream_samples (relation, taken_at, sample)
SELECT 'public.bookings', t, jsonb_build_object('relation', 'public.bookings', 'taken_at', t, 'status', 'live',
       'lag_seconds', CASE n WHEN 3 THEN NULL WHEN 5 THEN 45.0 ELSE n END, 'retained_wal_bytes', 1200000)
FROM generate_series(1, 10) n, LATERAL (SELECT now() - (11 - n) * interval '1 min' AS t) m
"""


@pytest.fixture(scope="package")
def ground(servers: EmbeddedServers) -> Generator[Ground]:
    """W01 signed off, W02 validated, W03 too long ago, W04 differs, W05 copied, W07 failed, the rest absent."""
    name = f"test_{secrets.token_hex(6)}"
    servers.recreate_database("legacy", name)
    servers.recreate_database("base", name)
    try:
        made = Ground(Databases(servers.legacy_url(name), servers.base_url(name))).fill(364)
        made.open(QUARTER)
        for number in range(1, 6):
            made.copy(number)
        made.run("base", _HISTORY, _SAMPLES)
        yield made
    finally:
        servers.drop_database("base", name)
        servers.drop_database("legacy", name)


def look(ground: Ground) -> Overview:
    with ground.databases.session("base", "test") as base:
        return read_overview(base, SPEC)


@pytest.fixture(scope="package")
def quarter(clones: Clones) -> Generator[LiveQuarter]:
    with live_quarter(clones) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_of_the_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
