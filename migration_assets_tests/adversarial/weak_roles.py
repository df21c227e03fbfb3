"""A migration's role that is no superuser, with the rights that preflight and readiness ask for, and no more."""

import secrets
from collections.abc import Generator
from contextlib import contextmanager

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.adversarial.strangers import leaf_of
from migration_assets_tests.adversarial.table import SIDES, WEEKS, Side, run, session

_RIGHTS: dict[Side, tuple[str, ...]] = {
    "legacy": (
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD {password} IN ROLE pg_create_subscription",
        "ALTER TABLE public.bookings OWNER TO {role}",
        "ALTER TYPE public.mood OWNER TO {role}",
        "GRANT CREATE ON DATABASE {database} TO {role}",
    ),
    "base": (
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD {password} IN ROLE pg_create_subscription",
        "GRANT CREATE ON DATABASE {database} TO {role}",
        "GRANT USAGE, CREATE ON SCHEMA public TO {role}",
    ),
}
_GONE = "REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"


@contextmanager
def weak_role(mob: Mob) -> Generator[tuple[str, str]]:
    """Both sides' URLs as that role, which owns the table."""
    role, password = f"weak_{secrets.token_hex(4)}", f"secret_{secrets.token_hex(6)}"
    for side, statements in _RIGHTS.items():
        for statement in statements:
            _as_superuser(mob, side, statement, role, password)
    urls: list[str] = []
    for side in SIDES:
        parts = conninfo_to_dict(mob.world.url(side))
        urls.append(f"postgresql://{role}:{password}@{parts['host']}:{parts['port']}/{parts['dbname']}")
    try:
        yield urls[0], urls[1]
    finally:
        for side in ("base", "legacy"):
            _as_superuser(mob, side, _GONE, role, password)


def _as_superuser(mob: Mob, side: Side, statement: str, role: str, password: str) -> None:
    url = mob.world.url(side)
    with session(url, "administrator") as connection:
        connection.execute(
            sql.SQL(statement).format(  # pyright: ignore[reportArgumentType]
                role=sql.Identifier(role),
                password=sql.Literal(password),
                database=sql.Identifier(str(conninfo_to_dict(url)["dbname"])),
            )
        )


def forced_row_security(mob: Mob) -> str:
    """For a while, for the owner as well: who does not ask for all rows sees none, and may write none."""
    side: Side = mob.random.choice(["legacy", "base"])
    table = "bookings" if side == "legacy" or mob.random.random() < 0.5 else leaf_of(mob.random.choice(WEEKS))
    on = f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    off = f"ALTER TABLE public.{table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
    run(mob.world.url(side), on, lock_timeout="500ms")
    mob.later(0.6, lambda: run(mob.world.url(side), off))
    return f"on {table} of the {side}"


ROW_SECURITY: tuple[Deed, ...] = (forced_row_security,)
