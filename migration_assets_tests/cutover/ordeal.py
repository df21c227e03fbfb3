"""Cutovers and rollbacks under write load; in the end the table must be what the applications' journal says."""

import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from migration_assets.domain.states import SideName
from migration_assets.stream.heartbeats import reverse_arrived, send_reverse_marker
from migration_assets_tests.cutover.ground import SIDES, CutoverGround
from migration_assets_tests.cutover.traffic import Task, traffic
from migration_assets_tests.ground import wait_for

_ROWS = (
    "SELECT id, floor(extract(epoch FROM booked_at - '2024-04-01 00:00+00') / 86400)::int,"
    " mod(round(extract(epoch FROM booked_at - '2024-04-01 00:00+00') * 1000), 86400000)::int, guests, length(note)"
    " FROM public.bookings"
)


def table_of(ground: CutoverGround, side: SideName) -> dict[int, list[Any]]:
    rows = ground.ask(side, _ROWS)
    table = {int(row[0]): [int(value) for value in row[1:]] for row in rows}
    assert len(table) == len(rows), f"{len(rows) - len(table)} keys are twice on the {side}"
    return table


def settle_down(ground: CutoverGround) -> None:
    """Nobody writes any more: until the follower has everything."""
    if ground.charge() == "legacy":
        ground.drain()
        return
    with ground.databases.session("base", "test") as base:
        marker = send_reverse_marker(base, ground.spec.relation)

    def arrived() -> bool:
        with ground.databases.session("legacy", "test") as legacy:
            return reverse_arrived(legacy, ground.spec.relation, marker)

    wait_for(arrived, "the reverse marker arrives")


def require_journal(ground: CutoverGround, expected: dict[int, list[Any]]) -> int:
    """Both sides hold exactly what was acknowledged; how many rows that is."""
    settle_down(ground)
    for side in SIDES:
        found = table_of(ground, side)
        lost = {key: row for key, row in expected.items() if found.get(key) != row}
        surplus = {key: row for key, row in found.items() if key not in expected}
        assert not lost, (
            f"{len(lost)} rows lost or stale on the {side}: {[(k, v, found.get(k)) for k, v in lost.items()][:3]}"
        )
        assert not surplus, f"{len(surplus)} rows too many on the {side}: {list(surplus.items())[:3]}"
    ground.equal()
    return len(expected)


def ordeal(ground: CutoverGround, seed: int) -> str:
    """Rehearse, cut over, roll back, cut over again, and perhaps back; a line that says what happened."""
    random = Random(seed)
    before = table_of(ground, "legacy")
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        task = Task(ground.databases.legacy_url, ground.databases.base_url, seed, folder, sorted(before))
        with traffic(task) as journal:
            wait_for(lambda: list(Path(folder).glob("journal-*.jsonl")), "the applications begin")

            def switch(to: SideName, _cutover: int) -> None:
                task.side_file.write_text(to)

            steps = [
                ("rehearsal", lambda: ground.cut(rehearse=True, switch=switch)),
                ("cutover", lambda: ground.cut(switch=switch)),
                ("rollback", lambda: ground.back(switch=switch)),
                ("cutover", lambda: ground.cut(switch=switch)),
                ("rollback", lambda: ground.back(switch=switch)),
            ]
            if random.random() < 0.5:
                steps.pop(0)
            if random.random() < 0.5:
                steps.pop()
            for name, step in steps:
                time.sleep(random.uniform(0.2, 1.0))
                said.append(f"{name} {step().downtime_ms:.0f} ms")
            time.sleep(random.uniform(0.2, 0.8))
        assert not journal.failures, journal.failures
        assert min(journal.acknowledged[side] for side in SIDES) > 5, journal.acknowledged
        rows = require_journal(ground, journal.replay(before))
    return (
        f"seed {seed}: {', '.join(said)}; acknowledged {dict(journal.acknowledged)}, refused {journal.refused},"
        f" {rows} rows equal"
    )
