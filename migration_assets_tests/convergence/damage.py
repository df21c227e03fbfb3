"""Damage done to the base behind the migration's back, and what a comparison must say of it: no more and no less.

Belongs here: one function a kind, on reserved rows alone, so that the stream never covers a damage up. What is expected
comes from the rows' texts before and after, and so owes nothing to fingerprints or hashes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

from migration_assets.domain.fingerprint import Difference, Differences, Kind
from migration_assets.domain.fiscal_calendar import FiscalQuarter, FiscalWeek
from migration_assets.postgres.sessions import Connected
from migration_assets_tests.convergence.table import CALENDAR, COLUMNS, WRITTEN, reserved_ids, week_of

FIRST_EXTRA = 5_000_000
"""Ids that the legacy never has."""
SAMPLE = 20
"""Rows that a comparison shows of a week."""

_READ = f"SELECT {', '.join(f'{name}::text' for name in COLUMNS)} FROM public.bookings WHERE id = ANY(%s) ORDER BY 1, 2"
_INSERT = f"INSERT INTO public.bookings ({', '.join(WRITTEN)}) SELECT {{}} FROM public.bookings WHERE id = %s"

Key = tuple[str, str]
"""Id and booked_at, as text."""

Line = tuple[Kind, Key, frozenset[str]]
"""What is wrong with one row; the columns of a changed one."""


@dataclass
class Expected:
    """What a comparison must report: lines by week; `places` are the weeks of each row of a damaged id, after it."""

    lines: dict[FiscalWeek, set[Line]] = field(default_factory=dict[FiscalWeek, set[Line]])
    places: dict[str, list[FiscalWeek]] = field(default_factory=dict[str, list[FiscalWeek]])
    names: list[str] = field(default_factory=list[str])

    def add(self, other: "Expected") -> None:
        for week, lines in other.lines.items():
            self.lines.setdefault(week, set()).update(lines)
        self.places |= other.places
        self.names += other.names

    @property
    def weeks(self) -> list[FiscalWeek]:
        return sorted(week for week, lines in self.lines.items() if lines)

    def twice_in(self, quarter: FiscalQuarter) -> set[str]:
        """The ids that are more than once in the base's quarter."""
        return {id_ for id_, weeks in self.places.items() if sum(week.quarter == quarter for week in weeks) > 1}

    def require(self, week: FiscalWeek, found: Differences, where: str) -> None:
        """Fail unless `found` says of the week exactly what is wrong with it, and shows it."""
        self.require_counts(week, found, where)
        lines = self.lines.get(week, set())
        sample = {line_of(difference) for difference in found.sample}
        assert len(sample) == len(found.sample), f"{where}: {week}'s sample shows a row twice: {found.sample}"
        assert len(sample) == min(len(lines), SAMPLE), f"{where}: {week}'s sample has {len(sample)} of {len(lines)}"
        assert sample <= lines, f"{where}: {week} reports {describe(sample - lines)}, expected {describe(lines)}"

    def require_counts(self, week: FiscalWeek, found: Differences, where: str) -> None:
        """Fail unless `found` counts exactly what is wrong with the week; a repair shows no rows."""
        lines = self.lines.get(week, set())
        counts = {kind: sum(line[0] is kind for line in lines) for kind in Kind}
        actual = {Kind.MISSING: found.missing, Kind.EXTRA: found.extra, Kind.CHANGED: found.changed}
        assert actual == counts, f"{where}: {week} has {found}, expected {describe(lines)}; sample {found.sample}"


def describe(lines: Iterable[Line]) -> str:
    """For an assertion's message."""
    return "; ".join(f"{kind} {key} {sorted(columns)}" for kind, key, columns in sorted(lines, key=str)) or "nothing"


def line_of(difference: Difference) -> Line:
    """A reported difference in our terms."""
    key = (difference.key["id"], difference.key["booked_at"])
    return difference.kind, key, frozenset(difference.columns)


class Vandal:
    """Damages reserved rows of the weeks it is given, each row once until it is told that all is healed."""

    def __init__(self, random: Random, weeks: Iterable[FiscalWeek]) -> None:
        self.random = random
        self.weeks = list(weeks)
        self._next_extra = FIRST_EXTRA
        self._free: dict[FiscalWeek, list[int]] = {}
        self.healed()

    def healed(self) -> None:
        """All reserved rows are as they were."""
        self._free = {week: list(reserved_ids(week)) for week in self.weeks}
        for ids in self._free.values():
            self.random.shuffle(ids)

    def take(self, week: FiscalWeek) -> int:
        """A reserved row that is still sound."""
        return self._free[week].pop()

    def extra_id(self) -> int:
        """An id that no row has."""
        self._next_extra += 1
        return self._next_extra

    def other_week(self, week: FiscalWeek) -> FiscalWeek:
        """Another one of the weeks."""
        return self.random.choice([other for other in self.weeks if other != week])

    def inject(self, base: Connected, name: str, week: FiscalWeek) -> Expected:
        """Do one damage in one transaction; the session must print times in UTC."""
        with base.transaction():
            touched, damage = DAMAGES[name](self, week)
            before = _rows(base, touched)
            damage(base)
            after = _rows(base, touched)
        expected = Expected(names=[f"{name} in {week}"])
        for key in before.keys() | after.keys():
            old, new = before.get(key), after.get(key)
            lines = expected.lines.setdefault(week_of(key[1]), set())
            if old is None:
                lines.add((Kind.EXTRA, key, frozenset()))
            elif new is None:
                lines.add((Kind.MISSING, key, frozenset()))
            elif old != new:
                columns = frozenset(c for c, a, b in zip(COLUMNS, old, new, strict=True) if a != b)
                lines.add((Kind.CHANGED, key, columns))
        for id_, at in after:
            expected.places.setdefault(id_, []).append(week_of(at))
        assert any(expected.lines.values()), f"{name} damaged nothing in {week}"
        return expected


