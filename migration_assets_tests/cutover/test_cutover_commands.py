"""`cutover`, `rollback`, `release-writes` and `cutovers` as a person types them, and as a person stops them."""

import os
import pty
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import Result

from migration_assets.domain.states import CutoverState
from migration_assets_tests.confirmed_deeds import code_in
from migration_assets_tests.cutover.ground import past_the_hold
from migration_assets_tests.cutover.offered import Offered
from migration_assets_tests.freezes import patience
from migration_assets_tests.ground import wait_for
from migration_assets_tests.terminal.live_quarter import lines_of


@pytest.fixture(autouse=True)
def _signals_are_heard(ordinary_signals: None) -> None:
    """Also by the children."""


def confirm_in(shown: Result) -> str:
    """The option with the code that the output shows."""
    return f"--confirm {code_in(shown.output.partition('--confirm')[2])}"


@pytest.mark.long
def test_rehearsed_cut_over_rolled_back_and_listed(ready: Offered) -> None:
    run = ready.quarter.run
    assert "The legacy is in charge of public.bookings." in run("cutovers").output
    assert "the legacy is in charge: its rows are the truth" in run("repair-legacy FY25-Q2").output
    nothing = run("rollback")
    assert nothing.exit_code == 0
    assert "Nothing to roll back." in nothing.output

    rehearsed = run("cutover --approved-by Ada")
    assert rehearsed.exit_code == 0, rehearsed.output
    for word in ("waiting", "held", "compared", "reversed", "undone", "13 weeks compared, 364 rows"):
        assert word in rehearsed.output, word
    assert lines_of(rehearsed, r"Writes were held for [\d.]+ m?s")
    assert "Rehearsed: the legacy goes on as before" in rehearsed.output
    ready.require_as_before()

    unconfirmed = run("cutover --approved-by Ada --for-real")
    assert unconfirmed.exit_code == 2
    assert "it asks for a confirmation code, and none was given" in unconfirmed.output + unconfirmed.stderr
    ready.require_as_before()
    done = run(f"cutover --approved-by Ada --for-real {confirm_in(rehearsed)}")
    assert done.exit_code == 0, done.output
    assert "The base is in charge" in done.output
    assert "cutover: drained: waits until every change has arrived" in done.output, (
        "live, line by line where nobody looks"
    )
    again = run("cutover --approved-by Ada --for-real")
    assert again.exit_code == 1
    assert "the base is in charge already" in again.output
    written = ready.ground.insert("base")
    assert "13 of 13 weeks of the legacy equal the base" in run("repair-legacy FY25-Q2").output
    past_the_hold(ready.ground, "UPDATE bookings SET guests = 77 WHERE id = (SELECT min(id) FROM bookings)")
    shown = run("repair-legacy FY25-Q2")
    assert "guests" in shown.output
    assert "`migration-assets repair-legacy FY25-Q2 W01 --apply` repairs it" in shown.output
    mended = run("repair-legacy FY25-Q2 W01 --apply")
    assert lines_of(mended, "repair-legacy --undo [0-9]+` undoes all of it"), mended.output
    assert "Every row of the legacy is in a week" in run("repair-legacy --outside").output

    look = run("rollback")
    assert look.exit_code == 0, look.output
    assert "a marker came through" in look.output
    assert "Nothing was changed" in look.output
    assert ready.charge == "base"
    assert run("rollback --yes").exit_code == 2, "somebody must answer for it"
    assert run("rollback --approved-by Ada --yes").exit_code == 2
    assert ready.charge == "base"
    back = run(f"rollback --approved-by Ada --yes {confirm_in(look)}")
    assert back.exit_code == 0, back.output
    assert "The legacy is in charge, with everything written to the base" in back.output
    ready.require_as_before()
    assert ready.ground.one("legacy", "SELECT count(*) FROM bookings WHERE id = %s", written) == 1

    listed = run("cutovers")
    for pattern in ("rehearsal .*Ada.*rehearsed", "cutover .*Ada.*succeeded", "rollback .*Ada.*succeeded"):
        assert lines_of(listed, pattern), listed.output


@pytest.mark.long
def test_what_is_wrong_is_said_with_its_exit_code(ready: Offered) -> None:
    run = ready.quarter.run
    assert run("cutover").exit_code == 2
    nobody = run("cutover", "--approved-by", " ")
    assert (nobody.exit_code, "nobody approved it" in nobody.output) == (1, True)
    ready.ground.run("legacy", "INSERT INTO bookings (id, booked_at) VALUES (9000000, '1999-01-01')")
    refused = run("cutover --approved-by Ada --for-real")
    ready.ground.run("legacy", "DELETE FROM bookings WHERE booked_at < '2000-01-01'")
    assert refused.exit_code == 1
    assert "not ready for the cutover" in refused.output
    assert "Remedy: " in refused.output
    unhooked = {"MIGRATION_CUTOVER_HOOK_COMMAND": "test {to} = base"}
    found = run("readiness")
    assert run(f"cutover --approved-by Ada --for-real {confirm_in(found)}", **unhooked).exit_code == 0
    back = run(f"rollback --approved-by Ada --yes {confirm_in(run('rollback'))}", **unhooked)
    assert back.exit_code == 1
    assert "The applications were NOT told: the hook's command ended with code 1" in back.output
    ready.require_as_before()
    away = run("cutover --approved-by Ada", MIGRATION_LEGACY_URL="postgresql://nobody:open-sesame@127.0.0.1:1/nowhere")
    assert away.exit_code == 1
    assert "reachable" in away.output
    assert "open-sesame" not in away.output


