"""What a database or a role is set to reaches the servers' own workers of replication, whom no session of ours sets."""

from collections.abc import Iterator, Mapping

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.sessions import Connected, Side, require_row

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
# What each must be for whoever applies changes, and what happens else.
_APPLYING: Mapping[str, tuple[str, str]] = {
    "lock_timeout": ("0", "it ends at every lock that it waits for, and at every cut, and begins again"),
    "transaction_timeout": ("0", "it ends in every transaction that takes longer, and begins it again for ever"),
    "default_transaction_isolation": ("read committed", "it fails where another session changes the same row"),
    "default_transaction_read_only": ("off", "triggers that write fail, and with them the stream"),
    "array_nulls": ("on", "a NULL inside an array that comes as text becomes the word NULL"),
    "xmloption": ("content", "an xml value without a single root is refused, and the stream stands"),
}
# Below it a walsender gives up on a base that is busy for a moment.
_SHORTEST_SENDER_TIMEOUT_MS = 5_000
# Both make damaged pages look empty: rows vanish, and a copy or a comparison does not see that they were there.
_HIDING = ("zero_damaged_pages", "ignore_checksum_failure")


def examine_applying(connection: Connected, side: Side) -> list[Finding]:
    """What an apply worker of our role gets on this side; `reset_val` is what a new session begins with."""
    found = _settings(connection, (*_APPLYING, *_HIDING))
    wrong = [
        Finding(
            f"apply_worker_{name}",
            _AREA[side],
            Severity.BLOCKING,
            f"{name} is {found[name]} for the {side}'s apply worker: {why}",
            _remedy(connection, name, wanted),
        )
        for name, (wanted, why) in _APPLYING.items()
        if name in found and found[name] != wanted
    ]
    wrong += _hidden(connection, side, found)
    if wrong:
        return wrong
    return [Finding("apply_worker_settings", _AREA[side], Severity.INFO, "nothing is set against the apply worker")]


def examine_sending(connection: Connected, side: Side) -> list[Finding]:
    """What a walsender of our role gets on this side."""
    found = _settings(connection, ("wal_sender_timeout", *_HIDING))
    wrong = list(_hidden(connection, side, found))
    timeout = int(found["wal_sender_timeout"])
    if 0 < timeout < _SHORTEST_SENDER_TIMEOUT_MS:
        evidence = f"wal_sender_timeout is {timeout} ms for the {side}'s walsender: it gives up on a busy subscriber"
        remedy = _remedy(connection, "wal_sender_timeout", "60s")
        wrong.append(Finding("walsender_timeout", _AREA[side], Severity.BLOCKING, evidence, remedy))
    return wrong or [Finding("walsender_settings", _AREA[side], Severity.INFO, f"wal_sender_timeout = {timeout} ms")]


def _hidden(connection: Connected, side: Side, found: Mapping[str, str]) -> Iterator[Finding]:
    for name in _HIDING:
        if found.get(name, "off") != "off":
            evidence = f"{name} is on for our sessions of the {side}: rows of damaged pages vanish without an error"
            yield Finding(name, _AREA[side], Severity.BLOCKING, evidence, _remedy(connection, name, "off"))


def _settings(connection: Connected, names: tuple[str, ...]) -> dict[str, str]:
    rows = connection.execute("SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)", [list(names)])
    return {str(name): str(value) for name, value in rows}


def _remedy(connection: Connected, name: str, value: str) -> str:
    """For our role in this database alone, which beats what either is set to: applications keep theirs."""
    row = connection.execute("SELECT current_user::text, current_database()::text").fetchone()
    role, database = require_row(row, "the role")
    return f"ALTER ROLE {quote_identifier(role)} IN DATABASE {quote_identifier(database)} SET {name} = '{value}';"
