"""What the connection URLs ask for: which of several hosts, encryption, and files; no URL is ever shown.

A URL of ours is read by this machine's libpq. One for the stream is read by the other server's, for as long as the
migration lasts: with that host's files and names, and without this machine's environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.sessions import Connected, Side, require_row
from migration_assets.preflight.wording import info, judge, listed

_AREA: dict[Side, Area] = {"legacy": Area.LEGACY, "base": Area.BASE}
_LEADS_TO_PRIMARY = {"read-write", "primary"}
# `passfile` is not among them: where our own session has a password, the stream's connection is given it.
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "service", "servicefile")
_CHECKED = "verify-full"
_SYSTEM_ROOTS_SINCE = 16


@dataclass(frozen=True)
class ServersAddress:
    """A URL with which one server reaches the other one.

    Args:
        setting: The variable that it comes from.
        url: It; may hold a password.
        to: The side that it leads to; the other one's server reads it.
        own: Whether `setting` is for the servers alone, and not the URL that we use ourselves.
    """

    setting: str
    url: str = field(repr=False)
    to: Side
    own: bool

    @property
    def reader(self) -> Side:
        """Whose server reads it."""
        return "base" if self.to == "legacy" else "legacy"

    @property
    def setting_of_its_own(self) -> str:
        """The variable that gives the servers a URL of their own."""
        return f"MIGRATION_{self.to.upper()}_URL_FOR_{self.reader.upper()}"


def files_of(url: str) -> list[str]:
    """The parameters of a URL that name something on the host that reads it, in libpq's words."""
    given = _parameters(url)
    return [name for name in _FILES if given.get(name, "system") != "system"]


def examine_hosts(url: str, side: Side, setting: str, code: Literal["hosts", "hosts_between"]) -> list[Finding]:
    """Of several hosts, whichever answers first is taken, unless the URL says that it must take writes."""
    given = {**_environment(), **_parameters(url)} if code == "hosts" else _parameters(url)
    names = given.get("host") or given.get("hostaddr") or ""
    hosts = [host for host in names.split(",") if host]
    wanted = given.get("target_session_attrs", "any")
    fine = len(hosts) <= 1 or wanted in _LEADS_TO_PRIMARY
    evidence = f"{setting} names {max(1, len(hosts))} host" + ("s" if len(hosts) > 1 else "")
    if len(hosts) > 1:
        evidence += f" ({listed(hosts)}), target_session_attrs={wanted}"
        evidence += "" if fine else ": it leads to whichever answers first, which may be a standby the next time"
    return [
        judge(
            code,
            _AREA[side],
            evidence,
            good=fine,
            remedy=f"add target_session_attrs=read-write to {setting}: then only the primary is taken",
            severity=Severity.WARNING,
        )
    ]


def examine_encryption(connection: Connected, side: Side) -> list[Finding]:
    """Whether somebody on the way between this machine and a server could read along, or answer in its place."""
    row = connection.execute(
        "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),"
        " coalesce((SELECT encrypted FROM pg_stat_gssapi WHERE pid = pg_backend_pid()), false)"
    ).fetchone()
    tls, gss = require_row(row, "the connection's encryption")
    used = {**_environment(), **connection.info.get_parameters()}
    return [judge_encryption(side, connection.info.hostaddr or connection.info.host, used, tls=tls, gss=gss)]


def judge_encryption(side: Side, host: str, used: Mapping[str, str], *, tls: bool, gss: bool) -> Finding:
    """What one connection's encryption is worth.

    Args:
        side: Where it leads.
        host: Whom it reached: an address, or the folder of a socket.
        used: Its parameters, in libpq's words.
        tls: Whether it has TLS.
        gss: Whether it has GSSAPI's encryption.
    """
    setting = f"MIGRATION_{side.upper()}_URL"
    how = "TLS" if tls else "GSSAPI's encryption" if gss else "no encryption"
    evidence = f"{setting} asks for {_asked(used)}; the connection has {how}"
    here = _is_here(host)
    if here:
        evidence += f", and the {side} is reached on this machine itself"
    return _judge_encryption("encryption", side, evidence, good=here or gss or (tls and _is_checked(used)))


