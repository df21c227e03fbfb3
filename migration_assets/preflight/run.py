"""Runs every check in order; what one check cannot do never keeps the others from running."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import psycopg
from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.errors import MigrationError, PoolerError, SettingsError, TableSpecError
from migration_assets.domain.findings import Area, Finding, Severity, worst_first
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.physical_order import read_physical_order
from migration_assets.postgres.sessions import Connected, Databases, Side, Timeouts, uncounted
from migration_assets.preflight import (
    data,
    foreign_publications,
    meaning,
    not_carried,
    other_writers,
    own_schema,
    probe,
    publication,
    rehearsal,
    requisites,
    rights,
    runway,
    server_pair,
    servers,
    standbys,
    table,
    ways,
    whereabouts,
    window,
)
from migration_assets.preflight.addresses import encryption_remedy, examine_encryption, examine_hosts
from migration_assets.preflight.plan import PreflightPlan, Subject
from migration_assets.preflight.quarter_choice import choose_quarter
from migration_assets.preflight.speed import measured_speed, sample_speed
from migration_assets.preflight.wording import error_text, info, judge
from migration_assets.stream.worker_settings import examine_applying, examine_sending

_TIMEOUTS = Timeouts(lock=2_000, statement=60_000, idle_in_transaction=900_000)
_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}


def run_preflight(
    databases: Databases, spec: TableSpec, calendar: FiscalCalendar, *, plan: PreflightPlan
) -> list[Finding]:
    """Examine both databases; everything is read only or rolled back.

    Never raises for what it finds: a database that cannot be reached is the blocking finding `reachable`, and a check
    that fails is a finding with its own code.

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
            # Whatever we do there, the server itself refuses to write.
            run.check("legacy_server", Area.LEGACY, lambda: _read_only(legacy))
            run.check("version", Area.LEGACY, lambda: servers.examine_version(legacy, "legacy"))
            run.check("legacy_server", Area.LEGACY, lambda: servers.examine_legacy_server(legacy))
            run.check("walsender_settings", Area.LEGACY, lambda: examine_sending(legacy, "legacy"))
            run.check("standbys", Area.LEGACY, lambda: standbys.examine_standbys(legacy, "legacy"))
            run.check(
                "foreign_publication",
                Area.LEGACY,
                lambda: foreign_publications.examine_foreign_publications(legacy, "legacy"),
            )
            run.check("own_schema", Area.LEGACY, lambda: own_schema.examine_own_schema(legacy, "legacy"))
            run.check("connections", Area.LEGACY, lambda: servers.examine_connections(legacy, "legacy", plan))
        if base is not None:
            run.check("version", Area.BASE, lambda: servers.examine_version(base, "base"))
            run.check("base_server", Area.BASE, lambda: servers.examine_base_server(base))
            run.check("apply_worker_settings", Area.BASE, lambda: examine_applying(base, "base"))
            run.check("standbys", Area.BASE, lambda: standbys.examine_standbys(base, "base"))
            run.check(
                "foreign_publication_in_base",
                Area.BASE,
                lambda: foreign_publications.examine_foreign_publications(base, "base"),
            )
            run.check("own_schema", Area.BASE, lambda: own_schema.examine_own_schema(base, "base"))
            run.check("quarantine", Area.BASE, lambda: own_schema.examine_quarantine(base))
            run.check("connections", Area.BASE, lambda: servers.examine_connections(base, "base", plan))
            run.check("base_rights", Area.BASE, lambda: rights.examine_base_rights(base, spec.table))
        if legacy is not None and base is not None:
            run.check("two_databases", Area.BASE, lambda: whereabouts.examine_two_databases(legacy, base))
            for side, session in both.items():
                known = partial(whereabouts.examine_known_server, base, spec.relation, side, session or base)
                run.check("known_server", _AREA[side], known)
            run.check("way_to_legacy", Area.BASE, lambda: ways.examine_ways(legacy, base, databases, plan))
            run.check("server_pair", Area.BASE, lambda: server_pair.compare_servers(legacy, base))
            run.check("fingerprint_probe", Area.BASE, lambda: probe.examine_probe(legacy, base))
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
    run.check("not_carried", Area.TABLE, lambda: not_carried.examine_not_carried(legacy, spec.table))
    run.check("replica_identity", Area.TABLE, lambda: publication.examine_publication(legacy, spec, description))
    run.check("other_writers", Area.TABLE, lambda: other_writers.examine_both(legacy, base, spec))
    run.check("follower", Area.LEGACY, lambda: foreign_publications.examine_followers(legacy, "legacy", spec))
    if base is not None:
        run.check("follower_in_base", Area.BASE, lambda: foreign_publications.examine_followers(base, "base", spec))
    try:
        description.control_kind(spec.control_column)
    except TableSpecError:
        return  # nothing that follows makes sense; finding `control_column` says why
    run.check("row_hash", Area.LEGACY, lambda: [rehearsal.examine_legacy_hash(legacy, description)])
    run.check("control_values", Area.DATA, lambda: _examine_rows(run, legacy, base, subject))
    if base is None:
        return
    run.check("updates_refused", Area.BASE, lambda: publication.examine_refused_changes(base, "base", spec))
    run.check("base_owner", Area.BASE, lambda: own_schema.examine_owners(base, description))
    before = len(run.findings)
    run.check("types", Area.BASE, lambda: requisites.examine_types(base, description))
    run.check("collations", Area.BASE, lambda: requisites.examine_collations(base, description))
    run.check("type_meaning", Area.BASE, lambda: meaning.examine_values(legacy, base, description))
    run.check("base_table", Area.BASE, lambda: rehearsal.examine_base_table(base, subject))
    run.check("ddl_rehearsal", Area.BASE, lambda: [_rehearse(run, before, base, subject)])


