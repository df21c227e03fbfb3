"""Gives confirmation codes out and takes them back. The ledger knows each by its digest, and what it was given for.

A code for moving the writes is bound to the sides as they are, and to what was moved between them.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

from psycopg.types.json import Jsonb

from migration_assets.domain.confirmation import GOOD_FOR, Deed, GivenCode, changed, codes_in, digest_of, new_code
from migration_assets.domain.states import SliceState, instant_text
from migration_assets.ledger.charge import read_cutover_facts
from migration_assets.ledger.slices import read_slices
from migration_assets.postgres.sessions import Connected, require_row

Examined = Callable[[Connected], Mapping[str, Any]]
"""Reads what a step's dry run examined, as JSON; the values must not change by themselves within a few minutes."""

_KEPT = "30 days"
_FIND = """
SELECT f.id, f.examined, f.expires_at, f.expires_at <= clock_timestamp(), f.spent_at, f.spent_by,
       CASE f.step
         WHEN 'decommission' THEN NOT EXISTS (
             SELECT FROM migration.decommissions d
             WHERE d.relation = f.relation AND d.state NOT IN ('begun', 'fingerprinted'))
         ELSE EXISTS (SELECT FROM migration.cutovers c
                      WHERE c.id = f.cutover AND c.outcome = 'aborted' AND c.opened_at IS NULL) END
FROM migration.confirmations f
WHERE f.relation = %s AND f.code_sha256 = ANY(%s) AND f.step = %s AND f.subject = %s
ORDER BY f.spent_by = %s DESC NULLS LAST, f.id FOR UPDATE OF f
"""
_GIVEN_FOR = """
SELECT rtrim(step || ' ' || subject) FROM migration.confirmations WHERE relation = %s AND code_sha256 = ANY(%s)
ORDER BY id
"""


def give_code(base: Connected, deed: Deed, examined: Examined, *, run_id: str | None = None) -> GivenCode:
    """Give a new code for the deed, bound to the base as it is now. It is shown once: only its digest is kept."""
    code = new_code()
    with base.transaction():
        base.execute("DELETE FROM migration.confirmations WHERE expires_at < clock_timestamp() - %s::interval", [_KEPT])
        row = base.execute(
            "INSERT INTO migration.confirmations (relation, step, subject, examined, code_sha256, run_id, expires_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp() + %s) RETURNING expires_at",
            [deed.relation, deed.step, deed.subject, Jsonb(dict(examined(base))), digest_of(code), run_id, GOOD_FOR],
        ).fetchone()
    return GivenCode(code, require_row(row, "a new confirmation")[0].astimezone(UTC))


class Confirmation:
    """A code that a person gave back, for one call of one step.

    Args:
        deed: The step to confirm.
        examined: Reads the state that the step depends on; compared with the state when the code was given.
        code: The code, or several separated by blanks or commas, of which the deed's own is used. Empty if none was
            given.
    """

    def __init__(self, deed: Deed, examined: Examined, code: str) -> None:
        self._deed = deed
        self._examined = examined
        self._code = code
        # A second try within one call, after an answer was lost, finds the code spent by itself.
        self._use = secrets.token_hex(8)
        self._in_time = set[int]()

    @property
    def given(self) -> bool:
        """Whether a code was given."""
        return bool(self._code.strip())

    def require(self, base: Connected) -> None:
        """Check the code, before the step looks at anything that takes long.

        Raises:
            ConfirmationError: The code is not valid; the error says why.
        """
        with base.transaction():
            self._in_time.add(self._find(base))

    def give_back(self, base: Connected) -> None:
        """Give the code back, as if this call had never used it: nothing came of that."""
        base.execute(
            "UPDATE migration.confirmations SET spent_at = NULL, spent_by = NULL WHERE relation = %s AND spent_by = %s",
            [self._deed.relation, self._use],
        )

    def is_spent(self, base: Connected) -> bool:
        """Whether this call has used the code."""
        spent = "SELECT EXISTS (SELECT FROM migration.confirmations WHERE relation = %s AND spent_by = %s)"
        return bool(require_row(base.execute(spent, [self._deed.relation, self._use]).fetchone(), "EXISTS")[0])

    def spend(self, base: Connected, cutover: int | None = None) -> None:
        """Use the code up, in the transaction in which the step begins: both happen, or neither.

        Args:
            base: In that transaction.
            cutover: The id of the record that begins. If that step is undone before anything was opened or closed for
                good, it had no effect, and the code is valid again.

        Raises:
            ConfirmationError: The code is not valid, or no longer.
        """
        base.execute(
            "UPDATE migration.confirmations SET spent_at = clock_timestamp(), spent_by = %s, cutover = %s"
            " WHERE id = %s",
            [self._use, cutover, self._find(base)],
        )

    def _find(self, base: Connected) -> int:
        if not self.given:
            raise self._deed.refused("it asks for a confirmation code, and none was given")
        digests = [digest_of(code) for code in codes_in(self._code)]
        deed, why_not = self._deed, ""
        for row in base.execute(_FIND, [deed.relation, digests, deed.step, deed.subject, self._use]).fetchall():
            why_not = self._why_not(base, row)
            if not why_not:
                return int(row[0])
        raise self._deed.refused(why_not or self._not_its_own(base, digests))

    def _why_not(self, base: Connected, row: tuple[Any, ...]) -> str:
        """Why the code that `_FIND` found is not good; empty where it is good."""
        number, examined, expires_at, over, spent_at, spent_by, undone = row
        if spent_by == self._use:
            return ""
        if spent_at is not None and not undone:
            return f"this confirmation code was used at {instant_text(spent_at)}"
        if over and number not in self._in_time:
            return f"this confirmation code was good until {instant_text(expires_at)}"
        others = changed(examined, self._examined(base))
        return f"what was examined is not as it was when the code was given: {', '.join(others)}" if others else ""

    def _not_its_own(self, base: Connected, digests: Sequence[str]) -> str:
        others = [str(row[0]) for row in base.execute(_GIVEN_FOR, [self._deed.relation, digests]).fetchall()]
        if not others:
            return "nobody was given this confirmation code"
        subject = "this confirmation code was" if len(others) == 1 else "these confirmation codes were"
        return f"{subject} given for: {', '.join(others)}"


def examined_sides(base: Connected, relation: str) -> dict[str, Any]:
    """Describe the sides: who is in charge since which cutover, which servers these are, and which weeks are where."""
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