def examine_encryption_between(address: ServersAddress) -> list[Finding]:
    """The same of the connection that one server opens to the other: by what its URL asks for."""
    given = _parameters(address.url)
    hosts = (given.get("hostaddr") or given.get("host") or "").split(",")
    if all(_is_here(host) for host in hosts):
        evidence = f"with {address.setting} the {address.reader}'s server looks for the {address.to} on its own host"
        return [info("encryption_between", _AREA[address.to], evidence)]
    evidence = f"the {address.reader}'s server reaches the {address.to} with {_asked(given)}, out of {address.setting}"
    evidence += "; neither PGSSLMODE nor any other variable of this machine reaches that server"
    return [_judge_encryption("encryption_between", address.to, evidence, good=_is_checked(given))]


def _asked(given: Mapping[str, str]) -> str:
    asked = [f"sslmode={given.get('sslmode', 'prefer')}"]
    return ", ".join(asked + [f"{name}={given[name]}" for name in ("channel_binding", "gssencmode") if name in given])


def _is_checked(given: Mapping[str, str]) -> bool:
    """Whether it is asked who answers: by his certificate, or by what he keeps of our password."""
    return given.get("sslmode") == _CHECKED or given.get("channel_binding") == "require"


def _judge_encryption(code: str, side: Side, evidence: str, *, good: bool) -> Finding:
    return judge(
        code,
        _AREA[side],
        evidence,
        good=good,
        remedy=f"passwords and rows travel there: put sslmode={_CHECKED} and sslrootcert=… into the URL"
        f" (sslrootcert=system from PostgreSQL {_SYSTEM_ROOTS_SINCE} on, where a public authority signed), or"
        " sslmode=require with channel_binding=require; the server needs ssl = on and a certificate of its name."
        " Less than that does not ask who answers",
        severity=Severity.WARNING,
    )


def examine_files(address: ServersAddress, *, works: bool) -> list[Finding]:
    """Files that a server's URL names lie on that server's host, not on this machine.

    Args:
        address: Of the servers.
        works: Whether the server was seen to connect with it.
    """
    files = files_of(address.url)
    where = f"on the host of the {address.reader}'s server, where its own user must be able to read it"
    named = f"{address.setting} names {' and '.join(files)}: read {where}"
    return [
        judge(
            "files_of_the_other_host",
            _AREA[address.reader],
            named + ("; they are there: it connects" if works else "")
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
    """What to do where a connection failed over TLS or GSSAPI; None where it did not.

    Args:
        url: Of the connection.
        said: The error.
    """
    if not any(word in said for word in ("SSL", "certificate", "GSSAPI", "channel binding", "sslmode")):
        return None
    mode = {**_environment(), **_parameters(url)}.get("sslmode", "prefer")
    return (
        f"the connection asks for sslmode={mode}, and the server or its certificate does not go with it: switch TLS on"
        " there (ssl = on, ssl_cert_file, ssl_key_file, then pg_reload_conf()), with a certificate of the name in the"
        " URL, and let sslrootcert name the authority that signed it, on the host that connects; lower the sslmode only"
        " where nobody can listen on the way"
    )


def _is_here(host: str) -> bool:
    """Whether a host, as libpq takes it, is the machine that it is read on."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host.split("%", maxsplit=1)[0]).is_loopback
    except ValueError:
        return False


def _parameters(url: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}


def _environment() -> dict[str, str]:
    """What libpq takes from this machine's environment."""
    return {
        one.keyword.decode(): one.val.decode()
        for one in psycopg.pq.Conninfo.get_defaults()
        if one.val is not None and one.val != one.compiled
    }
