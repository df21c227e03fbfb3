"""A finding that blocks may be accepted by name; what is accepted blocks no more, everything else does."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from migration_assets.domain.findings import Acceptance, Area, Finding, Severity, blocking, with_acceptances

_KEY = Finding(
    "incoming_foreign_key", Area.TABLE, Severity.BLOCKING, "invoices point here", "drop it", "inv fk", True, "to id"
)
_ACCEPTED = Acceptance("incoming_foreign_key", "inv fk", "Ada", "it goes", datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
                       _KEY.digest)  # fmt: skip


def test_one_that_waits_says_which_command_accepts_it() -> None:
    (waiting,) = with_acceptances([_KEY], [])
    assert blocking([waiting])
    assert waiting.remedy == (
        "drop it. Or, if a person takes responsibility for it as it is:"
        " migration-assets accept incoming_foreign_key 'inv fk' --by NAME --reason TEXT"
    )


def test_one_that_was_accepted_is_a_warning_with_the_name() -> None:
    (accepted,) = with_acceptances([_KEY], [_ACCEPTED])
    assert (accepted.severity, accepted.remedy) == (Severity.WARNING, "drop it")
    assert accepted.evidence == "invoices point here. Accepted by Ada at 2026-01-02 03:04 UTC: it goes"
    assert with_acceptances([accepted], [_ACCEPTED]) == [accepted]


def test_an_acceptance_speaks_of_nothing_else() -> None:
    others = [replace(_KEY, subject="another"), replace(_KEY, code="outgoing_foreign_key")]
    assert len(blocking(with_acceptances(others, [_ACCEPTED]))) == 2
    hard = replace(_KEY, acceptable=False)
    assert with_acceptances([hard], [_ACCEPTED]) == [hard]


def test_an_acceptance_speaks_of_the_thing_as_it_was_and_of_no_other_of_its_name() -> None:
    (anew,) = with_acceptances([replace(_KEY, definition="to id, ON DELETE CASCADE")], [_ACCEPTED])
    assert (anew.severity, anew.acceptable) == (Severity.BLOCKING, True)
    assert anew.evidence == (
        "invoices point here. Ada accepted inv fk at 2026-01-02 03:04 UTC; since then it was altered, or made anew"
    )
    assert "accept incoming_foreign_key 'inv fk'" in anew.remedy


def test_only_what_blocks_and_names_its_subject_can_be_acceptable() -> None:
    with pytest.raises(ValueError, match="names its subject"):
        replace(_KEY, subject="")
    with pytest.raises(ValueError, match="has the definition of its subject"):
        replace(_KEY, definition="")
    with pytest.raises(ValueError, match="if it is blocking"):
        replace(_KEY, severity=Severity.WARNING)
