"""Runs every check of preflight in order and keeps the result in the ledger, where the next steps look for it.

A check that cannot be done is a finding and never keeps the others from running. Files with passwords and folders with
rows that other users of this machine may read are found, too.
"""

import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from migration_assets.archive.archiving import archive_store
from migration_assets.archive.store import LocalStore
from migration_assets.domain.errors import (
    ArchiveError,
    ForeignObjectError,
    MigrationError,
    PoolerError,
    ServerChangedError,
    SettingsError,
    TableSpecError,
)
from migration_assets.domain.findings import (
    Acceptance,
    Area,
    Finding,
    Severity,
    blocking,
    with_acceptances,
    worst_first,
)
from migration_assets.domain.fiscal_calendar import FiscalCalendar, FiscalQuarter
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.ledger.charge import require_legacy_in_charge
from migration_assets.ledger.own_objects import ledger_version, may_read_ledger
from migration_assets.ledger.preflights import read_acceptances, record_preflight
from migration_assets.ledger.steps import open_ledger
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.physical_order import read_physical_order
from migration_assets.postgres.sessions import EXAMINATION, Connected, Databases, Side, uncounted
from migration_assets.preflight import (
    data,
    meaning,
    other_writers,
    own_schema,
    rights,
    servers,
    table,
    table_features,
    ways,
    window,
)
from migration_assets.preflight.plan import PreflightPlan, Subject, error_text, info, judge
from migration_assets.preflight.ways import encryption_remedy, examine_encryption, examine_hosts
from migration_assets.preflight.window import choose_quarter, measured_speed, sample_speed
from migration_assets.quarters.legacy_weeks import held_quarters
from migration_assets.runtime import Migration
from migration_assets.stream.way import examine_applying, examine_sending

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}


def run_preflight(
    databases: Databases, spec: TableSpec, calendar: FiscalCalendar, *, plan: PreflightPlan
) -> list[Finding]:
    """Examine both databases; everything is read only or rolled back.

    It never raises for what it finds: a database that cannot be reached is the blocking finding `reachable`, and a
    check that fails is a finding with its own code.

    Returns:
        A finding for everything that was examined, worst first.
    """
    with ExitStack() as stack:
        run = _Run()
        legacy = run.open(stack, databases, "legacy")
        base = run.open(stack, databases, "base")
        both: dict[Side, Connected | None] = {"legacy": legacy, "base": base}
        for side, session in both.items():
            if session is not None:
                run.check("encryption", _AREA[side], partial(examine_encryption, session, side))
        if legacy is not None:
            # From here on the server itself refuses writes in our session.
            run.check("legacy_server", Area.LEGACY, lambda: _read_only(legacy))
            run.check("version", Area.LEGACY, lambda: servers.examine_version(legacy, "legacy"))
            run.check("legacy_server", Area.LEGACY, lambda: servers.examine_legacy_server(legacy))
            run.check("walsender_settings", Area.LEGACY, lambda: examine_sending(legacy, "legacy"))
            run.check("standbys", Area.LEGACY, lambda: ways.examine_standbys(legacy, "legacy"))
            run.check(
                "foreign_publication",
                Area.LEGACY,
                lambda: other_writers.examine_foreign_publications(legacy, "legacy"),
            )
            run.check("own_schema", Area.LEGACY, lambda: own_schema.examine_own_schema(legacy, "legacy"))
            run.check("connections", Area.LEGACY, lambda: servers.examine_connections(legacy, "legacy", plan))
        if base is not None:
            run.check("version", Area.BASE, lambda: servers.examine_version(base, "base"))
            run.check("base_server", Area.BASE, lambda: servers.examine_base_server(base))
            run.check("apply_worker_settings", Area.BASE, lambda: examine_applying(base, "base"))
            run.check("standbys", Area.BASE, lambda: ways.examine_standbys(base, "base"))
            run.check(
                "foreign_publication_in_base",
                Area.BASE,
                lambda: other_writers.examine_foreign_publications(base, "base"),
            )
            run.check("own_schema", Area.BASE, lambda: own_schema.examine_own_schema(base, "base"))
            run.check("quarantine", Area.BASE, lambda: own_schema.examine_quarantine(base))
            run.check("connections", Area.BASE, lambda: servers.examine_connections(base, "base", plan))
            run.check("base_rights", Area.BASE, lambda: rights.examine_base_rights(base, spec.table))
        if legacy is not None and base is not None:
            run.check("two_databases", Area.BASE, lambda: ways.examine_two_databases(legacy, base))
            for side, session in both.items():
                known = partial(ways.examine_known_server, base, spec.relation, side, session or base)
                run.check("known_server", _AREA[side], known)
            run.check("way_to_legacy", Area.BASE, lambda: ways.examine_ways(legacy, base, databases, plan))
            run.check("server_pair", Area.BASE, lambda: servers.compare_servers(legacy, base))
            run.check("fingerprint_probe", Area.BASE, lambda: meaning.examine_probe(legacy, base))
        if legacy is not None:
            description = run.describe(legacy, spec)
            if description is not None:
                _examine_table(run, legacy, base, Subject(spec, calendar, plan, description))
    return worst_first(run.findings)


