"""What readiness for the cutover is judged on: the plan, both sides, and the rules that need no database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.samples import Severity as ProblemSeverity
from migration_assets.domain.stream_watch import Problem
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.sessions import Connected


@dataclass(frozen=True)
class ReadinessPlan:
    """The limits that readiness is judged by.

    Attributes:
        now: The time by the clock of the settings, with a time zone.
        max_age: How old a week's validation may be.
        scan_seconds: How long a read of the legacy may take where no index helps.
        long_seconds: From this age on a transaction, or a wait for a lock, is in a cutover's way.
        sequence_margin: How many keys the cutover leaves out.
    """

    now: datetime
    max_age: timedelta
    scan_seconds: float = 60.0
    long_seconds: float = 30.0
    sequence_margin: int = 1000


def stream_findings(problems: Sequence[Problem], status: str | None, lag_seconds: float | None) -> list[Finding]:
    """The stream as the watch judges it: what is critical there blocks the cutover, a warning stays a warning.

    Args:
        problems: What the watch finds wrong now.
        status: The stream's status in the ledger; None where no stream was ever begun.
        lag_seconds: The lag as just measured; None where it is not known.
    """
    if status is None:
        begin = "materialize change_stream for each quarter that the legacy holds"
        return [Finding("stream", Area.BASE, Severity.BLOCKING, "there is no change stream", begin)]
    findings = [
        Finding(
            f"stream_{problem.code}",
            Area.BASE,
            Severity.BLOCKING if problem.severity is ProblemSeverity.CRITICAL else Severity.WARNING,
            problem.what,
            problem.next_step,
        )
        for problem in problems
    ]
    lag = "not known" if lag_seconds is None else f"{lag_seconds:.2f} s"
    if status != "live":
        resume = "migration-assets stream resume; see `migration-assets stream status`"
        findings.append(Finding("stream", Area.BASE, Severity.BLOCKING, f"the change stream is {status}", resume))
    elif lag_seconds is None and not problems:
        look = "see `migration-assets stream status`: the cutover waits until the base can be seen to follow"
        findings.append(Finding("stream", Area.BASE, Severity.BLOCKING, "the lag is not known", look))
    else:
        findings.append(Finding("stream", Area.BASE, Severity.INFO, f"the change stream is live; lag {lag}"))
    return findings


_SILENT: Mapping[str, str] = {
    "default_transaction_isolation": "transactions would see other rows",
    "default_transaction_read_only": "writes would be refused, or not",
    "TimeZone": "times without a zone would mean other instants",
    "DateStyle": "dates would be read as other days",
    "IntervalStyle": "intervals would be read and written in another way",
    "standard_conforming_strings": "backslashes in texts would mean something else",
    "search_path": "unqualified names would find other tables",
    "session_replication_role": "triggers would not fire, or fire",
    "transform_null_equals": "comparisons with NULL would mean something else",
}
_NOTICED: Mapping[str, str] = {
    "bytea_output": "bytes are written in another way",
    "default_text_search_config": "searches find other words",
    "extra_float_digits": "floats are written with other digits",
    "lc_monetary": "money is written in another way",
    "lc_numeric": "to_char writes numbers in another way",
    "lc_time": "to_char writes names of days and months in another language",
    "statement_timeout": "statements are cancelled after another time",
    "lock_timeout": "waits for locks end after another time",
    "idle_in_transaction_session_timeout": "idle transactions end after another time",
    "synchronous_commit": "what was acknowledged is safe in another way",
    "row_security": "policies are applied in another way",
    "max_prepared_transactions": "prepared transactions would be refused",
}
SETTINGS = (*_SILENT, *_NOTICED)


def _meaning(name: str, value: str) -> str:
    """A setting's value with its synonyms put together: the locale C has several names that behave alike."""
    plain = value.upper().replace("-", "")
    return "C" if name.startswith("lc_") and plain in {"C", "POSIX", "C.UTF8"} else value


def setting_findings(legacy: Mapping[str, str], base: Mapping[str, str], database: str) -> list[Finding]:
    """Compare what a new session of an application gets on each side; `database` is the base's name, quoted.

    A difference that changes results without an error blocks; one that is noticed is a warning.
    """
    findings: list[Finding] = []
    for name in SETTINGS:
        here, there = legacy.get(name), base.get(name)
        if here is None or _meaning(name, here) == _meaning(name, there or ""):
            continue
        why = _SILENT.get(name) or _NOTICED[name]
        severity = Severity.BLOCKING if name in _SILENT else Severity.WARNING
        if name == "max_prepared_transactions":
            if int(there or 0) >= int(here):
                continue
            remedy = f"ALTER SYSTEM SET {name} = {here}; then restart the base"
        else:
            # A search path is a list: in quotes it would be a single name.
            value = here if name == "search_path" and here else "'" + here.replace("'", "''") + "'"
            remedy = f"ALTER DATABASE {database} SET {name} = {value};"
        evidence = f"{name} is {here!r} for sessions of the legacy, {there!r} for those of the base: {why}"
        findings.append(Finding(f"setting_{name.lower()}", Area.BASE, severity, evidence, remedy))
    if not findings:
        same = f"{len(SETTINGS)} settings that change what statements do are the same on both sides"
        findings.append(Finding("settings", Area.BASE, Severity.INFO, same))
    return findings


@dataclass(frozen=True)
class Sides:
    """A read-only session on each side, with the table as each side describes it, and the plan."""

    legacy: Connected
    base: Connected
    spec: TableSpec
    calendar: FiscalCalendar
    plan: ReadinessPlan
    of_legacy: TableDescription
    of_base: TableDescription
