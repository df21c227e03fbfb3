"""The tables of a pack: quarters, weeks with both fingerprints, signatures, comparisons, archives, departures."""

from collections.abc import Iterable, Sequence

from migration_assets.domain.evidence_pack import PackFacts, QuarterEvidence, Verdict, WeekEvidence
from migration_assets.domain.fingerprint import Fingerprint
from migration_assets.evidence.markup import Child, Markup, element, named
from migration_assets.evidence.wording import NOTHING, count, instant, size, span, state

_COLOURS = {Verdict.PROVEN: "yes", Verdict.OPEN: "no", Verdict.VOID: "no", Verdict.EMPTY: None}
_STEPS = {
    "detaching": "is leaving the table",
    "quarantined": "out of the table, still kept in the database",
    "dropped": "only in the archive",
    "returned": "back in the table",
}


def quarters_table(facts: PackFacts) -> Markup:
    """One line a quarter."""
    rows = [
        [
            element("a", quarter.quarter.key, href=f"#{quarter.quarter.key}"),
            number(quarter.legacy.rows),
            *_sides(quarter.legacy, quarter.base),
            quarter.signature.approved_by if quarter.signature else NOTHING,
            instant(quarter.signature.signed_at if quarter.signature else None),
            element("span", str(quarter.verdict), class_=_COLOURS[quarter.verdict]),
            number(sum(week.archive is not None for week in quarter.weeks)),
        ]
        for quarter in facts.quarters
    ]
    names = ["quarter", "rows", "checksum in the old database", "checksum in the new database", "same?",
             "signed by", "signed at", "now", "weeks archived"]  # fmt: skip
    return table_of(names, rows)


def weeks_table(quarter: QuarterEvidence) -> Markup:
    """One line a week, and their sum."""
    rows: list[list[Child]] = [_week(week) for week in quarter.weeks]
    rows.append(
        [element("strong", "all"), "", number(quarter.legacy.rows), number(quarter.base.rows),
         *_sides(quarter.legacy, quarter.base), "", "", ""]
    )  # fmt: skip
    names = ["week", "rows from … to before …", "rows, old database", "rows, new database", "checksum, old database",
             "checksum, new database", "same?", "compared at", "comparisons", "state now"]  # fmt: skip
    return table_of(names, rows)


def _week(week: WeekEvidence) -> list[Child]:
    checks = count(week.comparisons, "time") if week.comparisons else NOTHING
    if week.differing:
        checks += f", {week.differing} found differences"
    if week.repairs:
        checks += f", mended {count(week.repairs, 'time')}"
    return [
        week.week.name,
        f"{_day(week.lower_bound)} to {_day(week.upper_bound)}",
        number(week.legacy.rows) if week.legacy else NOTHING,
        number(week.base.rows) if week.base else NOTHING,
        *_sides(week.legacy, week.base),
        instant(week.compared_at),
        checks,
        state(week.state),
    ]


def signatures_table(quarters: Iterable[QuarterEvidence]) -> Markup | None:
    """Every signature that was ever given, the newest first within its quarter."""
    rows: list[list[Child]] = []
    for quarter in quarters:
        for signature in reversed(quarter.signatures):
            newest = signature is quarter.signature
            stands = (
                "stands"
                if newest and not quarter.void
                else "does not stand any more"
                if newest
                else "replaced by a later one"
            )
            rows.append([
                quarter.quarter.key,
                named(signature.approved_by, signature.done_by),
                instant(signature.signed_at),
                signature.note or NOTHING,
                element("span", stands, class_="yes" if stands == "stands" else "no"),
                span(signature.max_age) if signature.max_age else NOTHING,
                "; ".join(f"{_tool(name)} {value}" for name, value in signature.versions.items()) or NOTHING,
                _code(signature.sha256),
            ])  # fmt: skip
    names = ["quarter", "signed by", "signed at", "note", "now", "oldest comparison allowed", "versions at that time",
             "SHA-256 of what was signed"]  # fmt: skip
    return table_of(names, rows) if rows else None


