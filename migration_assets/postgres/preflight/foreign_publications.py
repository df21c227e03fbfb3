"""Examines publications of others that will carry this program's own tables to subscribers who have none of them."""

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.postgres.foreign_publications import SUBSCRIBERS_TABLES, foreign_publications
from migration_assets.postgres.preflight.wording import info, listed
from migration_assets.postgres.sessions import Connected, Side


def examine_foreign_publications(connection: Connected, side: Side) -> list[Finding]:
    """One finding for each, which blocks until a person says that its subscribers are prepared."""
    area = Area.LEGACY if side == "legacy" else Area.BASE
    code = "foreign_publication" if side == "legacy" else "foreign_publication_in_base"
    found = foreign_publications(connection)
    if not found:
        return [info(code, area, f"no publication of others carries what this program makes in the {side}")]
    needed = (
        f"on each of its subscribers run: {SUBSCRIBERS_TABLES} (their subscriptions need no REFRESH, and get no rows of"
        " them)"
        if side == "legacy"
        else "its subscribers need every table of the base's schema migration, and every leaf, also while it is loaded:"
        " nobody can prepare for that"
    )
    return [
        Finding(
            code,
            area,
            Severity.BLOCKING,
            f"publication {one.name} FOR {'ALL TABLES' if one.all_tables else 'TABLES IN SCHEMA migration'} carries"
            " this program's own tables: at its first row every subscriber without them stops for good and gets nothing"
            f" of any table any more. Slots of others: {listed(one.slots) or 'none now'}",
            f"{needed}; or take it apart, in the {side}: {one.apart} Then accept it, where it is still there",
            subject=one.name,
            acceptable=True,
            definition="FOR ALL TABLES" if one.all_tables else "FOR TABLES IN SCHEMA migration",
        )
        for one in found
    ]
