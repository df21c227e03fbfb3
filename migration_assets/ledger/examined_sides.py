"""What the code for moving the writes is bound to: the sides as they are, and what was moved between them."""

from typing import Any

from migration_assets.domain.slice_state import SliceState
from migration_assets.ledger.cutover_facts import read_cutover_facts
from migration_assets.ledger.slices import read_slices
from migration_assets.postgres.sessions import Connected


def examined_sides(base: Connected, relation: str) -> dict[str, Any]:
    """Who is in charge since which cutover, which servers these are, and which weeks are where."""
    facts = read_cutover_facts(base, relation)
    servers = base.execute(
        "SELECT side, system_identifier, timeline, database_oid::text FROM migration.servers WHERE relation = %s"
        " ORDER BY side",
        [relation],
    ).fetchall()
    weeks = {one.week.key: one.state is SliceState.RETIRED for one in read_slices(base, relation)
             if one.state is not SliceState.ABSENT}  # fmt: skip
    return {
        "the side in charge": facts.in_charge,
        "the last cutover": facts.cutover,
        "the servers": [list(row) for row in servers],
        "the weeks": weeks,
    }
