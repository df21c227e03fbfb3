"""Examines the connections: what the URLs ask for, where they lead, and whether the base reaches the legacy.

The two URLs must lead to two databases, and to the servers that the ledger knows. A server's standbys are named, with
what it would mean if one of them took its place. No URL is ever shown.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.samples import RECOVER
from migration_assets.postgres.sessions import Connected, Databases, Side, is_standby, require_row
from migration_assets.preflight.plan import PreflightPlan, error_text, info, judge, listed
from migration_assets.stream.servers import changed_server
from migration_assets.stream.slots import has_failover_slots
from migration_assets.stream.way import may_ask_untold, sees_way

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
_LEADS_TO_PRIMARY = {"read-write", "primary"}
# `passfile` is not among them: where our own session has a password, it is passed on to the stream's connection.
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "service", "servicefile")
_CHECKED = "verify-full"
_SYSTEM_ROOTS_SINCE = 16


@dataclass(frozen=True)
class ServersAddress:
    """A URL with which one server reaches the other one.

    Attributes:
        setting: The variable that it comes from.
        url: The URL; it may hold a password.
        to: The side that it leads to; the server of the other side reads it.
        own: Whether `setting` is only for the servers, and not the URL that we use ourselves.
    """

    setting: str
    url: str = field(repr=False)
    to: Side
    own: bool

    @property
    def reader(self) -> Side:
        """The side whose server reads the URL."""
        return "base" if self.to == "legacy" else "legacy"

    @property
    def setting_of_its_own(self) -> str:
        """The variable that would give the servers a URL of their own."""
        return f"MIGRATION_{self.to.upper()}_URL_FOR_{self.reader.upper()}"


def files_of(url: str) -> list[str]:
    """Return the parameters of a URL that name files or services on the host that reads it, by libpq's names."""
    given = _parameters(url)
    return [name for name in _FILES if given.get(name, "system") != "system"]


def examine_hosts(url: str, side: Side, setting: str, code: Literal["hosts", "hosts_between"]) -> list[Finding]:
    """Examine a URL with several hosts: the first that answers is used, unless the URL requires a writable one."""
    given = {**_environment(), **_parameters(url)} if code == "hosts" else _parameters(url)
    names = given.get("host") or given.get("hostaddr") or ""
    hosts = [host for host in names.split(",") if host]
    wanted = given.get("target_session_attrs", "any")
    fine = len(hosts) <= 1 or wanted in _LEADS_TO_PRIMARY
    evidence = f"{setting} names {max(1, len(hosts))} host" + ("s" if len(hosts) > 1 else "")
    if len(hosts) > 1:
        evidence += f" ({listed(hosts)}), target_session_attrs={wanted}"
        evidence += "" if fine else ": it leads to the first that answers, which may be a standby the next time"
    return [
        judge(
            code,
            _AREA[side],
            evidence,
            good=fine,
            remedy=f"add target_session_attrs=read-write to {setting}: then only the primary is used",
            severity=Severity.WARNING,
        )
    ]


def examine_encryption(connection: Connected, side: Side) -> list[Finding]:
    """Examine whether the connection from this machine to a server can be read or impersonated on the way."""
    row = connection.execute(
        "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),"
        " coalesce((SELECT encrypted FROM pg_stat_gssapi WHERE pid = pg_backend_pid()), false)"
    ).fetchone()
    tls, gss = require_row(row, "the connection's encryption")
    used = {**_environment(), **connection.info.get_parameters()}
    return [judge_encryption(side, connection.info.hostaddr or connection.info.host, used, tls=tls, gss=gss)]


def judge_encryption(side: Side, host: str, used: Mapping[str, str], *, tls: bool, gss: bool) -> Finding:
    """Judge the encryption of one connection.

    Args:
        side: The side that it leads to.
        host: The host that was reached: an address, or the folder of a socket.
        used: The connection's parameters, by libpq's names.
        tls: Whether it uses TLS.
        gss: Whether it uses GSSAPI encryption.
    """
    setting = f"MIGRATION_{side.upper()}_URL"
    how = "TLS" if tls else "GSSAPI encryption" if gss else "no encryption"
    evidence = f"{setting} asks for {_asked(used)}; the connection has {how}"
    here = _is_here(host)
    if here:
        evidence += f", and the {side} is reached on this machine itself"
    return _judge_encryption("encryption", side, evidence, good=here or gss or (tls and _is_checked(used)))


