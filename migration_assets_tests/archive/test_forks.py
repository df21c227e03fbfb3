"""A copy of the base with production's settings: it reads the archive, and writes nothing there."""

import secrets
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week, reread_archive
from migration_assets.archive.ownership import ForeignArchiveError, LedgerIdentity, adopt, read_archive_writer
from migration_assets.cli import main
from migration_assets.demo.archive import clear_archive
from migration_assets.domain.errors import ArchiveError
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.postgres.sessions import Databases
from migration_assets.runtime import Migration
from migration_assets_tests.archive.conftest import with_settings
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.defs.conftest import migration_of
from migration_assets_tests.ground import Ground, week


@pytest.fixture
def production(databases: Urls, tmp_path: Path) -> Migration:
    """W01 to W03 may be archived; W01 and W03 are. No stream is there, which would bar a copy by itself."""
    ground = Ground(Databases(databases.legacy_url, databases.base_url)).fill(91)
    ground.open()
    for number in (1, 2, 3):
        ground.copy(number)
    ground.run("base", "UPDATE migration.slices SET state = 'signed_off' WHERE state = 'copied'")
    migration = with_settings(
        migration_of(databases.legacy_url, databases.base_url),
        table="public.bookings", var=tmp_path / "var", archive_url=SecretStr(str(tmp_path / "archive")),
    )  # fmt: skip
    archive_week(migration, week(1))
    archive_week(migration, week(3))
    return migration


@pytest.fixture
def fork(production: Migration, servers: EmbeddedServers) -> Generator[Migration]:
    """The base copied as a whole, in which a row of W01 was deleted."""
    name, template = f"fork_{secrets.token_hex(4)}", conninfo_to_dict(production.databases.base_url)["dbname"]
    with psycopg.connect(servers.base_url("postgres"), autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(str(template)))
        )
    copy = migration_of(production.databases.legacy_url, servers.base_url(name))
    with psycopg.connect(copy.databases.base_url) as base:
        base.execute("DELETE FROM public.bookings WHERE id = 1")
    yield with_settings(copy, **{name: getattr(production.settings, name) for name in ("table", "var", "archive_url")})
    servers.drop_database("base", name)


def identity_of(migration: Migration) -> LedgerIdentity:
    with migration.databases.session("base", "test") as base:
        return read_archive_writer(base, "public.bookings").identity


def contents(migration: Migration) -> dict[str, bytes]:
    url = migration.settings.archive_url
    assert url is not None
    return {str(path): path.read_bytes() for path in Path(url.get_secret_value()).rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_copy_of_the_base_reads_production_s_archive_and_writes_in_a_place_of_its_own(
    production: Migration, fork: Migration, tmp_path: Path
) -> None:
    before = contents(production)
    for number in (1, 2):
        with pytest.raises(ForeignArchiveError, match="the ledger that this one is a copy of") as caught:
            archive_week(fork, week(number))
        assert "MIGRATION_ARCHIVE_URL" in caught.value.next_step
    assert contents(production) == before
    assert reread_archive(fork, week(1)).manifest.rows == 7
    own = with_settings(fork, archive_url=SecretStr(str(tmp_path / "the fork's")))
    assert archive_week(own, week(1)).manifest.rows == 6
    assert reread_archive(production, week(1)).manifest.rows == 7
    # Whoever makes the base anew, as the demo does, clears away what that base wrote, and nothing of another one.
    with pytest.raises(ArchiveError, match="that the embedded base did not write"):
        clear_archive(fork)
    assert contents(production) == before
    clear_archive(production)
    assert contents(production) == {}


def test_a_base_that_was_moved_takes_its_archive_along_by_name_and_the_old_one_is_out(
    production: Migration, fork: Migration
) -> None:
    archive_week(production, week(3))  # after the copy was made
    url = production.settings.archive_url
    assert url is not None
    environment = {
        "MIGRATION_BASE_URL": fork.databases.base_url,
        "MIGRATION_LEGACY_URL": fork.databases.legacy_url,
        "MIGRATION_TABLE": "public.bookings",
        "MIGRATION_VAR": str(fork.settings.var),
        "MIGRATION_ARCHIVE_URL": url.get_secret_value(),
    }
    told = CliRunner().invoke(main, ["adopt-archive", "--by", "Ada"], env=environment, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert archive_week(fork, week(1)).manifest.rows == 6
    assert archive_week(fork, week(2)).manifest.rows == 7
    with pytest.raises(ForeignArchiveError, match="after it was copied"):
        archive_week(fork, week(3))
    before = contents(production)
    with pytest.raises(ForeignArchiveError, match="the ledger that this one is a copy of"):
        archive_week(production, week(2))
    assert contents(production) == before
    again = CliRunner().invoke(main, ["adopt-archive", "--by", "Ada"], env=environment, catch_exceptions=False)
    assert "belongs to this base already" in " ".join(again.output.split())
    # Moved once more: what the first one left half-written is this one's own, too, as it was the second one's.
    with fork.databases.session("base", "test") as base:
        second = identity_of(fork)
        third = replace(second, timeline=second.timeline + 1)
        adopt(base, "public.bookings", third, [str(second)], "Ada")
        rows = base.execute("SELECT adopted FROM migration.archive_adoptions WHERE adopter = %s", [str(third)])
        assert {LedgerIdentity.parse(row[0]).database_oid for row in rows} == {
            second.database_oid, identity_of(production).database_oid,
        }  # fmt: skip
