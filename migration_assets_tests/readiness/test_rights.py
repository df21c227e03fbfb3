"""What roles may do on the legacy and not on the base: found, and mended by exactly the statements that are shown."""

import secrets
from collections.abc import Generator

import pytest
from psycopg import sql

from migration_assets.domain.findings import Finding, Severity
from migration_assets.postgres.sessions import Side
from migration_assets.readiness.rights import examine_grants
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.readiness.test_data import wrong
from migration_assets_tests.readiness.test_structure import do
from migration_assets_tests.terminal.live_quarter import LiveQuarter

SIDES: tuple[Side, ...] = ("legacy", "base")


def grants(quarter: LiveQuarter) -> list[Finding]:
    with looking(quarter) as sides:
        return examine_grants(sides)


def mine(quarter: LiveQuarter, *names: str) -> list[Finding]:
    """What blocks of these roles: others' tests have roles on the same servers."""
    blocks = [one for one in grants(quarter) if one.severity is Severity.BLOCKING]
    return [one for one in blocks if any(name in one.evidence for name in names)]


def run(quarter: LiveQuarter, side: Side, *statements: str) -> None:
    with quarter.ground.databases.session(side, "test") as connection:
        connection.execute("SET search_path = public")
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture
def roles(quarter: LiveQuarter) -> Generator[tuple[str, str]]:
    """An application's role and a group, on the legacy alone; gone from both sides afterwards."""
    app, group = f"app_{secrets.token_hex(4)}", f"group_{secrets.token_hex(4)}"
    run(quarter, "legacy", f"CREATE ROLE {app} LOGIN", f"CREATE ROLE {group}")
    yield app, group
    for side in SIDES:
        with quarter.ground.databases.session(side, "test") as connection:
            for name in (app, group):
                if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
                    connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
                    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def mend(quarter: LiveQuarter, *names: str) -> None:
    for one in mine(quarter, *names):
        do(quarter, one.remedy.partition(" -- ")[0])


def test_a_role_that_the_base_does_not_have_and_then_its_rights_are_found(
    quarter: LiveQuarter, roles: tuple[str, str]
) -> None:
    app, _ = roles
    run(
        quarter,
        "legacy",
        f"GRANT SELECT, INSERT ON bookings TO {app}",
        f"GRANT USAGE ON SEQUENCE bookings_id_seq TO {app}",
    )
    [missing] = mine(quarter, app)
    assert missing.code == "role_missing"
    assert f"CREATE ROLE {app} LOGIN;" in missing.remedy
    mend(quarter, app)
    [lacking] = mine(quarter, app)
    assert lacking.code == "grants"
    assert f"GRANT INSERT, SELECT ON public.bookings TO {app};" in lacking.remedy
    assert f"GRANT USAGE ON SEQUENCE public.bookings_id_seq TO {app};" in lacking.remedy
    mend(quarter, app)
    assert mine(quarter, app) == []
    with quarter.ground.databases.session("base", "test") as base:
        base.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(app)))
        assert base.execute("SELECT count(*) FROM public.bookings").fetchone() == (28 * 13,)


def test_rights_on_columns_and_grant_options_count(quarter: LiveQuarter, roles: tuple[str, str]) -> None:
    app, _ = roles
    run(quarter, "base", f"CREATE ROLE {app} LOGIN")
    run(quarter, "legacy", f"GRANT SELECT (id, note), UPDATE (note) ON bookings TO {app} WITH GRANT OPTION")
    [lacking] = mine(quarter, app)
    assert "UPDATE of column note with grant option" in lacking.evidence
    assert "SELECT (id, note), UPDATE (note) ON public.bookings" in lacking.remedy
    assert "WITH GRANT OPTION" in lacking.remedy
    mend(quarter, app)
    assert mine(quarter, app) == []


def test_a_right_by_membership_is_mended_by_the_membership(quarter: LiveQuarter, roles: tuple[str, str]) -> None:
    app, group = roles
    run(quarter, "base", f"CREATE ROLE {app} LOGIN", f"CREATE ROLE {group}")
    run(quarter, "legacy", f"GRANT {group} TO {app}", f"GRANT DELETE ON bookings TO {group}")
    found = {one.evidence.split()[0]: one.remedy for one in mine(quarter, app, group)}
    assert found[app] == f"in the base: GRANT {group} TO {app};"
    assert found[group] == f"in the base: GRANT DELETE ON public.bookings TO {group};"
    run(quarter, "base", f"GRANT {group} TO {app}")
    assert [one.evidence.split()[0] for one in mine(quarter, app, group)] == [group]
    mend(quarter, app, group)
    assert mine(quarter, app, group) == []


def test_a_schema_that_is_closed_and_a_login_that_is_shut_are_found(
    quarter: LiveQuarter, roles: tuple[str, str]
) -> None:
    app, _ = roles
    run(quarter, "legacy", f"GRANT SELECT ON bookings TO {app}")
    run(quarter, "base", f"CREATE ROLE {app} NOLOGIN", f"GRANT SELECT ON bookings TO {app}",
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC")  # fmt: skip
    assert {one.code for one in mine(quarter, app)} == {"grants", "role_login"}
    mend(quarter, app)
    assert mine(quarter, app) == []
    run(quarter, "base", "GRANT USAGE ON SCHEMA public TO PUBLIC")


def test_public_an_owner_and_row_security_are_compared(quarter: LiveQuarter, roles: tuple[str, str]) -> None:
    app, _ = roles
    run(quarter, "base", f"CREATE ROLE {app} LOGIN")
    run(quarter, "legacy", "GRANT SELECT ON bookings TO PUBLIC", "ALTER TABLE bookings ENABLE ROW LEVEL SECURITY")
    found = wrong(grants(quarter))
    assert "PUBLIC may on the legacy" in found["grants"].evidence
    assert "ENABLE" in found["row_security"].remedy
    do(quarter, found["grants"].remedy)
    run(quarter, "base", "ALTER TABLE bookings ENABLE ROW LEVEL SECURITY")
    assert not {"grants", "row_security"} & wrong(grants(quarter)).keys()
    run(quarter, "legacy", "REVOKE SELECT ON bookings FROM PUBLIC", "ALTER TABLE bookings DISABLE ROW LEVEL SECURITY")
    found = wrong(grants(quarter))
    assert found["row_security"].severity is Severity.BLOCKING
    assert found["public_rights"].severity is Severity.WARNING
    run(quarter, "base", "ALTER TABLE bookings DISABLE ROW LEVEL SECURITY")
    do(quarter, found["public_rights"].remedy)
    run(quarter, "base", f"ALTER TABLE bookings OWNER TO {app}")
    assert wrong(grants(quarter))["owner"].severity is Severity.WARNING
    run(quarter, "base", "ALTER TABLE bookings OWNER TO CURRENT_USER")
    assert not {"owner", "public_rights", "row_security"} & wrong(grants(quarter)).keys()