def examine_encryption_between(address: ServersAddress) -> list[Finding]:
    """Judge the connection that one server opens to the other, by what its URL asks for."""
    given = _parameters(address.url)
    hosts = (given.get("hostaddr") or given.get("host") or "").split(",")
    if all(_is_here(host) for host in hosts):
        evidence = f"with {address.setting} the {address.reader}'s server looks for the {address.to} on its own host"
        return [info("encryption_between", _AREA[address.to], evidence)]
    evidence = f"the {address.reader}'s server reaches the {address.to} with {_asked(given)}, from {address.setting}"
    evidence += "; neither PGSSLMODE nor any other variable of this machine applies there"
    return [_judge_encryption("encryption_between", address.to, evidence, good=_is_checked(given))]


def _asked(given: Mapping[str, str]) -> str:
    asked = [f"sslmode={given.get('sslmode', 'prefer')}"]
    return ", ".join(asked + [f"{name}={given[name]}" for name in ("channel_binding", "gssencmode") if name in given])


def _is_checked(given: Mapping[str, str]) -> bool:
    """Return whether the server is authenticated: by its certificate, or by its knowledge of our password."""
    return given.get("sslmode") == _CHECKED or given.get("channel_binding") == "require"


def _judge_encryption(code: str, side: Side, evidence: str, *, good: bool) -> Finding:
    return judge(
        code,
        _AREA[side],
        evidence,
        good=good,
        remedy=f"passwords and rows are sent there: put sslmode={_CHECKED} and sslrootcert=… into the URL"
        f" (sslrootcert=system from PostgreSQL {_SYSTEM_ROOTS_SINCE} on, where a public authority signed), or"
        " sslmode=require with channel_binding=require; the server needs ssl = on and a certificate with its name."
        " Anything less does not authenticate the server",
        severity=Severity.WARNING,
    )


def examine_files(address: ServersAddress, *, works: bool) -> list[Finding]:
    """Examine files that a server's URL names: they lie on that server's host, not on this machine.

    Args:
        address: The URL that the server reads.
        works: Whether the server was seen to connect with it.
    """
    files = files_of(address.url)
    where = f"on the host of the {address.reader}'s server, where its own user must be able to read it"
    named = f"{address.setting} names {' and '.join(files)}: read {where}"
    return [
        judge(
            "files_of_the_other_host",
            _AREA[address.reader],
            named + ("; they exist there: it connects" if works else "")
            if files
            else f"{address.setting} names no file that would have to lie on the host of the {address.reader}'s server",
            good=works or not files,
            remedy=(f"put the path on that host into {address.setting}" if address.own else
                    f"set {address.setting_of_its_own} to a URL whose {' and '.join(files) or 'files'} are paths on"
                    " that host")
            + f" (sslrootcert=system, from PostgreSQL {_SYSTEM_ROOTS_SINCE} on, needs no file)",
            severity=Severity.WARNING,
        )
    ]  # fmt: skip


def encryption_remedy(url: str, said: str) -> str | None:
    """Return what to do where a connection failed because of TLS or GSSAPI; None where it failed otherwise.

    Args:
        url: The connection's URL.
        said: The text of the error.
    """
    if not any(word in said for word in ("SSL", "certificate", "GSSAPI", "channel binding", "sslmode")):
        return None
    mode = {**_environment(), **_parameters(url)}.get("sslmode", "prefer")
    return (
        f"the connection asks for sslmode={mode}, which the server or its certificate does not fit: switch TLS on"
        " there (ssl = on, ssl_cert_file, ssl_key_file, then pg_reload_conf()), with a certificate for the name in the"
        " URL, and let sslrootcert name the authority that signed it, on the host that connects; lower the sslmode only"
        " where nobody can listen on the way"
    )


def _is_here(host: str) -> bool:
    """Return whether a host, as libpq takes it, is the machine on which it is read."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host.split("%", maxsplit=1)[0]).is_loopback
    except ValueError:
        return False


def _parameters(url: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}


def _environment() -> dict[str, str]:
    """Return the parameters that libpq takes from this machine's environment."""
    return {
        one.keyword.decode(): one.val.decode()
        for one in psycopg.pq.Conninfo.get_defaults()
        if one.val is not None and one.val != one.compiled
    }