def _examine_table(run: "_Run", legacy: Connected, base: Connected | None, subject: Subject) -> None:
    spec, description = subject.spec, subject.description
    base_major = servers.version_of(base)[0] if base is not None else None
    run.check("legacy_rights", Area.LEGACY, lambda: rights.examine_legacy_rights(legacy, spec.table))
    run.check("table", Area.TABLE, lambda: table.examine_table(description, spec, base_major))
    run.check("not_carried", Area.TABLE, lambda: table_features.examine_not_carried(legacy, spec.table))
    run.check("replica_identity", Area.TABLE, lambda: rights.examine_publication(legacy, spec, description))
    run.check("other_writers", Area.TABLE, lambda: other_writers.examine_both(legacy, base, spec))
    run.check("follower", Area.LEGACY, lambda: other_writers.examine_followers(legacy, "legacy", spec))
    if base is not None:
        run.check("follower_in_base", Area.BASE, lambda: other_writers.examine_followers(base, "base", spec))
    try:
        description.control_kind(spec.control_column)
    except TableSpecError:
        return  # the following checks need the column; finding `control_column` says what is wrong
    run.check("row_hash", Area.LEGACY, lambda: [table.examine_legacy_hash(legacy, description)])
    run.check("control_values", Area.DATA, lambda: _examine_rows(run, legacy, base, subject))
    if base is None:
        return
    run.check("updates_refused", Area.BASE, lambda: rights.examine_refused_changes(base, "base", spec))
    run.check("base_owner", Area.BASE, lambda: own_schema.examine_owners(base, description))
    before = len(run.findings)
    run.check("types", Area.BASE, lambda: servers.examine_types(base, description))
    run.check("collations", Area.BASE, lambda: servers.examine_collations(base, description))
    run.check("type_meaning", Area.BASE, lambda: meaning.examine_values(legacy, base, description))
    run.check("base_table", Area.BASE, lambda: table.examine_base_table(base, subject))
    run.check("ddl_rehearsal", Area.BASE, lambda: [_rehearse(run, before, base, subject)])


def _rehearse(run: "_Run", before: int, base: Connected, subject: Subject) -> Finding:
    causes = [f.code for f in run.findings[before:] if f.severity is Severity.BLOCKING]
    causes += [] if subject.description.primary_key else ["primary_key"]
    if causes:
        return table.not_rehearsed(causes)
    quarter = subject.plan.quarter or subject.calendar.quarter_of(subject.plan.as_of)
    return table.rehearse(base, subject, quarter)


def _examine_rows(run: "_Run", legacy: Connected, base: Connected | None, subject: Subject) -> list[Finding]:
    order = read_physical_order(legacy, subject.spec.table, subject.spec.control_column)
    run.check("control_values", Area.DATA, lambda: data.examine_data(legacy, subject, order))
    if base is not None:
        run.check(
            "beyond_last_partition",
            Area.DATA,
            lambda: data.examine_runway(legacy, base, subject, order),
            severity=Severity.WARNING,
        )
    run.check("sizes", Area.WINDOW, lambda: window.examine_sizes(legacy, subject, order))

    def examine_window() -> list[Finding]:
        chosen = choose_quarter(legacy, subject, order)
        speed = measured_speed(base, subject.spec.relation) if base is not None else None
        return [
            *window.examine_order(subject, order, chosen),
            *window.examine_window(
                subject, order, chosen, speed or sample_speed(legacy, subject, order, chosen.quarter)
            ),
        ]

    run.check("window", Area.WINDOW, examine_window, severity=Severity.WARNING)
    return []


