"""A cutover or rollback in a process of its own, which is killed at a statement; see `crashes.trap`.

python -m migration_assets_tests.cutover.child legacy_url base_url kind log [label occurrence when]
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from migration_assets.postgres.sessions import Databases
from migration_assets_tests.crashes.trap import Point, Trap, read_log
from migration_assets_tests.cutover.ground import CutoverGround
from migration_assets_tests.freezes import patience

STEPS = ("cutover", "rehearsal", "rollback")


def run_child(ground: CutoverGround, kind: str, log: Path, point: Point | None = None) -> tuple[int, list[str], str]:
    """Its return code (negative: killed), the statements that it sent, what it said."""
    log.unlink(missing_ok=True)
    task = {
        "urls": [ground.databases.legacy_url, ground.databases.base_url],
        "kind": kind,
        "log": str(log),
        "point": asdict(point) if point else None,
    }
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    labels = [str(entry["label"]) for entry in read_log(log) if "label" in entry]
    return done.returncode, labels, done.stdout + done.stderr[-2000:]


def start_frozen(
    ground: CutoverGround, kind: str, log: Path, point: Point, timeout_seconds: float
) -> subprocess.Popen[str]:
    """One that stops (SIGSTOP) at a statement; it goes on with SIGCONT."""
    task = {
        "urls": [ground.databases.legacy_url, ground.databases.base_url],
        "kind": kind,
        "log": str(log),
        "point": asdict(point),
        "blow": "freeze",
        "changes": {"timeout_seconds": timeout_seconds},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(task))
    process.stdin.close()
    process.stdin = None
    return process


def main() -> None:
    """Until its end, or the blow."""
    task = json.loads(sys.stdin.read())
    point = Point(**task["point"]) if task["point"] else None
    Trap(Path(task["log"]), point, task.get("blow", "kill")).install()
    kind, changes = task["kind"], task.get("changes", {})
    ground = CutoverGround(Databases(*task["urls"]))
    done = ground.back(**changes) if kind == "rollback" else ground.cut(rehearse=kind == "rehearsal", **changes)
    print(done.outcome)


if __name__ == "__main__":
    main()
