"""Every blow of a step, one after the other, and what came of them."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TextIO

from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.crashes.drills import crash_server
from migration_assets_tests.crashes.judge import After, Judge, Verdict
from migration_assets_tests.crashes.moments import WITHOUT_SERVER
from migration_assets_tests.crashes.steps import STEPS
from migration_assets_tests.crashes.trap import Point, points_of

AFTERS: tuple[After, ...] = ("again", "again", "again", "resume", "validate", "struck again")


@dataclass
class Matrix:
    """The verdicts so far; a blow that ended in anything but equality is kept with its error and stops nothing."""

    judge: Judge
    out: TextIO = field(default=sys.stdout)
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    failures: list[str] = field(default_factory=list[str])
    crashes: int = 0
    outlived: int = 0

    def points(self, step: str) -> list[Point]:
        """Where a step can be struck, from an undisturbed run."""
        return points_of(self.judge.record(step))

    def run(self, step: str, points: Iterable[Point], random: Random, *, afters: Sequence[After] = AFTERS) -> None:
        """Strike at every point; what a person does first afterwards is drawn."""
        for point in points:
            after = random.choice(afters)
            try:
                verdict = self.judge.strike(step, point, after)
            except Exception as error:  # noqa: BLE001 - the others are to be tried all the same
                self.failures.append(f"{step}: {point}, then {after}: {type(error).__name__}: {error}")
                print(f"FAILED {self.failures[-1]}", file=self.out, flush=True)
                self.rebuild()
            else:
                self.verdicts.append(verdict)
                print(_line(verdict), file=self.out, flush=True)

    def crash_servers(self, pair: EmbeddedServers) -> None:
        """Every moment of `WITHOUT_SERVER` without the one server and without the other."""
        for step, point in WITHOUT_SERVER:
            for server in ("legacy", "base"):
                began = time.monotonic()
                try:
                    ended = crash_server(self.judge, pair, step, point, server)
                except Exception as error:  # noqa: BLE001 - as above
                    self.failures.append(f"{step}: {point} without {server}: {type(error).__name__}: {error}")
                    print(f"FAILED {self.failures[-1]}", file=self.out, flush=True)
                    self.rebuild()
                else:
                    self.crashes += 1
                    self.outlived += not ended.failed
                    how = "a plain re-run was needed" if ended.failed else "outlived"
                    print(f"ok {step}: {point} without {server}: {how}; {time.monotonic() - began:.1f} s", flush=True)

    def rebuild(self) -> None:
        """After a failure: take the stream away, so that the next blow is judged by itself."""
        self.judge.require_gone()
        self.judge.stage.set("nothing")

    def summary(self) -> str:
        """Figures by step."""
        lines = ["step       blows  fell  said  write ms  locks gone ms  seconds (mean, sum)"]
        for step in STEPS:
            of = [verdict for verdict in self.verdicts if verdict.step == step]
            if of:
                seconds = [verdict.seconds for verdict in of]
                lines.append(
                    f"{step:10} {len(of):5} {sum(v.fell for v in of):5} {sum(bool(v.said) for v in of):5}"
                    f" {max(v.write_ms for v in of):9.0f} {max(v.gone_ms for v in of):14.0f}"
                    f" {sum(seconds) / len(seconds):8.2f} {sum(seconds):8.0f}"
                )
        lines.append(f"servers crashed {self.crashes} times, the step outlived it {self.outlived} times")
        lines.append(f"{len(self.verdicts)} blows ended in equality, {len(self.failures)} did not")
        return "\n".join(lines)


def _line(verdict: Verdict) -> str:
    fell = "fell" if verdict.fell else "was not reached"
    said = "".join(f"\n      {text}" for text in verdict.said)
    return (
        f"ok {verdict.step}: {verdict.point} {fell}; {verdict.after}; write {verdict.write_ms:.0f} ms, gone"
        f" {verdict.gone_ms:.0f} ms, {verdict.rows} rows, {verdict.seconds:.1f} s{said}"
    )