@dataclass
class _Run:
    findings: list[Finding] = field(default_factory=list[Finding])

    def check(
        self, code: str, area: Area, examine: Callable[[], list[Finding]], *, severity: Severity = Severity.BLOCKING
    ) -> None:
        """Add what `examine` finds, or a finding `code` that says why it could not."""
        try:
            self.findings += examine()
        # ValueError: text that is not valid in the encoding the server says it has, as SQL_ASCII allows.
        except (psycopg.Error, MigrationError, ValueError) as error:
            evidence = f"could not be examined: {error_text(error)}"
            remedy = "grant the right or resolve what the message says, then run preflight again"
            self.findings.append(judge(code, area, evidence, good=False, remedy=remedy, severity=severity))

    def open(self, stack: ExitStack, databases: Databases, side: Side) -> Connected | None:
        """Open a session that lives as long as `stack`; on failure add the finding `reachable` and return None."""
        url = databases.url(side)
        try:
            where = _whereabouts(url)
            connection = stack.enter_context(databases.session(side, "preflight", EXAMINATION, or_standby=True))
        except SettingsError as error:
            evidence = f"{error.where}: {error.what}" if isinstance(error, PoolerError) else error.what
            remedy = f"MIGRATION_{side.upper()}_URL: {error.next_step}"
            self.findings.append(judge("reachable", _AREA[side], evidence, good=False, remedy=remedy))
            return None
        except psycopg.OperationalError as error:
            evidence = f"{_whereabouts(url)}: {_without_password(error_text(error), url)}"
            remedy = encryption_remedy(url, evidence) or (
                "see that the server runs and listens there, that firewall and pg_hba.conf let this machine in, and"
                f" that user, password and database in MIGRATION_{side.upper()}_URL are right"
            )
            self.findings.append(judge("reachable", _AREA[side], evidence, good=False, remedy=remedy))
            return None
        except psycopg.Error:
            # libpq quotes what it cannot parse, which may be the password: its message is not shown.
            form = "postgresql://user:password@host:port/database"
            remedy = f"write MIGRATION_{side.upper()}_URL as {form}, odd characters percent-encoded"
            evidence = "the URL cannot be read"
            self.findings.append(judge("reachable", _AREA[side], evidence, good=False, remedy=remedy))
            return None
        self.findings.append(info("reachable", _AREA[side], f"{where} answers"))
        self.findings += examine_hosts(url, side, f"MIGRATION_{side.upper()}_URL", "hosts")
        return connection

    def describe(self, legacy: Connected, spec: TableSpec) -> TableDescription | None:
        """Return the description of an ordinary table; else add a finding that says why, and return None."""
        descriptions: list[TableDescription] = []

        def examine() -> list[Finding]:
            try:
                description = require_table(legacy, spec.table, "legacy")
            except TableSpecError as error:
                evidence = f"{spec.table}: {error.what}"
                return [judge("table", Area.TABLE, evidence, good=False, remedy=error.next_step)]
            finding = table.examine_kind(description)
            if finding.severity is Severity.INFO:
                descriptions.append(description)
            return [finding]

        self.check("table", Area.TABLE, examine)
        return descriptions[0] if descriptions else None


def _read_only(legacy: Connected) -> list[Finding]:
    legacy.execute("SELECT set_config('default_transaction_read_only', 'on', false)")
    uncounted(legacy)
    return []


def _whereabouts(url: str) -> str:
    parts = conninfo_to_dict(url)
    host, port = parts.get("host") or parts.get("hostaddr") or "the local socket", parts.get("port") or 5432
    return f"{host}:{port}, database {parts.get('dbname') or parts.get('user') or 'of the user'}"


def _without_password(text: str, url: str) -> str:
    # psycopg leaves the password out; the message of a proxy or a plug-in may not.
    password = conninfo_to_dict(url).get("password")
    return text.replace(str(password), "***") if password else text


_CODE = "private_files"


