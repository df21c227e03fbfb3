"""Heartbeats: markers that nobody waits at, whose way to the base is the lag. No difference of two clocks anywhere."""

from migration_assets.ledger.own_objects import require_trusted
from migration_assets.postgres.sessions import Connected, require_row

KIND = "heartbeat"


def send_heartbeat(legacy: Connected, relation: str) -> int:
    """Write a heartbeat on the legacy, committed there; returns its id."""
    require_trusted(legacy)
    with legacy.transaction():
        # A standby that hangs is no reason for the watch to hang.
        legacy.execute("SET LOCAL synchronous_commit = local")
        row = legacy.execute(
            "INSERT INTO migration.markers (relation, id, kind, sent_at)"
            " VALUES (%s, nextval('migration.marker_id'), %s, clock_timestamp()) RETURNING id",
            [relation, KIND],
        ).fetchone()
    return int(require_row(row, "a new heartbeat")[0])


def newest_arrived(base: Connected, relation: str) -> int:
    """The highest marker that the base has; 0 where none came yet.

    What an earlier stream, since rebuilt, never carried has a lower id, and is waited for by nobody.
    """
    row = base.execute(
        "SELECT greatest((SELECT max(id) FROM migration.markers WHERE relation = %(relation)s),"
        " (SELECT exact_since_marker FROM migration.streams WHERE relation = %(relation)s), 0)",
        {"relation": relation},
    ).fetchone()
    return int(require_row(row, "the newest marker")[0])


def has_arrived(base: Connected, relation: str, marker: int) -> bool:
    """Whether a marker is visible on the base: then all that was committed before it is applied."""
    found = base.execute("SELECT 1 FROM migration.markers WHERE relation = %s AND id = %s", [relation, marker])
    return found.fetchone() is not None


def age_of_oldest_under_way(legacy: Connected, relation: str, arrived: int) -> float | None:
    """Seconds, by the legacy's clock, since the oldest marker after `arrived` was sent; None where there is none."""
    row = legacy.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(sent_at))::float8 FROM migration.markers"
        " WHERE relation = %s AND id > %s",
        [relation, arrived],
    ).fetchone()
    age = require_row(row, "the oldest marker")[0]
    return None if age is None else max(0.0, float(age))


def prune_heartbeats(legacy: Connected, base: Connected, relation: str, *, keep_seconds: float) -> int:
    """Delete old heartbeats on the legacy; the stream brings the deletes to the base. Returns how many.

    Only such as the base has: a delete that meets no row there counts as a conflict, which is an alarm of its own.
    """
    old = legacy.execute(
        "SELECT id FROM migration.markers WHERE relation = %s AND kind = %s"
        " AND sent_at < clock_timestamp() - %s * interval '1 second'",
        [relation, KIND, keep_seconds],
    ).fetchall()
    if not old:
        return 0
    present = base.execute(
        "SELECT id FROM migration.markers WHERE relation = %s AND id = ANY(%s)", [relation, [row[0] for row in old]]
    ).fetchall()
    return legacy.execute(
        "DELETE FROM migration.markers WHERE relation = %s AND id = ANY(%s)", [relation, [row[0] for row in present]]
    ).rowcount


def send_reverse_marker(base: Connected, relation: str) -> int:
    """Write a marker on the base, durably; its id."""
    with base.transaction():
        base.execute("SET LOCAL synchronous_commit = on")
        row = base.execute(
            "INSERT INTO migration.reverse_markers (relation, id)"
            " VALUES (%s, nextval('migration.reverse_marker_id')) RETURNING id",
            [relation],
        ).fetchone()
    return int(require_row(row, "a reverse marker")[0])


def reverse_arrived(legacy: Connected, relation: str, marker: int) -> bool:
    """Whether the marker is visible on the legacy: then all that the base committed before it is applied there."""
    found = legacy.execute(
        "SELECT 1 FROM migration.reverse_markers WHERE relation = %s AND id = %s", [relation, marker]
    )
    return found.fetchone() is not None
