"""A whole watch on a real stream and a real webhook: seen, judged, stored, told once, told when over."""

import secrets
from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from migration_assets.domain.alerting import Event, dump_alerts, load_alerts
from migration_assets.domain.samples import ProblemCode, Severity
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger import samples as stream_samples
from migration_assets.ledger.samples import watch_lease
from migration_assets.postgres.sessions import Databases
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.watch.watching import Watched, send_test_alert, watch_stream
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.ground import SPEC, Ground, wait_for
from migration_assets_tests.stream.small_stream import SmallStream, lasting_stream
from migration_assets_tests.watch.webhook import Webhook, webhook

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@dataclass(frozen=True)
class Post:
    """A migration with a small stream, and the webhook that its alerts go to."""

    migration: Migration
    stream: SmallStream
    hook: Webhook

    def watch(self, **settings: Any) -> Watched:
        return watch_stream(self.using(**settings))

    def using(self, **settings: Any) -> Migration:
        return replace(self.migration, settings=self.migration.settings.model_copy(update=settings))

    def one(self, query: Any) -> Any:
        return self.stream.ground.one("base", query)


@pytest.fixture
def hook() -> Generator[Webhook]:
    with webhook() as running:
        yield running


def migration_of(urls: Databases, hook: Webhook) -> Migration:
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(urls.legacy_url),
        base_url=SecretStr(urls.base_url),
        table="public.bookings",
        as_of=datetime(2024, 6, 15, tzinfo=UTC),
        heartbeat_seconds=0.4,
        alert_urls=(SecretStr(hook.url()),),
    )
    return open_migration(settings)


@pytest.fixture(scope="module")
def lasting(servers: EmbeddedServers) -> Generator[SmallStream]:
    with lasting_stream(servers) as made:
        yield made


@pytest.fixture
def post(lasting: SmallStream, hook: Webhook) -> Generator[Post]:
    """A stream that is well, of which nobody was told anything yet."""
    lasting.healthy()
    lasting.ground.run("base", "DELETE FROM migration.stream_samples", "DELETE FROM migration.alerts")
    yield Post(migration_of(lasting.ground.databases, hook), lasting, hook)
    lasting.mend()


def test_without_a_stream_nothing_is_made_and_nobody_is_told(databases: Urls, hook: Webhook) -> None:
    ground = Ground(Databases(databases.legacy_url, databases.base_url))
    watched = watch_stream(migration_of(ground.databases, hook))
    assert (watched.stored, watched.note, watched.problems) == (False, "no change stream was begun yet", ())
    assert ground.one("base", "SELECT to_regnamespace('migration')") is None
    assert hook.received == []


def test_a_quiet_watch_stores_its_sample(post: Post) -> None:
    watched = post.watch()
    assert (watched.problems, watched.open, watched.messages, watched.stored) == ((), (), (), True)
    assert post.one("SELECT lag_seconds FROM migration.stream_samples") == watched.sample.lag_seconds
    assert post.one("SELECT retained_wal_bytes FROM migration.stream_samples") is not None
    post.stream.ground.run(
        "base",
        "INSERT INTO migration.preflights (relation, taken_at, blocking, warnings, findings)"
        " SELECT 'public.bookings', now() - interval '91 days', 0, 0, '[]' FROM generate_series(1, 2)",
    )
    post.watch()
    assert post.one("SELECT count(*) FROM migration.preflights") == 1, "what is old goes with a look"
    assert post.hook.received == []


