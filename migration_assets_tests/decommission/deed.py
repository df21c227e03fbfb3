"""What the tests of the deed share: the plan of a decommissioning, and what an application still can."""

from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from migration_assets.decommission.machine import decommission
from migration_assets.decommission.obstacles import DecommissionPlan
from migration_assets.domain.states import Scope
from migration_assets.ledger.decommissions import DecommissionRecord, read_decommission
from migration_assets.postgres.sql_text import raw_sql
from migration_assets_tests.cutover.ground import CutoverGround


def plan_of(ground: CutoverGround, *, window: float = 0, quiet: float = 0, stale: bool = False) -> DecommissionPlan:
    return DecommissionPlan(ground.cutover_plan(), window, quiet, accept_stale=stale)


def close_legacy(ground: CutoverGround, scope: Scope = "table", **changes: Any) -> DecommissionRecord:
    return decommission(plan_of(ground, **changes), approved_by="Ada", note="all well", scope=scope, run_id="test")


def record_of(ground: CutoverGround) -> DecommissionRecord | None:
    with ground.databases.session("base", "test") as base:
        return read_decommission(base, ground.spec.relation)


class Application:
    """A role of the legacy's that an application logs in with; gone with the test's databases."""

    def __init__(self, ground: CutoverGround, name: str) -> None:
        self.ground, self.name = ground, name
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as legacy:
            legacy.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'shop'").format(sql.Identifier(name)))

    @property
    def url(self) -> str:
        return make_conninfo(self.ground.databases.legacy_url, user=self.name, password="shop", application_name="shop")

    def grant(self, *statements: str) -> "Application":
        with psycopg.connect(self.ground.databases.legacy_url, autocommit=True) as legacy:
            for statement in statements:
                legacy.execute(raw_sql(statement).format(sql.Identifier(self.name)))
        return self

    def ask(self, query: LiteralString) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query).fetchall()

    def drop(self) -> None:
        with psycopg.connect(self.ground.databases.legacy_url, autocommit=True) as legacy:
            name = sql.Identifier(self.name)
            legacy.execute("SET default_transaction_read_only = off")
            legacy.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(name))
            legacy.execute(sql.SQL("DROP ROLE {}").format(name))
