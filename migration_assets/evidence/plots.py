"""The four plots of a pack, each with a sentence that says what to look for, or why there is nothing to see."""

from migration_assets.domain.evidence_pack import PackFacts, QuarterEvidence, WeekEvidence
from migration_assets.evidence.markup import Markup, element, joined
from migration_assets.evidence.svg import Bar, Limit, bars, over_time
from migration_assets.evidence.wording import count, milliseconds

_HOUR = 3600.0


def plots(facts: PackFacts) -> Markup:
    """All four."""
    return joined(_throughput(facts), _lag(facts), _holds(facts), _ages(facts))


def _throughput(facts: PackFacts) -> Markup:
    data = [Bar(week.week.name, week.week.quarter.key, week.megabytes_per_second) for week in facts.weeks]
    known = sorted(bar.value for bar in data if bar.value is not None)
    if not known:
        return _empty(
            "How fast each week was copied", "No week was copied by a bulk copy; small weeks came as single rows."
        )
    said = (
        f"Megabytes of table a second (1 MB = 1,000,000 bytes), comparison included; the middle one is"
        f" {known[len(known) // 2]:,.1f} MB/s. Weeks without a bar came as single rows, without a bulk copy."
    )
    return _figure(
        "How fast each week was copied", said, bars(data, title="Throughput per week", y="MB a second", x="fiscal week")
    )


def _lag(facts: PackFacts) -> Markup:
    title = "How far the new database was behind the old one"
    known = [reading.value for reading in facts.lags if reading.value is not None]
    if not known:
        return _empty(
            title, "No measurement is kept: nobody watched the change stream, or it was longer ago than they are kept."
        )
    said = (
        f"Seconds between a change in the old database and the same change in the new one; the longest is"
        f" {max(known):,.2f} s. Each point is the worst of its stretch of time; a gap is a time without a measurement."
    )
    return _figure(
        title, said, over_time(facts.lags, title="Lag over time", y="seconds behind", x="time (UTC)", dots=False)
    )


def _holds(facts: PackFacts) -> Markup:
    title = "How long users of the old database had to wait for a comparison"
    if facts.costs is None or not facts.holds:
        return _empty(title, "No comparison at a common moment was made yet.")
    costs = facts.costs
    said = (
        f"To compare both databases at exactly the same point, writing to the old table is held for a moment. Over"
        f" {count(costs.cuts, 'such moment')}: half of them lasted at most {milliseconds(costs.median)}, 99 of 100 at"
        f" most {milliseconds(costs.p99)}, the longest {milliseconds(costs.longest)}. Reading was never held."
    )
    return _figure(
        title, said, over_time(facts.holds, title="Writers held", y="milliseconds", x="time (UTC)", dots=True)
    )


def _ages(facts: PackFacts) -> Markup:
    title = "How old each week's comparison was when it was relied upon"
    data = [
        Bar(week.week.name, quarter.quarter.key, _age(facts, quarter, week))
        for quarter in facts.quarters
        for week in quarter.weeks
    ]
    if all(bar.value is None for bar in data):
        return _empty(title, "No week was compared exactly yet.")
    limits = {q.signature.max_age for q in facts.quarters if q.signature and q.signature.max_age}
    highest = max(bar.value for bar in data if bar.value is not None)
    limit, more = None, ""
    if len(limits) == 1:
        hours = limits.pop().total_seconds() / _HOUR
        more = f" A signature is refused where one is older than {hours:,.0f} hours."
        if highest > hours / 10:
            limit = Limit(hours, f"oldest that may be signed: {hours:,.0f} hours")
    unit, factor = (
        ("hours", 1.0) if highest >= 1 or limit else ("minutes", 60.0) if highest * 60 >= 1 else ("seconds", _HOUR)
    )
    scaled = [Bar(bar.name, bar.group, None if bar.value is None else bar.value * factor) for bar in data]
    said = (
        f"{unit.capitalize()} between the exact comparison of a week and the signature that rests on it; for weeks"
        f" that nobody signed, until this page was written.{more}"
    )
    return _figure(title, said, bars(scaled, title="Age of comparisons", y=unit, x="fiscal week", limit=limit))


def _age(facts: PackFacts, quarter: QuarterEvidence, week: WeekEvidence) -> float | None:
    if week.compared_at is None:
        return None
    stands = quarter.signature is not None and not quarter.void
    until = quarter.signature.signed_at if stands and quarter.signature else facts.written_at
    return abs((until - week.compared_at).total_seconds()) / _HOUR


def _figure(title: str, said: str, svg: Markup) -> Markup:
    return element("figure", element("h3", title), svg, element("figcaption", said))


def _empty(title: str, why: str) -> Markup:
    return element("figure", element("h3", title), element("p", why, class_="empty"))
