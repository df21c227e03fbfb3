"""The scripts of docs/security.md give a role all that a whole migration needs, phase by phase, and take it back."""

import re
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets.copying.weeks import copy_week
from migration_assets.domain.findings import Severity
from migration_assets.evidence.approval import sign_off_quarter
from migration_assets.postgres.sessions import Databases, Side
from migration_assets.preflight.rights import rights_for_streams
from migration_assets.preflight.run import examine
from migration_assets.proof.reconciliation import reconcile_quarter
from migration_assets.quarters.opening import open_quarter
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import cut_over, preview_rollback, roll_back
from migration_assets.runtime import Migration
from migration_assets.stream.holding import start_stream
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.cutover.guard import migration_of
from migration_assets_tests.ground import QUARTER, week

_PAGE = Path(__file__).parents[2] / "docs" / "security.md"
_SCRIPTS: dict[str, str] = dict(re.findall(r"```sql\n-- (.+?)\n(.*?)```", _PAGE.read_text(), re.DOTALL))


@dataclass(frozen=True)
class Granted:
    """`migration` works as the role, `ground` as the superuser."""

    ground: CutoverGround
    migration: Migration
    variables: dict[str, str]

    def run(self, title: str, side: Side) -> None:
        """One of the page's scripts, as psql would run it."""
        text = _SCRIPTS[title]
        for name, value in self.variables.items():
            text = text.replace(f':"{name}"', sql.Identifier(value).as_string())
            text = text.replace(f":'{name}'", sql.Literal(value).as_string())
        assert not re.search(r""":["']""", text), text
        with psycopg.connect(self.ground.databases.url(side), autocommit=True) as connection:
            connection.execute(text.encode())


@pytest.fixture
def granted(databases: Urls) -> Generator[Granted]:
    ground = CutoverGround(Databases(databases.legacy_url, databases.base_url))
    ground.fill(91)
    ground.one("legacy", "SELECT setval(pg_get_serial_sequence('public.bookings', 'id'), 91)")
    role, owner, password = (f"{name}_{secrets.token_hex(4)}" for name in ("weak", "shop", "secret"))
    for side in ("legacy", "base"):  # the applications' roles are made on the base before the day
        with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(owner)))
    with psycopg.connect(databases.legacy_url, autocommit=True) as legacy:
        legacy.execute(sql.SQL("ALTER TABLE public.bookings OWNER TO {}").format(sql.Identifier(owner)))

    def url(of: str) -> str:
        parts = conninfo_to_dict(of)
        return f"postgresql://{role}:{password}@{parts['host']}:{parts['port']}/{parts['dbname']}"

    migration = migration_of(Databases(url(databases.legacy_url), url(databases.base_url)))
    database = str(conninfo_to_dict(databases.legacy_url)["dbname"])
    assert database == conninfo_to_dict(databases.base_url)["dbname"]
    variables = {"role": role, "password": password, "owner": owner, "database": database, "schema": "public"}
    yield Granted(ground, migration, variables)
    gone = "REASSIGN OWNED BY {0} TO CURRENT_USER; DROP OWNED BY {0}; DROP ROLE {0}"
    for side in ("base", "legacy"):
        with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
            for name in (role, owner):
                connection.execute(sql.SQL(gone).format(sql.Identifier(name)))


@pytest.mark.long
def test_a_whole_life_with_the_rights_of_the_page(granted: Granted) -> None:
    migration = granted.migration
    for side in ("legacy", "base"):
        granted.run(side, side)
        granted.run("either", side)
    found = {one.code: one for one in examine(migration).findings if one.severity is not Severity.INFO}
    assert not {code for code in found if code.endswith(("_right", "_rights", "_ownership"))}, found
    open_quarter(migration, QUARTER)
    for number in range(1, 14):
        copy_week(migration, week(number))
    start_stream(migration, QUARTER)
    assert reconcile_quarter(migration, QUARTER).equal
    sign_off_quarter(migration, QUARTER, "Ada")

    granted.ground.run("base", "ANALYZE public.bookings")
    blocking = {one.code: one for one in examine_cutover(migration).findings if one.severity is Severity.BLOCKING}
    # What the applications' roles had on the legacy, as readiness prints it: it is not about ours.
    with psycopg.connect(granted.ground.databases.base_url, autocommit=True) as base:
        base.execute(blocking.pop("grants").remedy.partition("in the base: ")[2].partition(" --")[0].encode())
    assert set(blocking) == {"base_replication_right", "legacy_subscription_right"}, (
        "nobody needs these before that day"
    )
    granted.run("base, cutover", "base")
    granted.run("legacy, cutover", "legacy")
    ready = examine_cutover(migration)
    assert ready.ready, [str(one) for one in ready.findings if one.severity is Severity.BLOCKING]
    rehearsed = cut_over(migration, "Ada")
    assert rehearsed.confirmation is not None
    cut_over(migration, "Ada", rehearse=False, confirm=rehearsed.confirmation.code)
    granted.ground.insert("base")
    preview = preview_rollback(migration)
    assert preview is not None
    roll_back(migration, "Ada", confirm=preview.confirmation.code)
    granted.ground.equal()

    role = sql.Identifier(granted.variables["role"]).as_string()
    with migration.databases.session("base", "test") as base:
        told = "\n".join(rights_for_streams(base)).replace(role.strip('"'), ':"role"')
        assert told == _SCRIPTS["base, after the decommission"].strip(), "what a decommissioning prints"
    granted.run("base, after the decommission", "base")
    with migration.databases.session("base", "test") as base:
        assert rights_for_streams(base) == []
    open_quarter(migration, QUARTER.next.next)  # quarters open all the same
    taken = {one.code for one in examine_cutover(migration).findings if one.severity is Severity.BLOCKING}
    assert {"base_replication_right"} <= taken