def examine_files(migration: Migration) -> list[Finding]:
    """Examine whether `.env`, files of secrets or older folders are readable by others; new files are private anyway.

    A folder that others may only pass through, to a name that they know, is not reported.

    Raises:
        SettingsError: `.env` cannot be read.
    """
    settings = migration.settings
    open_to_others = [*_open(settings.files_with_secrets()), *_open([settings.var, *_archive(migration)])]
    if not open_to_others:
        return [Finding(_CODE, Area.FILES, Severity.INFO, "no other user may read secrets, archives or var")]
    names = ", ".join(map(str, open_to_others))
    remedy = f"chmod o-rw {shlex.join(map(str, open_to_others))}"
    return [Finding(_CODE, Area.FILES, Severity.WARNING, f"every user of this machine may read {names}", remedy)]


def _archive(migration: Migration) -> Iterator[Path]:
    """Yield the archive's folder, where the archive is a local folder."""
    try:
        store = archive_store(migration)
    except ArchiveError:
        return  # archives and questions say what is wrong with the URL
    if isinstance(store, LocalStore):
        yield store.root


def _open(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # it does not exist, or we may not look at it
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield path


@dataclass(frozen=True)
class Examined:
    """All findings, and the quarters of which the legacy holds rows; no quarters where something blocks."""

    findings: list[Finding]
    quarters: list[FiscalQuarter]


def examine(migration: Migration, run_id: str | None = None) -> Examined:
    """Run preflight; changes nothing but the ledger, which it creates if it can.

    Raises:
        LedgerError: The ledger is newer than this program.
        BaseInChargeError: The base is in charge; the last preflight is kept for the time after a rollback.
    """
    _require_something_to_migrate(migration)
    spec, calendar, settings = migration.spec, migration.calendar, migration.settings
    for_base, for_legacy = settings.legacy_url_for_base, settings.base_url_for_legacy
    plan = PreflightPlan(
        parallel_copies=settings.weeks_at_once,
        wanted_copies=settings.parallel_copies,
        window_hours=settings.window_hours,
        target_gb_per_hour=settings.target_gb_per_hour,
        as_of=migration.now(),
        legacy_url_for_base=for_base.get_secret_value() if for_base else None,
        base_url_for_legacy=for_legacy.get_secret_value() if for_legacy else None,
    )
    findings = [*run_preflight(migration.databases, spec, calendar, plan=plan), *examine_files(migration)]
    findings = worst_first(with_acceptances(findings, _record(migration, findings, run_id)))
    if blocking(findings):
        return Examined(findings, [])
    with migration.databases.session("legacy", "preflight") as legacy:
        uncounted(legacy)
        description = require_table(legacy, spec.table, "legacy")
        quarters = held_quarters(legacy, description, spec, calendar)
    return Examined(findings, quarters)


def _require_something_to_migrate(migration: Migration) -> None:
    try:
        with migration.databases.session("base", "preflight") as base:
            if not may_read_ledger(base) or not ledger_version(base):
                return  # a finding says so; or tables that are named like the ledger's may be somebody else's
            what = "there is nothing to migrate from the legacy any more"
            require_legacy_in_charge(base, migration.spec.relation, what)
    except (psycopg.OperationalError, ForeignObjectError, ServerChangedError):
        return  # findings report an unreachable base, a standby, and a ledger that is not ours


def _record(migration: Migration, findings: list[Finding], run_id: str | None) -> list[Acceptance]:
    """Record the findings in the ledger. Blocking ones must be recorded if at all possible: they are the gate.

    Returns:
        What persons have accepted. Findings are recorded without acceptances, which can be withdrawn.
    """
    # No ledger is created in a database that is not the base.
    nowhere = {("reachable", Area.BASE), ("two_databases", Area.BASE)}
    if any((finding.code, finding.area) in nowhere for finding in blocking(findings)):
        return []
    try:
        with open_ledger(migration, "preflight") as base:
            record_preflight(base, migration.spec.relation, findings, run_id)
            return read_acceptances(base, migration.spec.relation)
    except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction, ForeignObjectError, ServerChangedError):
        if not blocking(findings):
            raise  # otherwise a finding reports it already, and such a base accepts no writes anyway
        return []