def servers_addresses(databases: Databases, plan: PreflightPlan) -> tuple[ServersAddress, ServersAddress]:
    """Return how the base's server reaches the legacy, and how the legacy's server reaches the base."""
    legacy, base = plan.legacy_url_for_base, plan.base_url_for_legacy
    return (
        ServersAddress("MIGRATION_LEGACY_URL_FOR_BASE", legacy, "legacy", True)
        if legacy
        else ServersAddress("MIGRATION_LEGACY_URL", databases.legacy_url, "legacy", False),
        ServersAddress("MIGRATION_BASE_URL_FOR_LEGACY", base, "base", True)
        if base
        else ServersAddress("MIGRATION_BASE_URL", databases.base_url, "base", False),
    )


def examine_ways(legacy: Connected, base: Connected, databases: Databases, plan: PreflightPlan) -> list[Finding]:
    """Examine both ways. The way to the base is only tried before a cutover: preflight writes nothing to the legacy."""
    to_legacy, to_base = servers_addresses(databases, plan)
    found = _try_way(legacy, base, to_legacy)
    works = [finding for finding in found if finding.severity is Severity.INFO]
    for address in (to_legacy, to_base):
        if address.own:
            found += examine_hosts(address.url, address.to, address.setting, "hosts_between")
        found += examine_encryption_between(address)
        found += examine_files(address, works=address is to_legacy and bool(works))
    return found


def _try_way(legacy: Connected, base: Connected, address: ServersAddress) -> list[Finding]:
    """Try a subscription that is rolled back, and look for its connection on the legacy."""
    if is_standby(base) or is_standby(legacy):
        return []  # another finding reports the standby, which cannot be tried
    way = f"the base's server, with {address.setting},"
    if not may_ask_untold(base):
        return [
            info(
                "way_to_legacy",
                Area.BASE,
                f"{way} was not tried: the base's log would contain the password, unless our role may keep it out"
                " (GRANT SET ON PARAMETER log_min_messages)",
            )
        ]
    try:
        seen = sees_way(legacy, base, address.url)
    except (errors.InsufficientPrivilege, errors.FeatureNotSupported) as error:
        return [
            judge(
                "way_to_legacy",
                Area.BASE,
                f"{way} was not tried: {error_text(error)}",
                good=False,
                remedy="resolve subscription_right and base_rights, then run preflight again",
                severity=Severity.WARNING,
            )
        ]
    except psycopg.Error as error:
        if base.closed or legacy.closed:
            raise
        said = error_text(error)
        remedy = encryption_remedy(address.url, said) or (
            f"set {address.setting_of_its_own} to the legacy as the base's own host reaches it, with a password"
            " (localhost is that host itself); firewall and pg_hba.conf of the legacy must let that host in, for the"
            " database as for replication"
        )
        evidence = f"{way} does not reach the legacy: {said}"
        return [judge("way_to_legacy", Area.BASE, evidence, good=False, remedy=remedy)]
    if seen:
        return [info("way_to_legacy", Area.BASE, f"{way} reaches the legacy: its connection was seen there")]
    return [
        judge(
            "way_to_legacy",
            Area.BASE,
            f"{way} reaches a database, but its connection was not seen in the legacy: it is another one",
            good=False,
            remedy=f"set {address.setting_of_its_own} to the legacy as the base's own host reaches it (localhost is"
            " that host itself), and the same database; the start of the stream checks this again, and refuses",
            severity=Severity.WARNING,
        )
    ]


def examine_two_databases(legacy: Connected, base: Connected) -> list[Finding]:
    """Examine whether the URLs lead to two databases; identifiers are not enough, because a clone has the same ones."""
    of_legacy, of_base = _identifiers(legacy), _identifiers(base)
    if of_legacy == of_base and _is_seen(legacy, base):
        evidence = f"both URLs lead to the same database: {_name(base)} on the server {of_base[0]}"
    elif of_legacy == of_base and (is_standby(legacy) or is_standby(base)):
        follower, other = ("legacy", "base") if is_standby(legacy) else ("base", "legacy")
        evidence = f"the {follower}'s URL leads to a standby of the {other}: the same database in another place"
    else:
        where = "on one server" if of_legacy[0] == of_base[0] else "on two servers"
        return [info("two_databases", Area.BASE, f"{_name(legacy)} and {_name(base)} are two databases {where}")]
    remedy = (
        "let MIGRATION_LEGACY_URL lead to the database that has the table, and MIGRATION_BASE_URL to the new one that"
        " will have it; nothing can be moved from a database into itself"
    )
    return [judge("two_databases", Area.BASE, evidence, good=False, remedy=remedy)]


