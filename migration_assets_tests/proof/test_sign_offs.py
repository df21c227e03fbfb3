"""The gate of sign-off on real servers: what the ledger must prove, who may not slip in between, what makes it void."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from migration_assets.domain.errors import SignOffError
from migration_assets.domain.samples import StreamSample
from migration_assets.domain.sign_off import SignOffRefusedError
from migration_assets.domain.sign_off_evidence import verify
from migration_assets.evidence import approval
from migration_assets.evidence.approval import (
    SignedOff,
    SignOffState,
    sign_off_quarter,
    sign_off_state,
)
from migration_assets.ledger.schema import ensure_ledger
from migration_assets.ledger.slices import slice_lock
from migration_assets.ledger.stream import stream_lock, stream_names
from migration_assets.postgres.catalogue import changes_by_leaf
from migration_assets.postgres.sessions import Databases
from migration_assets.proof.sign_offs import last_validation
from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import MigrationSettings
from migration_assets.watch.look import observe_stream
from migration_assets_tests.ground import QUARTER, SPEC, Ground, at_once, wait_for

# As validations, a reconciliation and an activation leave the ledger; parameters are the stream's names.
_PROVEN = """
UPDATE migration.slices SET
    state = 'validated', method = 'image-v2', legacy_rows = 7, legacy_sum_a = -4e20, legacy_sum_b = 5,
    base_rows = 7, base_sum_a = -4e20, base_sum_b = 5, copied_at = now() - interval '9 h',
    changed_at = now() - interval '9 h', validated_at = now() - interval '3 h', validated_equal = true,
    validated_marker = 10, validated_lsn = '0/10', validated_changes = 0;
INSERT INTO migration.cuts (relation, marker, kind, purpose, lsn, tries, writers_held_ms, longest_try_ms, reached_ms,
                            apply_held_ms, taken_at)
