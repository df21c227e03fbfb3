"""The watch's tables in the ledger: samples of the stream, open alerts, and the lease of the watcher."""

import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from migration_assets.domain.alerting import Alert, alert_from
from migration_assets.domain.samples import StreamSample
from migration_assets.postgres.sessions import Connected

# A watcher that stands still is replaced after this time. If it only sends for longer, another one may send the same
# again.
LEASE_SECONDS = 120.0
_ALERT = ("code", "severity", "what", "next_step", "since", "seen_at", "good_looks", "sent_at", "sent_severity",
          "cleared_at")  # fmt: skip


@dataclass(frozen=True)
class AgedSample:
    """A sample, and how long ago the base stored it, by the base's clock."""

    sample: StreamSample
    age_seconds: float


def store_sample(base: Connected, sample: StreamSample) -> None:
    """Keep a sample; of two samples with the same time the first one stays."""
    base.execute(
        "INSERT INTO migration.stream_samples (relation, taken_at, sample) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [sample.relation, sample.taken_at, Jsonb(sample.to_json())],
    )


def prune_samples(base: Connected, relation: str, days: float) -> int:
    """Delete samples that are older than `days` days; returns how many."""
    return base.execute(
        "DELETE FROM migration.stream_samples"
        " WHERE relation = %s AND stored_at < clock_timestamp() - %s * interval '1 day'",
        [relation, days],
    ).rowcount


def read_samples(base: Connected, relation: str, *, limit: int) -> list[StreamSample]:
    """The last `limit` samples, oldest first."""
    rows = base.execute(
        "SELECT sample FROM migration.stream_samples WHERE relation = %s ORDER BY taken_at DESC LIMIT %s",
        [relation, limit],
    ).fetchall()
    return [StreamSample.from_json(row[0]) for row in reversed(rows)]


def latest_sample(base: Connected, relation: str) -> AgedSample | None:
    """The newest stored sample, with its age."""
    row = base.execute(
        "SELECT sample, extract(epoch FROM clock_timestamp() - stored_at)::float8"
        " FROM migration.stream_samples WHERE relation = %s ORDER BY taken_at DESC LIMIT 1",
        [relation],
    ).fetchone()
    return None if row is None else AgedSample(StreamSample.from_json(row[0]), float(row[1]))


@contextmanager
def watch_lease(base: Connected, relation: str) -> Generator[bool]:
    """Try to become the one watcher that judges samples and sends messages; yields whether it succeeded, never waits.

    It is a row and no advisory lock: every role that may connect could take such a lock, and no alert would be sent.
    """
    token = secrets.token_hex(8)
    mine = base.execute(
        "INSERT INTO migration.watchers AS w (relation, token, pid, backend_start, until)"
        " SELECT %(relation)s, %(token)s, pid, backend_start, clock_timestamp() + %(lease)s * interval '1 second'"
        " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        " ON CONFLICT (relation) DO UPDATE SET token = excluded.token, pid = excluded.pid,"
        " backend_start = excluded.backend_start, until = excluded.until"
        # The start of another role's session cannot be seen.
        " WHERE w.until < clock_timestamp() OR NOT EXISTS (SELECT FROM pg_stat_activity a"
        " WHERE a.pid = w.pid AND coalesce(a.backend_start = w.backend_start, true))",
        {"relation": relation, "token": token, "lease": LEASE_SECONDS},
    ).rowcount
    try:
        yield bool(mine)
    finally:
        if mine and not base.closed and not base.broken:
            base.execute("DELETE FROM migration.watchers WHERE relation = %s AND token = %s", [relation, token])


def open_alerts(base: Connected, relation: str) -> tuple[Alert, ...]:
    """The alerts that are open, by code."""
    with base.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT * FROM migration.alerts WHERE relation = %s AND cleared_at IS NULL ORDER BY code", [relation]
        )
        return tuple(alert_from({name: row[name] for name in _ALERT}) for row in cursor)


def save_alerts(base: Connected, relation: str, alerts: Iterable[Alert]) -> None:
    """Replace the open alerts of the same codes, and close those that are cleared."""
    rows: Sequence[dict[str, object]] = [
        {"relation": relation, **{name: getattr(alert, name) for name in _ALERT}} for alert in alerts
    ]
    past = [row for row in rows if row["cleared_at"] is not None]
    with base.transaction(), base.cursor() as cursor:
        # All are inserted as open: a closed row is not in the partial index, and would not conflict with the open one.
        cursor.executemany(
            "INSERT INTO migration.alerts (relation, code, severity, what, next_step, since, seen_at, good_looks,"
            " sent_at, sent_severity) VALUES (%(relation)s, %(code)s, %(severity)s, %(what)s, %(next_step)s,"
            " %(since)s, %(seen_at)s, %(good_looks)s, %(sent_at)s, %(sent_severity)s)"
            " ON CONFLICT (relation, code) WHERE cleared_at IS NULL DO UPDATE SET severity = excluded.severity,"
            " what = excluded.what, next_step = excluded.next_step, since = excluded.since,"
            " seen_at = excluded.seen_at, good_looks = excluded.good_looks, sent_at = excluded.sent_at,"
            " sent_severity = excluded.sent_severity",
            rows,
        )
        cursor.executemany(
            "UPDATE migration.alerts SET cleared_at = %(cleared_at)s"
            " WHERE relation = %(relation)s AND code = %(code)s AND cleared_at IS NULL",
            past,
        )
