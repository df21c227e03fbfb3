"""What questions read of the base: in nobody's way, planned as the table itself, and as the table is now."""

import secrets
from dataclasses import replace

import pytest
from psycopg.conninfo import make_conninfo

from migration_assets.archive.columns import stored_columns
from migration_assets.archive.hot_rows import ensure_hot_view
from migration_assets.domain.errors import MigrationError
from migration_assets.ledger.session_locks import take_turn_at_partitions
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sessions import Databases
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.ground import SPEC, Ground


def view_of(ground: Ground) -> str:
    with ground.databases.session("base", "test") as base:
        columns = stored_columns(require_table(base, SPEC.table, "base"))
        return str(ensure_hot_view(base, SPEC, columns))


def test_the_table_can_be_altered_as_if_nobody_had_ever_asked(databases: Urls) -> None:
    """The runbook says so: what was changed on the legacy is changed on the base, and the stream goes on."""
    ground = Ground(Databases(databases.legacy_url, databases.base_url)).fill(1)
    ground.open()
    view = view_of(ground)
    assert view_of(ground) == view
    with ground.databases.session("base", "test") as base:
        base.execute(f"GRANT SELECT ON {view} TO PUBLIC, pg_monitor".encode())
    ground.run(
        "base",
        "INSERT INTO bookings VALUES (1, '2024-04-02', 3, 1.5, 'x')",
        "ALTER TABLE bookings ALTER COLUMN price TYPE numeric(12,4)",
        "ALTER TABLE bookings ALTER COLUMN guests TYPE bigint",
        "ALTER TABLE bookings DROP COLUMN note",
        "ALTER TABLE bookings RENAME COLUMN guests TO people",
    )
    assert view_of(ground) == view
    with ground.databases.session("base", "test") as base:
        query = f"SELECT c0, c2, c3::text, pg_typeof(c2)::text FROM {view}"
        assert base.execute(query.encode()).fetchall() == [(1, 3, "1.5000", "bigint")]
        # Who was allowed to read it still is.
        acl = base.execute("SELECT relacl::text FROM pg_class WHERE oid = %s::regclass", [view]).fetchone()
    assert acl is not None
    assert "pg_monitor=r/" in acl[0]
    assert ",=r/" in acl[0]


def test_whoever_may_only_read_asks_beside_whoever_makes_partitions(databases: Urls) -> None:
    ground = Ground(Databases(databases.legacy_url, databases.base_url)).fill(1)
    ground.open()
    view, role = view_of(ground), f"reader_{secrets.token_hex(4)}"
    ground.run("base", f"CREATE ROLE {role} LOGIN PASSWORD 'x'")  # pyright: ignore[reportArgumentType]
    ground.run("base", f"GRANT USAGE ON SCHEMA migration TO {role}")  # pyright: ignore[reportArgumentType]
    reading = replace(
        ground, databases=Databases(databases.legacy_url, make_conninfo(databases.base_url, user=role, password="x"))
    )
    with ground.databases.session("base", "opener") as base, base.transaction():
        take_turn_at_partitions(base)
        assert view_of(reading) == view
        assert view_of(ground) == view
    ground.run("base", "ALTER TABLE bookings ALTER COLUMN guests TYPE bigint")
    with pytest.raises(MigrationError, match="has to be created or renewed, and our role may not") as caught:
        view_of(reading)
    assert "as the role that migrates" in caught.value.next_step
    ground.run("base", f"DROP OWNED BY {role}; DROP ROLE {role}")  # pyright: ignore[reportArgumentType]


def test_conditions_reach_partitions_and_their_indexes(databases: Urls) -> None:
    ground = Ground(Databases(databases.legacy_url, databases.base_url)).fill(1)
    ground.open()
    view = view_of(ground)
    with ground.databases.session("base", "test") as base:
        base.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        where = "c1 >= '2024-04-08' AND c1 < '2024-04-15' AND c0 = 5"
        plan = base.execute(f"EXPLAIN (COSTS OFF) SELECT c4 FROM {view} WHERE {where}".encode()).fetchall()
    text = "\n".join(str(row[0]) for row in plan)
    assert "Index Scan" in text
    assert "w02" in text
    assert "w03" not in text