@pytest.mark.long
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_or_a_lost_terminal_ends_with_writes_accepted(
    ready: Offered, tmp_path: Path, blow: signal.Signals
) -> None:
    with (
        ready.staying(CutoverState.COMPARED),
        ready.typed(tmp_path, *ready.for_real) as process,
    ):
        ready.until_it_stays()
        assert not ready.accepts("legacy")
        process.send_signal(blow)
        output, _ = process.communicate(timeout=patience(30))
    assert process.returncode == 1, output
    assert f"it was stopped by a signal ({blow.name})" in output
    assert "State left: writes go on on the legacy; everything else was undone" in output
    assert "Traceback" not in output
    ready.require_as_before()


@pytest.mark.long
def test_in_a_terminal_the_states_are_drawn_while_they_last_and_ctrl_c_is_answered(
    ready: Offered, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    with (
        ready.staying(CutoverState.COMPARED),
        ready.typed(tmp_path, *ready.for_real, output=slave, TERM="xterm") as process,
    ):
        os.close(slave)
        seen = b""
        while b"waits until every change has arrived" not in seen:
            seen += os.read(master, 4096)
        ready.until_it_stays()
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # how the end of a terminal reads on Linux
            while more := os.read(master, 4096):
                seen += more
        assert process.wait(patience(30)) == 1, seen
    os.close(master)
    assert b"writes go on on the legacy" in seen
    assert b"Traceback" not in seen
    ready.require_as_before()


@pytest.mark.long
def test_who_presses_twice_does_not_break_the_undoing(ready: Offered, tmp_path: Path) -> None:
    with ready.staying(CutoverState.UNDOING), ready.typed(tmp_path, "cutover", "--approved-by", "Ada") as process:
        ready.until_it_stays()
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        assert ready.accepts("legacy"), "the writes come first"
        ready.go_on()
        output, _ = process.communicate(timeout=patience(30))
    assert process.returncode == 0, output
    assert "Rehearsed" in output
    ready.require_as_before()


@pytest.mark.long
def test_once_the_base_is_open_ctrl_c_comes_too_late(ready: Offered, tmp_path: Path) -> None:
    with (
        ready.staying(CutoverState.SWITCHED),
        ready.typed(tmp_path, *ready.for_real) as process,
    ):
        ready.until_it_stays()
        process.send_signal(signal.SIGINT)
        assert ready.accepts("base")
        ready.go_on()
        output, _ = process.communicate(timeout=patience(30))
    assert process.returncode == 0, output
    assert "The base is in charge" in output
    assert (ready.charge, ready.accepts("legacy")) == ("base", False)


# A sign-off's proofs are older than this: never ready.
NOT_READY = {"MIGRATION_VALIDATION_MAX_AGE_HOURS": "0.000001"}


def killed(ready: Offered, folder: Path, state: CutoverState) -> None:
    """kill -9 of a cutover that enters the state, and the end of its sessions."""
    with ready.staying(state), ready.typed(folder, *ready.for_real) as process:
        ready.until_it_stays()
        process.kill()
        process.wait()
        wait_for(lambda: not ready.stays(), "its session ends")


@pytest.mark.long
def test_what_died_is_undone_before_readiness_is_asked(ready: Offered, tmp_path: Path) -> None:
    killed(ready, tmp_path, CutoverState.COMPARED)
    assert not ready.accepts("legacy")
    refused = ready.quarter.run("cutover --approved-by Ada --for-real", **NOT_READY)
    assert refused.exit_code == 1, refused.output
    assert "not ready for the cutover" in refused.output
    assert ready.records[-1].outcome == "aborted"
    ready.require_as_before()


@pytest.mark.long
def test_what_died_with_the_base_open_is_finished_whatever_readiness_says(ready: Offered, tmp_path: Path) -> None:
    killed(ready, tmp_path, CutoverState.SWITCHED)
    assert (ready.charge, ready.accepts("base"), ready.accepts("legacy")) == ("base", True, False)
    assert ready.records[-1].outcome == "running"
    begun = len(ready.records)
    rehearsal = ready.quarter.run("cutover --approved-by Ada", **NOT_READY)
    assert rehearsal.exit_code == 1, "it is finished, and then there is nothing to rehearse"
    assert "the base is in charge already" in rehearsal.output
    assert (len(ready.records), ready.records[-1].outcome) == (begun, "succeeded")


@pytest.mark.long
def test_the_same_command_again_finishes_what_died_with_the_base_open(ready: Offered, tmp_path: Path) -> None:
    killed(ready, tmp_path, CutoverState.SWITCHED)
    begun = len(ready.records)
    done = ready.quarter.run("cutover --approved-by Ada --for-real", **NOT_READY)
    assert done.exit_code == 0, done.output
    assert "The base is in charge" in done.output
    assert (len(ready.records), ready.records[-1].outcome) == (begun, "succeeded")