def _rehearse(run: "_Run", before: int, base: Connected, subject: Subject) -> Finding:
    causes = [f.code for f in run.findings[before:] if f.severity is Severity.BLOCKING]
    causes += [] if subject.description.primary_key else ["primary_key"]
    if causes:
        return rehearsal.not_rehearsed(causes)
    quarter = subject.plan.quarter or subject.calendar.quarter_of(subject.plan.as_of)
    return rehearsal.rehearse(base, subject, quarter)


def _examine_rows(run: "_Run", legacy: Connected, base: Connected | None, subject: Subject) -> list[Finding]:
    order = read_physical_order(legacy, subject.spec.table, subject.spec.control_column)
    run.check("control_values", Area.DATA, lambda: data.examine_data(legacy, subject, order))
    if base is not None:
        run.check(
            "beyond_last_partition",
            Area.DATA,
            lambda: runway.examine_runway(legacy, base, subject, order),
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
            remedy = "grant the right or mend what the message says, then run preflight again"
            self.findings.append(judge(code, area, evidence, good=False, remedy=remedy, severity=severity))

    def open(self, stack: ExitStack, databases: Databases, side: Side) -> Connected | None:
        """A session that lives as long as `stack`, or the finding `reachable`."""
        url = databases.url(side)
        try:
            where = _whereabouts(url)
            connection = stack.enter_context(databases.session(side, "preflight", _TIMEOUTS, or_standby=True))
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
            # libpq quotes what it cannot parse, and that may be the password: not a word of it is shown.
            form = "postgresql://user:password@host:port/database"
            remedy = f"write MIGRATION_{side.upper()}_URL as {form}, odd characters percent-encoded"
            evidence = "the URL cannot be read"
            self.findings.append(judge("reachable", _AREA[side], evidence, good=False, remedy=remedy))
            return None
        self.findings.append(info("reachable", _AREA[side], f"{where} answers"))
        self.findings += examine_hosts(url, side, f"MIGRATION_{side.upper()}_URL", "hosts")
        return connection

    def describe(self, legacy: Connected, spec: TableSpec) -> TableDescription | None:
        """The description of an ordinary table, else None and a finding that says why."""
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
    # psycopg leaves it out; a proxy's or a plug-in's message may not.
    password = conninfo_to_dict(url).get("password")
    return text.replace(str(password), "***") if password else text
