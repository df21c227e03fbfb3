"""The connections between the two servers: what their URLs ask for, and whether the base reaches the legacy."""

import psycopg
from psycopg import errors

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.sessions import Connected, Databases, is_standby
from migration_assets.preflight.addresses import (
    ServersAddress,
    encryption_remedy,
    examine_encryption_between,
    examine_files,
    examine_hosts,
)
from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.wording import error_text, info, judge
from migration_assets.stream.way import may_ask_untold, sees_way


def servers_addresses(databases: Databases, plan: PreflightPlan) -> tuple[ServersAddress, ServersAddress]:
    """The legacy as the base's server reaches it, and the base as the legacy's does."""
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
    """Both; the way back is only tried before a cutover, since nothing of ours writes to the legacy here."""
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
    """A subscription that is rolled back, and its connection as the legacy sees it."""
    if is_standby(base) or is_standby(legacy):
        return []  # another finding says so, and neither can be asked
    way = f"the base's server, with {address.setting},"
    if not may_ask_untold(base):
        return [
            info(
                "way_to_legacy",
                Area.BASE,
                f"{way} was not tried: the base's log would have the password, unless our role is let keep it out"
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
                remedy="mend subscription_right and base_rights, then run preflight again",
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
            f"{way} reaches a database, and its connection was never seen in the legacy: it is another one",
            good=False,
            remedy=f"set {address.setting_of_its_own} to the legacy as the base's own host reaches it (localhost is"
            " that host itself), and the same database; a start of the stream asks once more, and refuses",
            severity=Severity.WARNING,
        )
    ]
