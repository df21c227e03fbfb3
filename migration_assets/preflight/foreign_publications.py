"""Examines who else follows either side: whom this program's own tables may stop, and who will miss rows."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import TableSpec
from migration_assets.postgres.own_schema import in_own_schema, own_schema
from migration_assets.postgres.sessions import Connected, Side
from migration_assets.preflight.wording import info, listed
from migration_assets.stream.foreign_publications import SUBSCRIBERS_TABLES, followers, foreign_publications


def examine_foreign_publications(connection: Connected, side: Side) -> list[Finding]:
    """One finding for each, which blocks until a person says that its subscribers are prepared."""
    area = Area.LEGACY if side == "legacy" else Area.BASE
    code = "foreign_publication" if side == "legacy" else "foreign_publication_in_base"
    found = foreign_publications(connection)
    if not found:
        return [info(code, area, f"no publication of others carries what this program makes in the {side}")]
    everything, ours = "FOR ALL TABLES", f"FOR TABLES IN SCHEMA {own_schema(connection)}"
    needed = (
        f"on each of its subscribers run: {in_own_schema(connection, SUBSCRIBERS_TABLES)} (their subscriptions need no"
        " REFRESH, and get no rows of them)"
        if side == "legacy"
        else f"its subscribers need every table of the base's schema {own_schema(connection)}, and every leaf, also"
        " while it is loaded: nobody can prepare for that"
    )
    return [
        Finding(
            code,
            area,
            Severity.BLOCKING,
            f"publication {one.name} {everything if one.all_tables else ours} carries this program's own"
            " tables: at its first row every subscriber without them stops for good and gets nothing of any table any"
            f" more. Slots of others: {listed(one.slots) or 'none now'}",
            f"{needed}; or take it apart, in the {side}: {one.apart} Then accept it, where it is still there",
            subject=one.name,
            acceptable=True,
            definition=everything if one.all_tables else ours,
        )
        for one in found
    ]


def examine_followers(connection: Connected, side: Side, spec: TableSpec) -> list[Finding]:
    """One finding for each who is sent the table's changes.

    On the base it blocks until a person accepts it: that follower will lack rows, and nobody else would tell him.
    """
    area = Area.LEGACY if side == "legacy" else Area.BASE
    code = "follower" if side == "legacy" else "follower_in_base"
    found = followers(connection, spec.table)
    if not found:
        return [info(code, area, f"nobody else follows {spec.table} of the {side}")]
    findings: list[Finding] = []
    for one in found:
        evidence = (
            f"{one.what} sends the changes of {spec.table} to others; their slots: {listed(one.slots) or 'none now'}"
        )
        if side == "legacy":
            evidence += (
                ". While the legacy follows after a cutover, its rows come by an apply worker: a subscription with"
                " origin = none gets none of them; and from the decommission on nobody gets any"
            )
            remedy = "let these readers change to the base, with a fresh copy, before the legacy is decommissioned"
            findings.append(Finding(code, area, Severity.WARNING, evidence, remedy))
            continue
        evidence += (
            ". They get what the stream, a repair, a rollback or an application changes row by row. They never get what"
            " comes with a whole leaf (a copy, also a live one, a restore) nor the end of one (a retirement, a swap)"
        )
        if one.by_leaf:
            evidence += (
                "; and each change comes under its leaf's name, at whose first row a subscriber without it stops"
            )
        remedy = (
            "let them begin once the weeks are copied, with a fresh copy, and again after each live copy, restore or"
            " retirement"
            + ("; with publish_via_partition_root = true they need the root alone" if one.by_leaf else "")
            + "; then accept it"
        )
        made_of = f"{one.what} by {'leaf' if one.by_leaf else 'root'}"
        findings.append(
            Finding(code, area, Severity.BLOCKING, evidence, remedy, one.name, acceptable=True, definition=made_of)
        )
    return findings