Damage = Callable[[Connected], object]
"""Done within a transaction of the base."""


def _rows(base: Connected, ids: list[int]) -> dict[Key, tuple[object, ...]]:
    return {(row[0], row[1]): row for row in base.execute(_READ.encode(), [ids]).fetchall()}


def _change(expression: str) -> Callable[[Vandal, FiscalWeek], tuple[list[int], Damage]]:
    def make(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
        id_ = vandal.take(week)
        statement = f"UPDATE public.bookings SET {expression} WHERE id = %s"
        return [id_], lambda base: base.execute(statement.encode(), [id_])

    return make


def _lost(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_ = vandal.take(week)
    return [id_], lambda base: base.execute("DELETE FROM public.bookings WHERE id = %s", [id_])


def _many_lost(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    ids = [vandal.take(week) for _ in range(4)]
    return ids, lambda base: base.execute("DELETE FROM public.bookings WHERE id = ANY(%s)", [ids])


def _again(base: Connected, id_: int, changed: Mapping[str, object]) -> None:
    values = ", ".join("%s" if name in changed else name for name in WRITTEN)
    parameters = [changed[name] for name in WRITTEN if name in changed]
    base.execute(_INSERT.format(values).encode(), [*parameters, id_])


def _extra(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_, new = vandal.take(week), vandal.extra_id()
    return [new], lambda base: _again(base, id_, {"id": new})


def _moment(vandal: Vandal, week: FiscalWeek) -> datetime:
    """Where no reserved row is: those lie on full hours."""
    return CALENDAR.bounds(week).lower + timedelta(hours=50, microseconds=vandal.random.randint(1, 10**9))


def _duplicate_elsewhere(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_, at = vandal.take(week), _moment(vandal, vandal.other_week(week))
    return [id_], lambda base: _again(base, id_, {"booked_at": at})


def _duplicate_here(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_, at = vandal.take(week), _moment(vandal, week)
    return [id_], lambda base: _again(base, id_, {"booked_at": at})


def _moved(base: Connected, id_: int, at: datetime) -> None:
    base.execute("UPDATE public.bookings SET booked_at = %s WHERE id = %s", [at, id_])


def _shifted_week(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_, at = vandal.take(week), _moment(vandal, vandal.other_week(week))
    return [id_], lambda base: _moved(base, id_, at)


def _shifted_here(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_, at = vandal.take(week), _moment(vandal, week)
    return [id_], lambda base: _moved(base, id_, at)


def _other_id(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
    id_, new = vandal.take(week), vandal.extra_id()
    return [id_, new], lambda base: base.execute("UPDATE public.bookings SET id = %s WHERE id = %s", [new, id_])


def _swap(column: str) -> Callable[[Vandal, FiscalWeek], tuple[list[int], Damage]]:
    def make(vandal: Vandal, week: FiscalWeek) -> tuple[list[int], Damage]:
        ids = [vandal.take(week), vandal.take(week)]
        statement = (
            f"UPDATE public.bookings b SET {column} = o.{column} FROM public.bookings o"
            " WHERE b.id = ANY(%s) AND o.id = ANY(%s) AND b.id <> o.id"
        )
        return ids, lambda base: base.execute(statement.encode(), [ids, ids])

    return make


DAMAGES: dict[str, Callable[[Vandal, FiscalWeek], tuple[list[int], Damage]]] = {
    "lost row": _lost,
    "several lost rows": _many_lost,
    "extra row": _extra,
    "row twice, in another week": _duplicate_elsewhere,
    "row twice, in this week": _duplicate_here,
    "row in another week": _shifted_week,
    "row at another moment": _shifted_here,
    "row with another id": _other_id,
    "numbers swapped": _swap("guests"),
    "documents swapped": _swap("document"),
    "changed number": _change("guests = guests + 1"),
    "changed scale": _change("price = 1.00"),
    "changed scale in jsonb": _change("""details = '{"a": 1.00}'"""),
    "NULL for a value": _change("tags = NULL"),
    "empty for NULL or text": _change("note = ''"),
    "last letter of a document": _change("document = overlay(document placing 'z' from length(document))"),
    "another enum value": _change("status = 'no show %%'"),
    "order of an array": _change("tags = '{late,vip}'"),
    "bounds of an array": _change("tags = '[0:1]={vip,late}'"),
    "infinity": _change("valid_until = 'infinity'"),
    "a microsecond": _change("valid_until = valid_until + interval '1 microsecond'"),
    "24 hours for a day": _change("stay = '24:00:00'"),
    "negative zero": _change("score = '-0'"),
}