SELECT 'public.bookings', n, 'validate', 'test', '0/10', 1, 5.25, 6, 20, 15, now() - n * interval '10 min'
FROM unnest(ARRAY[10, 6]) n;
INSERT INTO migration.reconciliations (relation, quarter, marker, lsn, equal, duplicate_keys, reconciled_at)
VALUES ('public.bookings', 'FY25-Q2', 6, '0/20', true, 0, now() - interval '50 min');
"""
_LIVE = """
INSERT INTO migration.streams (relation, publication, slot, subscription, status, exact_since_lsn, exact_since)
VALUES ('public.bookings', %s, %s, %s, 'live', '0/5', now() - interval '9 h') RETURNING 1
"""


@dataclass(frozen=True)
class Project:
    """A quarter whose ledger proves everything; no row was ever copied."""

    ground: Ground
    migration: Migration

    def sign(self, who: str = "Ada", *, problems: Iterable[str] | None = (), **more: Any) -> SignedOff:
        given = None if problems is None else list(problems)
        return sign_off_quarter(self.migration, QUARTER, who, stream_problems=given, **more)

    def refusal(self, **more: Any) -> str:
        """What is missing; makes sure that a refused sign-off leaves no trace."""
        before = self.ground.base_state()
        signed = self.signatures()
        with pytest.raises(SignOffError) as caught:
            self.sign(**more)
        assert isinstance(caught.value, SignOffRefusedError)
        assert self.ground.base_state() == before
        assert self.signatures() == signed
        return "\n".join(map(str, caught.value.missing))

    def base(self, *statements: LiteralString) -> None:
        self.ground.run("base", *statements)

    def signatures(self) -> list[tuple[Any, ...]]:
        return self.ground.ask("base", "SELECT id, approved_by FROM migration.sign_offs ORDER BY id")

    def states(self) -> set[str]:
        return {row[0] for row in self.ground.ask("base", "SELECT state FROM migration.slices")}

    def state(self) -> SignOffState:
        return sign_off_state(self.migration, QUARTER)


def _migration(ground: Ground) -> Migration:
    settings = MigrationSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        legacy_url=SecretStr(ground.databases.legacy_url),
        base_url=SecretStr(ground.databases.base_url),
        table="public.bookings",
        as_of=None,
        heartbeat_seconds=2.0,
    )
    return open_migration(settings)


@pytest.fixture
def project(ground: Ground) -> Project:
    ground.fill(91).open()
    with ground.databases.session("base", "test") as base:
        names = stream_names(base, SPEC.relation)
    ground.run("base", _PROVEN)
    ground.ask("base", _LIVE, names.publication, names.slot, names.subscription)
    return Project(ground, _migration(ground))


def _compose(statement: LiteralString, *parts: sql.Composable) -> sql.Composed:
    return sql.SQL(statement).format(*parts)


@dataclass(frozen=True)
class Streaming(Project):
    """The same with a stream that runs."""

    name: str

    def on(self, url: str, statement: LiteralString, *parts: sql.Composable) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_compose(statement, sql.Identifier(self.name), *parts))

    def subscription(self, what: LiteralString, *parts: sql.Composable) -> None:
        self.on(self.ground.databases.base_url, "ALTER SUBSCRIPTION {} " + what, *parts)

    def slot_active(self) -> bool | None:
        rows = self.ground.ask("legacy", "SELECT active FROM pg_replication_slots WHERE slot_name = %s", self.name)
        return rows[0][0] if rows else None


@pytest.fixture
def streaming(ground: Ground) -> Streaming:
    ground.fill(91).streamed()
    ground.run("base", _PROVEN)
    live = Streaming(ground, _migration(ground), ground.stream_record().subscription)
    wait_for(live.slot_active, "the worker reads from the slot")
    return live


def test_a_proven_quarter_under_a_running_stream_is_signed_off(streaming: Streaming) -> None:
    signed = streaming.sign(" Ada ", problems=None, note="all well", run_id="run-1")
    assert verify(signed.evidence, signed.sha256)
    assert (signed.approved_by, signed.evidence["approved_by"], signed.evidence["note"]) == ("Ada", "Ada", "all well")
    assert streaming.states() == {"signed_off"}
    state = streaming.state()
    assert state.stands
    assert state.signed == signed
    servers = {side: streaming.ground.one(side, "SHOW server_version") for side in ("legacy", "base")}
    versions = signed.evidence["versions"]
    assert (versions["postgresql_legacy"], versions["postgresql_base"]) == (servers["legacy"], servers["base"])
    assert versions["migration_assets"]
    assert signed.evidence["legacy"] == {"rows": 91, "sum_a": str(-52 * 10**20), "sum_b": "65"}
    assert signed.evidence["lower_bound"].startswith("2024-04-01")
    assert signed.evidence["upper_bound"].startswith("2024-07-01")
    assert [cut["marker"] for cut in signed.evidence["cuts"]] == [6, 10]
    assert signed.evidence["stream"]["slot"] == streaming.name
    assert signed.evidence["reconciliation"]["marker"] == 6


def test_nothing_is_signed_before_anybody_signs(project: Project) -> None:
    state = project.state()
    assert (state.signed, state.void, state.stands) == (None, (), False)


_REFUSED: dict[str, tuple[LiteralString, list[str]]] = {
    "one week missing": ("DELETE FROM migration.slices WHERE week = 'W05'", ["FY25-Q2|W05: the ledger does not know"]),
    "absent": ("UPDATE migration.slices SET state = 'absent' WHERE week = 'W05'", ["FY25-Q2|W05: was never copied"]),
    "copied only": ("UPDATE migration.slices SET state = 'copied' WHERE week = 'W13'", ["FY25-Q2|W13: is copied, but"]),
    "streaming only": (
        "UPDATE migration.slices SET state = 'streaming', validated_at = NULL WHERE week = 'W01'",
        ["FY25-Q2|W01: never validated"],
    ),
    "failed": (
        "UPDATE migration.slices SET state = 'streaming', validated_equal = false, base_rows = 6 WHERE week = 'W02'",
        ["FY25-Q2|W02: validation FAILED"],
    ),
    "stale by change": (
        "UPDATE migration.slices SET changed_at = now() - interval '2 h' WHERE week = 'W03'",
        ["FY25-Q2|W03: validated at", "changed by us since then"],
    ),
    "stale by age": (
        (
            "UPDATE migration.slices SET validated_at = now() - interval '25 h', changed_at = now() - interval '26 h'"
            " WHERE week = 'W04'"
        ),
        ["FY25-Q2|W04: validated at", "older than 24 h"],
    ),
    "fingerprints differ": ("UPDATE migration.slices SET base_sum_b = 6 WHERE week = 'W06'", ["FY25-Q2|W06: the led"]),
    "reconciled before a change": (
        ("UPDATE migration.slices SET changed_at = now() - interval '10 min', validated_at = now() WHERE week = 'W07'"),
        ["FY25-Q2 reconciliation: W07 was changed at"],
    ),
    # The row was written after the change, but its cut was taken before it.
    "reconciled at a cut before a change": (
        "UPDATE migration.slices SET changed_at = now() - interval '55 min', validated_at = now() WHERE week = 'W07'",
        ["FY25-Q2 reconciliation: W07 was changed at"],
    ),
    "never reconciled": ("DELETE FROM migration.reconciliations", ["FY25-Q2 reconciliation: the quarter was never"]),
    "reconciled long ago": (
        (
            "UPDATE migration.reconciliations SET reconciled_at = now() - interval '25 h';"
            " UPDATE migration.slices SET changed_at = now() - interval '26 h'"
        ),
        ["FY25-Q2 reconciliation: taken at", "older than 24 h"],
    ),
    "differences in the newest reconciliation": (
        (
            "INSERT INTO migration.reconciliations (relation, quarter, marker, lsn, equal, duplicate_keys)"
            " VALUES ('public.bookings', 'FY25-Q2', 70, '0/30', false, 0)"
        ),
        ["FY25-Q2 reconciliation: the newest one (marker 70) found differences"],
    ),
    "duplicates": (
        (
            "INSERT INTO migration.reconciliations (relation, quarter, marker, lsn, equal, duplicate_keys)"
            " VALUES ('public.bookings', 'FY25-Q2', 70, '0/30', true, 2)"
        ),
        ["FY25-Q2 reconciliation: 2 keys in more than one week"],
    ),
    "stream paused": (
        "UPDATE migration.streams SET status = 'paused', reason = 'a join'",
        ["change stream: is paused (a join)"],
    ),
    "no stream": ("DELETE FROM migration.streams", ["change stream: there is none"]),
}


@pytest.mark.long
@pytest.mark.parametrize(("change", "said"), _REFUSED.values(), ids=_REFUSED.keys())
def test_a_quarter_that_is_not_proven_is_refused_and_told_why(
    project: Project, change: LiteralString, said: list[str]
) -> None:
    project.base(change)
    refusal = project.refusal()
    assert len(refusal.splitlines()) == 1
    assert all(text in refusal for text in said), refusal


def test_everything_that_is_missing_is_said_at_once(project: Project) -> None:
    project.base(
        "UPDATE migration.slices SET state = 'copied' WHERE week < 'W04'",
        "DELETE FROM migration.reconciliations",
        "UPDATE migration.streams SET status = 'activating'",
    )
    assert len(project.refusal(who=" ", problems=["no worker"]).splitlines()) == 3 + 1 + 1 + 1 + 1


def test_a_base_without_ledger_and_a_quarter_that_was_never_opened_are_refused(ground: Ground) -> None:
    settings = MigrationSettings(_env_file=None, table="public.bookings", as_of=None)  # pyright: ignore[reportCallIssue]
    refusal = Project(ground, Migration(settings, ground.databases))
    with ground.databases.session("base", "test") as base:
        ensure_ledger(base)
    with pytest.raises(SignOffError, match="was never opened"):
        refusal.sign(problems=None)


@pytest.mark.long
@pytest.mark.parametrize("name", ["", "   ", "\u00a0\t"])
def test_a_blank_name_is_refused(project: Project, name: str) -> None:
    assert project.refusal(who=name).startswith("approved_by: nobody is named")


def test_a_text_that_the_ledger_cannot_hold_is_refused(project: Project) -> None:
    assert project.refusal(note="a\x00b").startswith("note: holds a character that cannot be stored")


def _disable(stream: Streaming) -> None:
    stream.subscription("DISABLE")


def _drop_subscription(stream: Streaming) -> None:
    stream.on(stream.ground.databases.base_url, "DROP SUBSCRIPTION {}")


def _drop_slot(stream: Streaming) -> None:
    stream.subscription("DISABLE")
    wait_for(lambda: stream.slot_active() is False, "the slot is free")
    stream.ground.ask("legacy", "SELECT pg_drop_replication_slot(%s)", stream.name)
    stream.subscription("ENABLE")


def _send_elsewhere(stream: Streaming) -> None:
    stream.subscription("CONNECTION {}", sql.Literal("host=127.0.0.1 port=1"))
    wait_for(lambda: stream.slot_active() is False, "the worker lost the legacy")


def _take_another_slot(stream: Streaming) -> None:
    """The ledger names a slot that is there, and that no worker reads from."""
    idle = f"{stream.name}_idle"
    stream.ground.ask("legacy", "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", idle)
    stream.ground.ask("base", "UPDATE migration.streams SET slot = %s RETURNING 1", idle)


@pytest.mark.long
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_disable, ["is disabled"]),
        (_drop_subscription, ["the subscription is gone from the base"]),
        (_drop_slot, ["the replication slot is gone from the legacy"]),
        (_take_another_slot, ["instead of"]),
        # A worker that finds no legacy comes and goes; a look sees none, one or several.
        (_send_elsewhere, ["apply worker"]),
    ],
)
def test_a_stream_that_is_down_stops_the_sign_off(
    streaming: Streaming, harm: Callable[[Streaming], None], said: list[str]
) -> None:
    harm(streaming)
    refusal = streaming.refusal(problems=None)
    assert any(text in refusal for text in said), refusal
    # What somebody altered by hand makes the proofs from before stale as well.
    assert all(line.startswith("change stream:") or "altered" in line for line in refusal.splitlines()), refusal


@pytest.mark.long
@pytest.mark.parametrize("pids", [(), (4711,)])
def test_a_single_look_that_met_no_worker_or_one_that_reads_nothing_stops_the_sign_off(
    streaming: Streaming, monkeypatch: pytest.MonkeyPatch, pids: tuple[int, ...]
) -> None:
    """What `_send_elsewhere` shows now and then, without the chance in it."""

    def unlucky(*given: Any) -> StreamSample:
        return replace(observe_stream(*given), worker_pids=pids, slot_active=False, heartbeat_arrived=None)

    monkeypatch.setattr(approval, "observe_stream", unlucky)
    assert "apply worker" in streaming.refusal(problems=None)


@pytest.mark.long
def test_a_legacy_that_cannot_be_reached_stops_the_sign_off(streaming: Streaming) -> None:
    lost = Databases("postgresql://nobody:secret@127.0.0.1:1/none", streaming.ground.databases.base_url)
    cut_off = replace(streaming, migration=replace(streaming.migration, databases=lost))
    looks: list[list[str] | None] = [None, []]
    for problems in looks:
        refusal = cut_off.refusal(problems=problems)
        assert "change stream: the legacy cannot be asked" in refusal
        assert "secret" not in refusal
        assert len(refusal.splitlines()) == 1


def test_signing_twice_adds_a_second_signature_and_leaves_the_states(project: Project) -> None:
    first = project.sign("Ada")
    second = project.sign("Grace")
    assert project.signatures() == [(first.id, "Ada"), (second.id, "Grace")]
    assert project.states() == {"signed_off"}
    assert {week["state"] for week in second.evidence["weeks"]} == {"signed_off"}
    assert project.state().signed == second
    assert project.state().stands


def test_two_who_sign_at_once_both_sign(project: Project) -> None:
    results = at_once([lambda: project.sign("Ada"), lambda: project.sign("Grace")])
    assert all(isinstance(result, SignedOff) for result in results), results
    assert sorted(name for _, name in project.signatures()) == ["Ada", "Grace"]
    assert project.states() == {"signed_off"}
    assert project.state().stands


# As a repair leaves the slice.
_REPAIRED: LiteralString = (
    "UPDATE migration.slices SET state = 'streaming', changed_at = clock_timestamp() WHERE week = 'W05'"
)


def test_a_later_repair_makes_the_sign_off_void_until_it_is_proven_and_signed_again(project: Project) -> None:
    project.sign("Ada")
    project.base(_REPAIRED)
    state = project.state()
    assert not state.stands
    assert state.signed is not None
    [reason] = state.void
    assert reason.startswith("FY25-Q2|W05: is streaming again, changed at")
    assert {line.partition(":")[0] for line in project.refusal().splitlines()} == {
        "FY25-Q2|W05",
        "FY25-Q2 reconciliation",
    }
    project.base(
        "UPDATE migration.slices SET state = 'validated', validated_at = clock_timestamp() WHERE week = 'W05'",
        "INSERT INTO migration.reconciliations (relation, quarter, marker, lsn, equal, duplicate_keys)"
        " VALUES ('public.bookings', 'FY25-Q2', 90, '0/90', true, 0)",
    )
    assert not project.state().stands
    again = project.sign("Ada")
    assert project.state().signed == again
    assert project.state().stands


_EDITS: list[LiteralString] = [
    "evidence = jsonb_set(evidence, '{weeks,4,base,rows}', '8')",
    "evidence = jsonb_set(evidence, '{weeks,4,base,rows}', '7.0')",
    "evidence = jsonb_set(evidence, '{cuts,0,tries}', '\"1\"')",
    "evidence = evidence - 'note'",
    "evidence = evidence || '{\"addition\": null}'",
    "evidence = '[]'",
    "sha256 = repeat('0', 64)",
    "approved_by = 'Somebody Else'",
    "note = 'it was not me'",
    "signed_at = signed_at + interval '1 microsecond'",
    "evidence = jsonb_set(evidence, '{approved_by}', '\"Somebody Else\"'), approved_by = 'Somebody Else'",
]


@pytest.mark.long
def test_any_edit_of_a_signature_in_the_ledger_is_noticed(project: Project) -> None:
    project.sign("Ada", note='"quotes", ünïcode 🗝 and a\nline')
    assert project.state().stands
    project.base("CREATE TABLE public.kept AS SELECT * FROM migration.sign_offs")
    for edit in _EDITS:
        project.base("UPDATE migration.sign_offs SET " + edit)
        assert not project.state().stands, edit
        project.base(
            "UPDATE migration.sign_offs s SET evidence = k.evidence, sha256 = k.sha256, note = k.note,"
            " approved_by = k.approved_by, signed_at = k.signed_at FROM public.kept k WHERE k.id = s.id"
        )
        assert project.state().stands, edit


def _waits_for_a_lock(project: Project) -> bool:
    return project.ground.one(
        "base",
        "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE datname = current_database()"
        " AND a.application_name = 'migration_assets:FY25-Q2:sign-off' AND (wait_event_type = 'Lock' OR EXISTS ("
        "  SELECT FROM migration.session_locks k JOIN migration.session_locks h ON h.name = k.name AND h.id < k.id"
        "  WHERE k.pid = a.pid)))",
    )


def _refused(result: object) -> str:
    assert isinstance(result, SignOffRefusedError), result
    return "\n".join(map(str, result.missing))


def test_a_sign_off_waits_for_a_repair_that_runs_and_judges_what_it_left(project: Project) -> None:
    def repair() -> None:
        with (
            project.ground.databases.session("base", "repair") as base,
            slice_lock(base, project.ground.record(5)),
        ):
            locked.append(True)
            wait_for(lambda: _waits_for_a_lock(project), "the sign-off waits")
            base.execute(_REPAIRED)

    def sign() -> SignedOff:
        wait_for(lambda: locked, "the repair has begun")
        return project.sign()

    locked: list[bool] = []
    results = at_once([repair, sign])
    assert "FY25-Q2|W05: validated at" in _refused(results[1])
    assert project.signatures() == []


def test_a_sign_off_waits_for_a_pause_of_the_stream_and_judges_what_it_left(project: Project) -> None:
    def pause() -> None:
        with (
            project.ground.databases.session("base", "pause") as base,
            stream_lock(base, SPEC.relation),
        ):
            locked.append(True)
            wait_for(lambda: _waits_for_a_lock(project), "the sign-off waits")
            base.execute("UPDATE migration.streams SET status = 'paused'")

    def sign() -> SignedOff:
        wait_for(lambda: locked, "the pause has begun")
        return project.sign()

    locked: list[bool] = []
    results = at_once([pause, sign])
    assert _refused(results[1]).startswith("change stream: is paused")


@pytest.mark.long
def test_a_slice_changed_at_this_moment_by_somebody_without_its_lock_is_not_signed(project: Project) -> None:
    def meddle() -> None:
        with psycopg.connect(project.ground.databases.base_url) as base:
            base.execute(_REPAIRED)
            changed.append(True)
            wait_for(lambda: _waits_for_a_lock(project), "the sign-off waits for the row")

    def sign() -> SignedOff:
        wait_for(lambda: changed, "the slice is being changed")
        return project.sign()

    changed: list[bool] = []
    results = at_once([meddle, sign])
    assert results[0] is None
    assert "FY25-Q2|W05: validated at" in _refused(results[1])
    assert project.signatures() == []
    assert project.states() == {"validated", "streaming"}


def test_what_the_stream_changed_since_the_validation_is_counted_leaf_by_leaf(project: Project) -> None:
    record = project.ground.record(1)
    with project.ground.databases.session("base", "test") as base:
        base.execute("INSERT INTO public.bookings (id, booked_at) SELECT n, '2024-04-01' FROM generate_series(1, 5) n")
        base.execute("UPDATE public.bookings SET guests = 1 WHERE id < 3")
        base.execute("DELETE FROM public.bookings WHERE id = 5")
        base.execute("SELECT pg_stat_force_next_flush()")
        base.execute("SELECT pg_stat_clear_snapshot()")
        counted = changes_by_leaf(base, SPEC.table, [record.leaf, project.ground.record(2).leaf])
    assert counted == {record.leaf: 8, project.ground.record(2).leaf: 0}
    assert last_validation(record, counted[record.leaf]).stream_changes == 8
    assert last_validation(record).stream_changes is None
    week = project.sign().evidence["weeks"][0]
    assert (week["stream_changes_since"], week["week"]) == (8, "FY25-Q2|W01")


def test_how_old_a_proof_may_be_is_a_setting(project: Project) -> None:
    settings = project.migration.settings.model_copy(update={"validation_max_age_hours": 0.5})
    strict = replace(project, migration=replace(project.migration, settings=settings))
    lines = strict.refusal().splitlines()
    assert len(lines) == 13 + 1
    assert all("older than 30 min" in line for line in lines)
    signed = project.sign()
    assert signed.evidence["proofs_not_older_than_us"] == timedelta(hours=24) // timedelta(microseconds=1)