def examine_known_server(base: Connected, relation: str, side: Side, connection: Connected) -> list[Finding]:
    """Examine whether the server that answers is the one that the stream was built on, and not a copy or a restore."""
    if is_standby(connection) or is_standby(base):
        return []  # another finding reports the standby, whose WAL is not its own
    found = changed_server(base, relation, side, connection)
    which = "this ledger was written in another base: this one is a copy of it (a fork), or the base was moved"
    return [
        judge(
            "known_server",
            _AREA[side],
            (f"{which}; " if side == "base" else "") + "; ".join(found)
            if found
            else f"the ledger knows no other server as the {side}",
            good=not found,
            remedy=f"if this is a copy or another server by mistake, correct MIGRATION_{side.upper()}_URL: two bases"
            f" with one ledger must never follow one legacy, nor write one archive. If this server is the {side} from"
            f" now on: {RECOVER}",
        )
    ]


def _identifiers(connection: Connected) -> tuple[str, int]:
    row = connection.execute(
        "SELECT c.system_identifier::text, d.oid::bigint FROM pg_control_system() c, pg_database d"
        " WHERE d.datname = current_database()"
    ).fetchone()
    system, database = require_row(row, "the server")
    return str(system), int(database)


def _is_seen(one: Connected, other: Connected) -> bool:
    """Return whether both sessions are on one running server: then each sees what the other locks."""
    key = secrets.randbits(31), secrets.randbits(31)
    with one.transaction():
        one.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
        row = other.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s"
            " AND objsubid = 2 AND pid = %s)",
            [*key, one.info.backend_pid],
        ).fetchone()
    return bool(require_row(row, "a lock")[0])


def _name(connection: Connected) -> str:
    return f"{connection.info.dbname} on {connection.info.host}:{connection.info.port}"


# A walsender of logical changes belongs to a database, with or without a slot; one to a standby belongs to none. The
# names of physical slots are what synchronized_standby_slots needs.
_STANDBYS = """
SELECT (SELECT count(*) FROM pg_stat_replication r JOIN pg_stat_activity a USING (pid) WHERE a.datid IS NULL),
       (SELECT array_agg(slot_name::text ORDER BY slot_name) FROM pg_replication_slots WHERE slot_type = 'physical'),
       coalesce(current_setting('synchronized_standby_slots', true), '')
"""
_AFTER = "afterwards `migration-assets stream recover --by NAME` trues up every week, and every step waits for it"


def examine_standbys(connection: Connected, side: Side) -> list[Finding]:
    """Return one finding: no standbys, or how many there are and what a failover would cost the stream."""
    running, found, waited_for = require_row(connection.execute(_STANDBYS).fetchone(), "the standbys")
    slots: list[str] = found or []
    if not running and not slots:
        return [info("standbys", _AREA[side], f"the {side} has no standby and no physical slot")]
    seen = f"{running} standbys follow the {side}, {len(slots)} physical slots" + (
        f" ({', '.join(slots)})" if slots else ""
    )
    if side == "base":
        evidence = f"{seen}: one that lags when it is promoted lacks changes that the stream does not send again"
        remedy = f"before a planned switchover let it catch up; {_AFTER}"
    elif not has_failover_slots(connection):
        evidence = f"{seen}: before PostgreSQL 17 a failover loses the stream's slot"
        remedy = f"plan switchovers of the legacy outside of the migration; {_AFTER}"
    elif waited_for.strip():
        evidence = f"{seen}: the stream's slot survives a failover to one that synchronizes slots, and the base is"
        evidence += f" never ahead of {waited_for}"
        return [info("standbys", _AREA[side], evidence)]
    else:
        evidence = f"{seen}: the stream's slot may survive a failover, but the base may be ahead of the standby by then"
        names = ", ".join(slots) or "the standby's slot"
        remedy = (
            f"ALTER SYSTEM SET synchronized_standby_slots = '{names}'; SELECT pg_reload_conf(); and on the standby"
            " sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name, and dbname in"
            f" primary_conninfo; {_AFTER}"
        )
    return [Finding("standbys", _AREA[side], Severity.WARNING, evidence, remedy)]
