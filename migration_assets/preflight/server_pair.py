"""Examines what matters only between two servers: majors, encodings, the order of texts."""

from typing import Any

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.preflight.servers import version_of
from migration_assets.preflight.wording import info, judge


def compare_servers(legacy: Connected, base: Connected) -> list[Finding]:
    """What matters only in pairs: majors, encodings, collations."""
    majors = version_of(legacy)[0], version_of(base)[0]
    of_legacy, of_base = _locale(legacy), _locale(base)
    encodings = of_legacy["encoding"], of_base["encoding"]
    same_order = _order(of_legacy) == _order(of_base)
    stale = [side for side, of in (("legacy", of_legacy), ("base", of_base)) if of["version"] != of["actual"]]
    # The server's own default: our sessions use UTC whatever it is.
    zones = f"default time zone {of_legacy['zone']} in the legacy, {of_base['zone']} in the base"
    return [
        judge(
            "version_order",
            Area.BASE,
            f"legacy {majors[0]}, base {majors[1]}",
            good=majors[0] <= majors[1],
            remedy="use a base of the same or a newer major version: types and settings may be missing in an older one",
            severity=Severity.WARNING,
        ),
        judge(
            "encoding",
            Area.BASE,
            f"legacy {encodings[0]}, base {encodings[1]}",
            good=encodings[0] == encodings[1] and "SQL_ASCII" not in encodings,
            remedy="create the base database with the legacy's encoding, and not SQL_ASCII: fingerprints hash the"
            " server's own bytes, so that every text beyond ASCII would differ",
            severity=Severity.WARNING,
        ),
        judge(
            "collation",
            Area.BASE,
            f"legacy {_locale_text(of_legacy)}; base {_locale_text(of_base)}",
            good=same_order and not stale,
            remedy="none is needed for the data: only the order of texts in indexes and results may differ. For equal"
            " order create the base database with the legacy's locale"
            + (f"; REINDEX and ALTER DATABASE … REFRESH COLLATION VERSION on: {', '.join(stale)}" if stale else ""),
            severity=Severity.WARNING,
        ),
        info("time_zone", Area.BASE, f"{zones}; every session of ours uses UTC, so that neither matters"),
    ]


def _locale(connection: Connected) -> dict[str, Any]:
    row = connection.execute(
        # As JSON, because the column of the ICU locale was renamed in PostgreSQL 17.
        "SELECT d.datlocprovider::text, d.datcollate, coalesce(j->>'datlocale', j->>'daticulocale'), d.datcollversion,"
        " pg_database_collation_actual_version(d.oid), pg_encoding_to_char(d.encoding),"
        " (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')"
        " FROM pg_database d, LATERAL to_jsonb(d) AS j WHERE d.datname = current_database()"
    ).fetchone()
    names = ("provider", "collate", "locale", "version", "actual", "encoding", "zone")
    return dict(zip(names, require_row(row, "the database's locale"), strict=True))


def _order(of: dict[str, Any]) -> tuple[Any, ...]:
    """What decides the order of texts."""
    name = of["locale"] or of["collate"]
    # These sort by code points whoever provides them, and so never change.
    if of["provider"] != "i" and name.upper().replace("-", "") in {"C", "POSIX", "C.UTF8"}:
        return ("code points",)
    return (of["provider"], name, of["version"])


def _locale_text(of: dict[str, Any]) -> str:
    provider = {"c": "libc", "i": "icu", "b": "builtin"}.get(of["provider"], of["provider"])
    text = f"{provider} {of['locale'] or of['collate']} version {of['version'] or 'none'}"
    return text if of["version"] == of["actual"] else f"{text} (the library has {of['actual']})"
