"""The moments that tell most: where a step is struck in `make test`, stopped for a drill, or loses a server."""

from migration_assets_tests.crashes.trap import Point

_FINGERPRINT = "SELECT b, count(*)"
_KEYS = 'COPY (SELECT "k1"'
_MARKER = "INSERT INTO migration.markers"
_DISABLE = 'ALTER SUBSCRIPTION "ours" DISABLE'
_CREATE = 'SELECT "migration".subscribe'
_ENABLE = 'ALTER SUBSCRIPTION "ours" ENABLE'

IN_LOCK = Point(f"legacy[*:copy:marker] {_MARKER}")
"""The legacy's writers wait for the step's process."""
BEFORE_SWAP = Point("base[*:swap] LOCK TABLE ONLY")
IN_SWAP = Point("base[*:swap] DROP TABLE")
IN_REPAIR = Point(f"base[*:repair] {_KEYS}")
_REST = "SELECT # FROM migration.streams WHERE relation = # AND status = # AND status_since = #"
BEFORE_REST = {"copy": Point(f"base[*:true-up] {_REST}"), "repair": Point(f"base[*:repair] {_REST}")}
"""The stream is paused, and nothing but the session that paused it keeps it so."""
IN_ACTIVATION = Point(f"base[*:true-up] {_REST}", 5)
"""Before W05, in which rows change."""

BEFORE_LEGACY_CHANGES = {
    "activate": (
        Point("legacy[*:join] SELECT pg_terminate_backend"),
        Point("legacy[*:join] SELECT pg_drop_replication_slot"),
        Point("legacy[*:join] DROP PUBLICATION"),
    ),
    "join": (Point("legacy[*:join:cut] SET synchronous_commit"),),
}
"""The legacy's slot or publication is about to change, and nobody is held."""

TELLING: tuple[tuple[str, Point], ...] = (
    ("activate", Point(f"base[*:join] {_CREATE}")),
    ("activate", Point("base[*:true-up] COMMIT", 13)),
    ("join", Point("legacy[*:join:cut] COMMIT", 1, "during")),
    ("join", Point(f"base[*:join:pause] {_DISABLE}")),
    ("join", Point(f"base[*:join] {_ENABLE}")),
    ("copy", IN_LOCK),
    ("copy", Point(f"base[*:copy:pause] {_ENABLE}")),
    ("copy", Point("base[*:swap] COMMIT", 1, "during")),
    ("repair", IN_REPAIR),
)  # fmt: skip

WITHOUT_SERVER: tuple[tuple[str, Point], ...] = (
    ("activate", IN_ACTIVATION),
    ("activate", TELLING[0][1]),
    ("join", Point(f"legacy[*:join:marker] {_MARKER}")),
    ("join", Point(f"base[*:join:pause] {_DISABLE}")),
    ("join", Point(f"base[*:true-up] {_FINGERPRINT}", 2)),
    ("join", Point(f"base[*:join] {_ENABLE}")),
    ("copy", IN_LOCK),
    ("copy", Point(f"base[*:copy:pause] {_DISABLE}")),
    ("copy", BEFORE_SWAP),
    ("copy", Point("base[*:swap] COMMIT")),
    ("repair", IN_REPAIR),
    ("repair", Point(f"base[*:repair:pause] {_ENABLE}")),
    ("validate", Point("base[*:validate:snapshot] BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")),
)
"""Where the legacy and the base are crashed, each in its turn."""
