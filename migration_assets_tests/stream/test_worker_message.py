"""What is shown of a server's log: the worker's own newest error, whatever the log's form, and never a value."""

import json
from collections.abc import Callable

import pytest

from migration_assets.stream.subscription import newest_message

CONTEXT = 'processing remote data for replication origin "pg_16385" during message type "UPDATE" for {}'


def plain(*errors: tuple[str, str], severity: str = "ERROR") -> str:
    return "\n".join(
        f"2026-01-01 [9] {severity}:  {message}\n2026-01-01 [9] DETAIL:  Failing row contains (secret).\n"
        f"2026-01-01 [9] CONTEXT:  {context}\n2026-01-01 [9] LOG:  background worker exited"
        for message, context in errors
    )


def as_json(*errors: tuple[str, str], severity: str = "ERROR") -> str:
    lines = [
        json.dumps({"error_severity": severity, "message": m, "detail": "secret", "context": c}) for m, c in errors
    ]
    return "\n".join(['ge": "cut in two"}', *lines])


def as_csv(*errors: tuple[str, str], severity: str = "ERROR") -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [
        ",".join(["x"] * 11 + [severity, "00000", quoted(m), "secret", "", "", "", quoted(c), "", ""])
        for m, c in errors
    ]
    return "\n".join(['cut in two"', *lines])


@pytest.mark.parametrize(("form", "written"), [("stderr", plain), ("jsonlog", as_json), ("csvlog", as_csv)])
def test_the_newest_error_of_this_worker_is_shown_without_its_values(form: str, written: Callable[..., str]) -> None:
    ours, others = CONTEXT.format("x"), CONTEXT.format("x").replace("16385", "16386")
    enum = 'invalid input value for enum public.mood: "secret"'
    found = newest_message(
        form,
        written(
            ('new row for relation "a" violates check constraint "b"', ours),
            (enum, ours),
            ('duplicate key value violates unique constraint "k"', others),
            ('syntax error at or near "secret"', ours),
        ),
        "pg_16385",
    )
    assert found == "invalid input value for enum public.mood"
    assert newest_message(form, written((enum, others)), "pg_16385") is None
    # What the worker logs and passes over ends nothing, and belongs to no error of another one's before it.
    passed = ('conflict detected on relation "public.b": conflict=update_missing', ours)
    text = "\n".join([written((enum, others)), written(passed, severity="LOG")])
    assert newest_message(form, text, "pg_16385") is None


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('conflict detected on relation "public.b_w06": conflict=update_exists', None),
        ('null value in column "a" of relation "b" violates not-null constraint', None),
        ('logical replication target relation "public.b" is missing replicated columns: "x", "y"', None),
        ('invalid input syntax for type integer: "secret"', "invalid input syntax for type integer"),
        ('malformed record literal: "(secret"', "malformed record literal"),
        ('value for domain public.pos violates check constraint "pos_check"', None),
        (
            'could not connect to the publisher: to server "h" failed',
            "could not connect to the publisher",
        ),
        ("something new that may hold a secret", ""),
    ],
)
def test_only_what_cannot_hold_a_value_is_shown(message: str, shown: str | None) -> None:
    found = newest_message("stderr", plain((message, CONTEXT.format("x"))), "pg_16385")
    assert found == (message if shown is None else shown or None)


def test_lines_that_are_cut_or_too_long_to_read_hide_no_other_line_and_break_no_look() -> None:
    ours = ("numeric field overflow", CONTEXT.format("x"))
    for part in ('{"message": "cut', '{cut"}', "7"):
        assert newest_message("jsonlog", "\n".join([part, as_json(ours), part]), "pg_16385") == "numeric field overflow"
    cut = '"INSERT INTO bookings'
    assert (
        newest_message("csvlog", "\n".join([cut, *as_csv(ours).splitlines()[1:]]), "pg_16385")
        == "numeric field overflow"
    )
    long = ",".join(["x"] * 19 + ['"' + "secret" * 40_000 + '"'])
    assert newest_message("csvlog", "\n".join([as_csv(ours), long]), "pg_16385") == "numeric field overflow"
