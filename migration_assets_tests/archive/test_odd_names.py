"""Any name that PostgreSQL gives a column serves, whichever column it is: through a whole short life of a table."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week
from migration_assets.archive.querying import ask, refresh_catalogue
from migration_assets.archive.sql_values import identifier
from migration_assets.copying.weeks import repair_week, validate_week
from migration_assets.domain.errors import SliceMismatchError
from migration_assets.domain.findings import blocking
from migration_assets.domain.table_spec import QualifiedName, TableSpec
from migration_assets.postgres.sessions import Databases
from migration_assets.preflight.run import examine
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.retirement.restoring import drill_week
from migration_assets.runtime import open_migration
from migration_assets.settings import MigrationSettings
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.ground import Ground, week

# Names that our own SQL gives to something, PostgreSQL's words, and characters that SQL, psycopg and DuckDB read.
ODD = (
    "n", "h", "b", "k", "k1", "k2", "t", "t0", "t1", "d", "v", "v0", "m", "r", "c", "c0", "f0", "one", "rows",
    "hashed", "row", "key", "keys", "hash", "count", "before", "image", "images", "value", "migration",
    "marker", "relation", "id", "user", "select", "order", "oid", "bucket", "stored", "texts", "probe",
    "capped", "h_base", "k1_base", "excluded", "%s", "%(id)s", "%", "{}", "{c}", "{", "a.b", 'a"b', "a'b",
    "a\\b", "$1", "$$", ":x", "a,b", "a;--", "a b", " ", "Zürich 北京", "UPPER", "Upper", "line\nbreak", "x" * 63,
    "fiscal_quarter", "fiscal_week", "control", "new", "old",
)  # fmt: skip
KEYS = (("__key_1", "__key_2"), ("%s", 'a"{v}'))


def _table(connection_url: str, key: str, control: str) -> None:
    others = [name for name in ODD if name not in {key, control}]
    with psycopg.connect(connection_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE TABLE bookings ({} bigint PRIMARY KEY, {} timestamptz NOT NULL, {})").format(
                sql.Identifier(key),
                sql.Identifier(control),
                sql.SQL(", ").join(sql.SQL("{} integer").format(sql.Identifier(name)) for name in others),
            )
        )
        connection.execute(sql.SQL("CREATE INDEX ON bookings ({})").format(sql.Identifier(control)))
        connection.execute(
            sql.SQL(
                "INSERT INTO bookings SELECT n, '2024-04-01 00:00+00'::timestamptz + mod(n, 91) * interval '1 day', {}"
                " FROM generate_series(1, 182) n; ANALYZE bookings"
            ).format(sql.SQL(", ").join(sql.SQL("n + {}").format(place) for place in range(len(others))))
        )


@pytest.mark.long
@pytest.mark.parametrize(("key", "control"), KEYS)
def test_any_name_of_a_column_serves_from_preflight_to_restore(
    databases: Urls, tmp_path: Path, key: str, control: str
) -> None:
    ground = Ground(
        Databases(databases.legacy_url, databases.base_url), TableSpec(QualifiedName("public", "bookings"), control)
    )
    _table(databases.legacy_url, key, control)
    migration = open_migration(
        MigrationSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            legacy_url=SecretStr(databases.legacy_url),
            base_url=SecretStr(databases.base_url),
            table="public.bookings",
            control_column=control,
            archive_url=SecretStr(str(tmp_path / "archive")),
            var=tmp_path / "var",
            as_of=datetime(2024, 11, 1, tzinfo=UTC),
        )
    )
    assert blocking(examine(migration).findings) == []
    ground.open()
    ground.copy(1)
    ground.streamed()

    _damage(ground, key, control)
    with pytest.raises(SliceMismatchError) as caught:
        validate_week(migration, week(2))
    assert caught.value.differences is not None
    assert caught.value.differences.rows == 3
    repaired = repair_week(migration, week(2), dry_run=False)
    ground.undo(repaired.repair_id)
    ground.repair(2)
    ground.copy(3)
    ground.validate(4)
    assert ground.reconcile().equal
    ground.run("base", "ANALYZE bookings")
    assert [f for f in examine_cutover(migration).findings if "could not be examined" in f.evidence] == []

    # As a sign-off leaves it, which needs all 13 weeks.
    ground.run("base", "UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W04'")
    archive_week(migration, week(4))
    drill_week(migration, week(4))
    names = [key, control, *(name for name in ODD if name not in {key, control})]
    rows = _rows(ground, names, key)
    answered = ask(migration, f"SELECT columns(*)::VARCHAR FROM bookings ORDER BY {identifier(key)}").answer.rows
    assert [row[: len(names)] for row in answered] == rows
    with duckdb.connect(str(refresh_catalogue(migration)), read_only=True) as catalogue:
        cold = catalogue.execute("SELECT columns(*)::VARCHAR FROM bookings").fetchall()
    assert len(cold) == 14
    assert {row[: len(names)] for row in cold} < set(rows)
    assert ground.contents("base") == ground.contents("legacy")


def _rows(ground: Ground, names: list[str], key: str) -> list[tuple[str | None, ...]]:
    with ground.databases.session("legacy", "test") as legacy:
        return legacy.execute(
            sql.SQL("SELECT {} FROM public.bookings ORDER BY {}").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
                sql.Identifier(key),
            )
        ).fetchall()


def _damage(ground: Ground, key: str, control: str) -> None:
    """In W02: a row less, one more, one changed."""
    root, k, c = sql.Identifier("public", "bookings"), sql.Identifier(key), sql.Identifier(control)
    with ground.databases.session("base", "test") as base:
        base.execute("SET search_path = public")
        base.execute(sql.SQL("DELETE FROM {} WHERE {} = 8").format(root, k))
        base.execute(sql.SQL("INSERT INTO {} ({}, {}) VALUES (1000, '2024-04-09Z')").format(root, k, c))
        base.execute(sql.SQL('UPDATE {} SET "user" = 0 WHERE {} = 9').format(root, k))