def reconciliations_table(quarters: Iterable[QuarterEvidence]) -> Markup | None:
    """Every comparison of a whole quarter at one moment."""
    rows: list[list[Child]] = [
        [
            quarter.quarter.key,
            instant(one.at),
            element("span", "all 13 weeks the same" if one.equal else "different", class_="yes" if one.equal else "no"),
            number(one.duplicate_keys),
            number(one.marker),
        ]
        for quarter in quarters
        for one in quarter.reconciliations
    ]
    return table_of(["quarter", "compared at", "result", "keys there twice", "marker"], rows) if rows else None


def archives_table(weeks: Iterable[WeekEvidence]) -> Markup | None:
    """Weeks that are kept as files."""
    rows: list[list[Child]] = []
    for week in weeks:
        if (archive := week.archive) is None:
            continue
        found = "as it was written" if archive.verified_equal else "NOT as it was written"
        read = f"{instant(archive.verified_at)}: {found}"
        rows.append([
            week.week.key,
            number(archive.rows),
            f"{size(archive.bytes)} in {count(archive.files, 'file')}",
            _code(archive.checksum),
            instant(archive.archived_at),
            element("span", read, class_="yes" if archive.verified_equal else "no"),
            element("span", archive.location, class_="place"),
            _code(archive.manifest_sha256),
        ])  # fmt: skip
    names = ["week", "rows", "size", "checksum, by two programs", "archived at", "last read again", "where",
             "SHA-256 of its list of files"]  # fmt: skip
    return table_of(names, rows) if rows else None


def departures_table(weeks: Iterable[WeekEvidence]) -> Markup | None:
    """Weeks that left the new database's table."""
    rows: list[list[Child]] = [
        [week.week.key, _STEPS.get(week.departure.step, week.departure.step), instant(week.departure.at)]
        for week in weeks
        if week.departure
    ]
    return table_of(["week", "where its rows are", "since"], rows) if rows else None


def facts_table(pairs: Sequence[tuple[str, Child]]) -> Markup:
    """Names on the left, values on the right."""
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in pairs]
    return element("table", element("tbody", *rows), class_="facts")


def table_of(names: Sequence[str], rows: Iterable[Sequence[Child]]) -> Markup:
    """A head of names, and rows; a column whose first cell is a `number` is set as numbers are."""
    written = list(rows)
    numbers = {place for place, cell in enumerate(written[0]) if _is_cell(cell)} if written else set[int]()
    head = element("tr", *(
        element("th", name, scope="col", class_="number" if place in numbers else None)
        for place, name in enumerate(names)
    ))  # fmt: skip
    body = [element("tr", *(cell if _is_cell(cell) else element("td", cell) for cell in row)) for row in written]
    table = element("table", element("thead", head), element("tbody", *body))
    return element("div", table, class_="wide")


def _is_cell(cell: Child) -> bool:
    return isinstance(cell, Markup) and cell.startswith("<td")


def number(figure: int | str) -> Markup:
    """A cell of a column of numbers."""
    return element("td", figure if isinstance(figure, str) else f"{figure:,}", class_="number")


def _sides(legacy: Fingerprint | None, base: Fingerprint | None) -> tuple[Markup, Markup, Markup]:
    if legacy is None or base is None:
        return element("span", NOTHING), element("span", NOTHING), element("span", "not compared", class_="no")
    same = legacy == base
    return (
        _code(legacy.checksum),
        _code(base.checksum),
        element("span", "same" if same else "DIFFERENT", class_="yes" if same else "no"),
    )


def _code(text: str) -> Markup:
    return element("code", text)


def _day(bound: str) -> str:
    """A bound as the base writes it, without a midnight in UTC that says nothing."""
    return bound.removesuffix("+00").removesuffix(" 00:00:00")


def _tool(name: str) -> str:
    return {
        "postgresql_legacy": "old database: PostgreSQL",
        "postgresql_base": "new database: PostgreSQL",
        "fingerprint": "checksum method",
    }.get(name, name)
