"""A standby that lagged and has no slot of the stream takes the legacy's place: told, trusted by no step, mended."""

from collections.abc import Generator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from migration_assets.domain.errors import ServerChangedError
from migration_assets.domain.findings import Severity
from migration_assets.domain.samples import ProblemCode
from migration_assets.postgres.sessions import Databases
from migration_assets.preflight.ways import examine_standbys
from migration_assets.stream.servers import look_at_servers
from migration_assets_tests.ground import Ground, wait_for
from migration_assets_tests.servers.drill import (
    findings,
    left_behind,
    look,
    lost_rows_are_kept,
    mended,
    refused_everywhere,
    streamed,
)
from migration_assets_tests.servers.standbys import Spare, spare_servers


@pytest.fixture(scope="module")
def spare() -> Generator[Spare]:
    with spare_servers() as found:
        yield found


def _is_there(ground: Ground) -> bool:
    try:
        return ground.one("legacy", "SELECT count(*) FROM bookings") > 0
    except psycopg.Error:
        return False


@pytest.mark.long
def test_a_standby_of_the_legacy_that_lagged_and_has_no_slot(spare: Spare) -> None:
    ground = streamed(spare)
    with ground.databases.session("legacy", "test") as legacy:
        assert examine_standbys(legacy, "legacy")[0].severity is Severity.INFO
        standby = spare.standby("legacy")
        [finding] = examine_standbys(legacy, "legacy")
    assert finding.severity is Severity.WARNING
    assert "1 standbys follow the legacy" in finding.evidence
    assert "a failover loses the stream's slot" in finding.evidence
    assert "stream recover" in finding.remedy
    standbys = replace(spare, clusters={**spare.clusters, "legacy": standby}).ground(ground).databases
    follower = replace(ground, databases=standbys)
    wait_for(lambda: _is_there(follower), "the standby has the database")
    with pytest.raises(ServerChangedError, match="a standby answers as the legacy"):
        follower.copy(5)
    # Also whoever asks for nothing but a session: of a table that has no stream nothing else would tell.
    with (
        pytest.raises(ServerChangedError, match="a standby answers as the legacy"),
        follower.databases.session("legacy", "test"),
    ):
        pass
    assert [one.evidence for one in findings(follower) if one.code == "in_recovery"] == ["it is a standby"]
    # Both URLs lead to the legacy: one of them to another place of it.
    twice = replace(ground, databases=Databases(ground.databases.legacy_url, standbys.legacy_url))
    [same] = [one for one in findings(twice) if one.code == "two_databases"]
    assert (same.severity, "a standby of the legacy" in same.evidence) == (Severity.BLOCKING, True)
    spare.promote("legacy", left_behind(spare, ground, "legacy", range(1001, 1031), standby))
    after = spare.ground(ground)
    assert look(after)[1].keys() >= {ProblemCode.SERVER_CHANGED}
    refused_everywhere(after, "the legacy was promoted or recovered", each_looks=True)
    mended(after)
    lost_rows_are_kept(after, 30)


def test_a_legacy_that_stands_before_what_the_base_has_applied_went_back(spare: Spare) -> None:
    """As one whose files were put back, and which has not come as far again: no timeline tells it."""
    ground = streamed(spare, rows=91)
    name = ground.stream_record().subscription
    with ground.databases.session("base", "test") as base, ground.databases.session("legacy", "test") as legacy:
        base.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(name)))
        runs = "SELECT count(*) FROM pg_stat_subscription WHERE subname = %s AND pid IS NOT NULL"
        wait_for(lambda: ground.one("base", runs, name) == 0, "the worker ends")
        base.execute(
            "SELECT pg_replication_origin_advance('pg_' || oid, 'FFF/0') FROM pg_subscription WHERE subname = %s",
            [name],
        )
        [told] = look_at_servers(base, ground.spec.relation, legacy)
    assert "and the base has applied it up to FFF/0" in told