def test_somebody_is_told_also_where_a_right_or_a_failing_statement_keeps_the_watch_from_its_ledger(post: Post) -> None:
    on, role = post.stream.on, f"stranger_{secrets.token_hex(4)}"
    on(
        "base",
        "CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END';"
        f" CREATE ROLE {role}",
    )
    fails = "CREATE TRIGGER fails BEFORE %s FOR EACH STATEMENT EXECUTE FUNCTION public.fails()"
    try:
        on("base", fails % "DELETE ON migration.preflights")
        on("base", "ALTER SUBSCRIPTION {} DISABLE")
        watched = post.watch()
        assert (watched.stored, len(watched.open)) == (True, 1)
        assert "old rows could not be removed from the ledger" in (watched.note or "")
        assert post.hook.titles == ["[CRITICAL] change stream of public.bookings: subscription disabled"]
        on("base", fails % "INSERT ON migration.stream_samples")
        stopped = post.watch()
        assert (stopped.stored, [alert.code for alert in stopped.raised]) == (False, [ProblemCode.BASE_UNREACHABLE])
        on("base", f"GRANT TRIGGER ON migration.slices TO {role}")
        refused = watch_stream(post.migration, stopped.open)
        assert f"{role} may put triggers on migration.slices" in refused.problems[0].what
        assert post.hook.titles[1:] == ["[CRITICAL] change stream of public.bookings: base unreachable"]
    finally:
        on("base", f"DROP FUNCTION public.fails() CASCADE; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_problem_is_told_once_through_the_webhook_and_once_more_when_it_is_over(post: Post) -> None:
    post.stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    first, second = post.watch(), post.watch()
    assert [alert.code for alert in first.raised] == [ProblemCode.SUBSCRIPTION_DISABLED]
    assert [delivery.delivered for delivery in first.sent] == [True]
    assert (second.raised, second.sent) == ((), ())
    assert post.hook.titles == ["[CRITICAL] change stream of public.bookings: subscription disabled"]
    assert "Next: run `migration-assets stream resume`" in post.hook.received[0]["message"]

    post.stream.on("base", "ALTER SUBSCRIPTION {} ENABLE")
    post.stream.healthy()
    third, _, fifth = post.watch(), post.watch(), post.watch()
    assert (third.cleared, [alert.code for alert in fifth.cleared]) == ((), [ProblemCode.SUBSCRIPTION_DISABLED])
    assert post.hook.titles[1:] == ["[OK] change stream of public.bookings: subscription disabled is over"]
    assert post.hook.received[1]["type"] == "success"
    assert post.one("SELECT count(*) FROM migration.alerts WHERE cleared_at IS NOT NULL") == 1
    assert post.one("SELECT count(*) FROM migration.alerts") == 1
    assert post.one("SELECT count(*) FROM migration.stream_samples") == 5


def test_a_base_that_is_lost_while_people_are_told_may_have_them_told_again(post: Post) -> None:
    post.stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    ends = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = %s"
    post.hook.meanwhile = lambda: post.stream.ground.one("base", ends, "migration_assets:watch")
    watched = post.watch()
    assert watched.note == "alerts were sent, and that could not be stored: they may be sent again"
    assert [delivery.delivered for delivery in watched.sent] == [True]


def test_what_no_channel_took_is_sent_again(post: Post) -> None:
    post.stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    post.hook.status = 500
    first = post.watch()
    assert [delivery.error for delivery in first.sent] == ["refused with status 500"]
    assert first.open[0].sent_at is None
    post.hook.status = 200
    second = post.watch()
    assert (len(second.sent), second.raised) == (1, ())
    assert second.open[0].sent_at is not None
    assert post.watch().sent == ()


def test_a_reminder_comes_after_the_gap_and_worse_at_once(post: Post) -> None:
    strict = {"lag_warning_seconds": 1e-6}
    assert [m.event for m in post.watch(**strict).messages] == [Event.RAISED]
    assert post.watch(**strict).messages == ()
    assert [m.event for m in post.watch(**strict, realert_minutes=1e-6).messages] == [Event.REMINDER]
    watched = post.watch(**strict, lag_critical_seconds=1e-6)
    assert [m.event for m in watched.messages] == [Event.WORSE]
    assert [(alert.code, alert.severity) for alert in watched.raised] == [(ProblemCode.LAG, Severity.CRITICAL)]


def test_around_the_end_of_a_quarter_the_thresholds_are_stricter(post: Post) -> None:
    lag = post.watch().sample.lag_seconds or 0.0
    limits = {"lag_warning_seconds": lag * 20, "watch_factor": 1e6, "pause_warning_seconds": 1e9}
    ordinary = post.watch(**limits)
    assert (ordinary.high_change, ordinary.problems) == (None, ())
    strict = post.watch(**limits, as_of=datetime(2024, 6, 30, tzinfo=UTC))
    assert strict.high_change == "quarter end"
    assert ProblemCode.LAG in {problem.code for problem in strict.problems}


def test_while_the_base_is_away_it_is_told_once_and_the_ledger_learns_of_it_later(post: Post) -> None:
    post.watch()
    databases = post.migration.databases
    away = replace(post.migration, databases=Databases(databases.legacy_url, NOWHERE))
    first = watch_stream(away)
    assert (first.stored, first.note) == (
        False,
        "the base cannot be asked: neither the look nor its alerts could be stored",
    )
    assert [alert.code for alert in first.raised] == [ProblemCode.BASE_UNREACHABLE]
    remembered = load_alerts(dump_alerts(first.open))
    second = watch_stream(away, remembered)
    assert (second.raised, second.messages) == ((), ())
    assert len(post.hook.received) == 1

    alerts = second.open
    for _ in range(3):
        watched = watch_stream(post.migration, alerts)
        assert watched.stored
        alerts = watched.open
    assert alerts == ()
    assert post.hook.titles[-1] == "[OK] change stream of public.bookings: base unreachable is over"
    assert post.one("SELECT count(*) FROM migration.alerts WHERE code = 'base_unreachable'") == 1


def test_a_legacy_that_is_away_is_told_and_stored(post: Post) -> None:
    away = replace(post.migration, databases=Databases(NOWHERE, post.migration.databases.base_url))
    watched = watch_stream(away)
    assert watched.stored
    assert [alert.code for alert in watched.raised] == [ProblemCode.LEGACY_UNREACHABLE]


def test_of_two_watches_at_once_one_tells(post: Post) -> None:
    post.stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    with post.migration.databases.session("base", "watch") as base, watch_lease(base, SPEC.relation) as mine:
        assert mine
        watched = post.watch()
    assert (watched.stored, watched.sent) == (False, ())
    assert "another watch" in (watched.note or "")
    assert [problem.code for problem in watched.problems] == [ProblemCode.SUBSCRIPTION_DISABLED]
    assert post.watch().raised


def test_a_watcher_that_stands_still_is_replaced_and_nobody_who_may_only_connect_takes_its_place(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    monkeypatch.setattr(stream_samples, "LEASE_SECONDS", 0.0)
    with psycopg.connect(post.migration.databases.base_url, autocommit=True) as stranger:
        # All that an advisory lock asks for is the right to connect.
        stranger.execute("SELECT pg_advisory_lock(71005, hashtext(%s))", [SPEC.relation])
        stranger.execute("SELECT pg_advisory_lock(71001, 0)")
        with post.migration.databases.session("base", "watch") as base, watch_lease(base, SPEC.relation) as mine:
            assert mine
            assert post.watch().raised


def test_samples_older_than_the_settings_say_are_pruned(post: Post) -> None:
    post.watch()
    post.stream.ground.run("base", "UPDATE migration.stream_samples SET stored_at = stored_at - interval '31 days'")
    post.watch()
    assert post.one("SELECT count(*) FROM migration.stream_samples") == 1


def test_apply_errors_and_conflicts_are_told_by_two_watches(post: Post) -> None:
    post.stream.book(1)
    wait_for(lambda: post.stream.arrived(1), "the row arrives")
    post.watch()
    post.stream.on("base", "DELETE FROM bookings WHERE id = 1")
    with psycopg.connect(post.migration.databases.legacy_url) as legacy:
        legacy.execute("DELETE FROM bookings WHERE id = 1")
    told: list[ProblemCode] = []
    wait_for(lambda: told.extend(a.code for a in post.watch().raised) or told, "the conflict is counted")
    assert told == [ProblemCode.CONFLICTS]


def test_a_test_alert_reaches_every_channel_and_changes_nothing(post: Post) -> None:
    both = post.using(alert_urls=(SecretStr("json://127.0.0.1:1/s3cr3t"), *post.migration.settings.alert_urls))
    first, second = send_test_alert(both)
    assert (first.channel, first.delivered) == ("1 (json)", False)
    assert (second.channel, second.delivered) == ("2 (json)", True)
    assert post.hook.titles == ["[TEST] change stream of public.bookings"]
    assert send_test_alert(post.using(alert_urls=())) == ()


def test_without_channels_an_alert_is_raised_once(post: Post) -> None:
    post.stream.on("base", "ALTER SUBSCRIPTION {} DISABLE")
    assert [m.event for m in post.watch(alert_urls=()).messages] == [Event.RAISED]
    assert post.watch(alert_urls=()).messages == ()
