"""A pooler is refused before anything is set on the sessions that it lends to others."""

from datetime import UTC, datetime

import psycopg
import pytest

from migration_assets.domain.errors import PoolerError
from migration_assets.domain.findings import Severity
from migration_assets.postgres.sessions import Databases, Timeouts, connect
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight
from migration_assets_tests.ground import CALENDAR, SPEC, Ground
from migration_assets_tests.poolers import needs_pgbouncer, pooler

pytestmark = needs_pgbouncer


@pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
def test_others_of_a_pool_keep_their_settings(ground: Ground, mode: str) -> None:
    direct = ground.databases
    with pooler(direct.base_url, mode) as through:
        with psycopg.connect(through, autocommit=True) as other:
            before = other.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall()
        with pytest.raises(PoolerError, match="a pooler answers in place of the server") as caught:
            connect(through, "test", Timeouts())
        assert "own host and port" in caught.value.next_step
        if mode == "transaction":
            pooled = Databases(direct.legacy_url, through)
            findings = run_preflight(pooled, SPEC, CALENDAR, plan=PreflightPlan(datetime(2024, 5, 15, tzinfo=UTC)))
            [reachable] = [one for one in findings if one.code == "reachable" and one.severity is Severity.BLOCKING]
            assert "a pooler answers" in reachable.evidence
            assert "MIGRATION_BASE_URL" in reachable.remedy
        with psycopg.connect(through, autocommit=True) as other:
            assert other.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall() == before
    connect(direct.base_url, "test", Timeouts()).close()
