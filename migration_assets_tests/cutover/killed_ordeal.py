"""Cutovers and rollbacks under write load whose process is killed again and again; the journal judges."""

import tempfile
import time
from pathlib import Path
from random import Random

from migration_assets_tests.cutover.child import run_child
from migration_assets_tests.cutover.ground import SIDES, CutoverGround
from migration_assets_tests.cutover.kills import all_points, record_of
from migration_assets_tests.cutover.ordeal import require_journal, table_of
from migration_assets_tests.cutover.traffic import Task, traffic
from migration_assets_tests.ground import wait_for


def killed_ordeal(ground: CutoverGround, seed: int, blows: int = 6) -> str:
    """Blow after blow, each followed by what a person does; a line that says what happened."""
    random = Random(seed)
    points = {kind: all_points(record_of(ground, kind)) for kind in ("cutover", "rollback")}
    before = table_of(ground, "legacy")
    fell = 0
    with tempfile.TemporaryDirectory() as folder:
        task = Task(ground.databases.legacy_url, ground.databases.base_url, seed, folder, sorted(before))
        with traffic(task) as journal:
            wait_for(lambda: list(Path(folder).glob("journal-*.jsonl")), "the applications begin")
            for _ in range(blows):
                time.sleep(random.uniform(0.1, 0.4))
                kind = "cutover" if ground.charge() == "legacy" else "rollback"
                code, _, said = run_child(ground, kind, Path(folder) / "log", random.choice(points[kind]))
                assert code in {0, -9}, said
                fell += code == -9
                if random.random() < 0.5:
                    ground.let_go()
                if ground.charge() == ("legacy" if kind == "cutover" else "base"):
                    (ground.cut if kind == "cutover" else ground.back)()
                # A rollback that died once the legacy was open is finished by whoever comes next.
                ground.let_go()
                assert ground.watch() is None
                task.side_file.write_text(ground.charge())
            time.sleep(0.3)
        assert not journal.failures, journal.failures
        assert all(journal.acknowledged[side] for side in SIDES), journal.acknowledged
        rows = require_journal(ground, journal.replay(before))
    return f"seed {seed}: {fell} of {blows} blows fell; acknowledged {dict(journal.acknowledged)}, {rows} rows equal"
