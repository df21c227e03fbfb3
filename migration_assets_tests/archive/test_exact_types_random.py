"""Random values of the exact types, and random damage: both engines agree on the one and both see the other."""

import math
import random
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from migration_assets.archive.export import portable_fingerprint
from migration_assets.postgres.sessions import Connected, Databases
from migration_assets_tests.archive.journey import BACK, THINGS, raw, require_exact
from migration_assets_tests.conftest import Databases as Urls

_ROWS = 400
_LETTERS = "aNnUuLl \t\n\r\v\f\"'\\{},:;()[]|$0159.-éßü北😀\u0301\u00a0\u0085\u2028\ufeff\x01\x7f"


def _text(dice: random.Random) -> str:
    return "".join(dice.choices(_LETTERS, k=dice.choice((0, 1, 2, 3, 4, 5, 20))))


def _float8(dice: random.Random) -> float:
    value: float = struct.unpack(">d", dice.randbytes(8))[0]
    return dice.choice((value, float(dice.randrange(-(10**6), 10**6)) / 100)) if not math.isnan(value) else 0.0


def _float4(dice: random.Random) -> float:
    value: float = struct.unpack(">f", dice.randbytes(4))[0]
    return value if not math.isnan(value) else 0.0


def _moment(dice: random.Random) -> datetime:
    return datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=dice.randrange(315_537_897_599_999_999))


def _micros(dice: random.Random) -> int:
    """Since 2000, everywhere between 4713 BC and the year 294246."""
    return dice.randrange(-211_813_000_000_000_000, 9_222_399_000_000_000_000)


def _list(of: Callable[[random.Random], Any]) -> Callable[[random.Random], list[Any]]:
    return lambda dice: [None if dice.random() < 0.2 else of(dice) for _ in range(dice.choice((0, 1, 2, 5)))]


# Type, how a random value becomes SQL, and the value.
_KINDS: tuple[tuple[str, str, Callable[[random.Random], Any]], ...] = (
    ("text", "%s", _text),
    ("character(30)", "%s", _text),
    ("text[]", "%s::text[]", _list(_text)),
    ("bigint[]", "%s::bigint[]", _list(lambda dice: dice.randrange(-(2**63), 2**63))),
    ("boolean[]", "%s::boolean[]", _list(lambda dice: dice.random() < 0.5)),
    ("bigint", "%s::bigint", lambda dice: dice.randrange(-(2**63), 2**63)),
    ("smallint", "%s::smallint", lambda dice: dice.randrange(-(2**15), 2**15)),
    ("double precision", "%s::float8", _float8),
    ("real", "%s::float8::float4", _float4),
    ("numeric(12,4)", "%s", lambda dice: Decimal(dice.randrange(-(10**12) + 1, 10**12)).scaleb(-4)),
    ("numeric(38,38)", "%s", lambda dice: Decimal(f"{dice.choice('+-')}.{dice.randrange(10**38):038}")),
    ("numeric", "%s", lambda dice: Decimal(dice.randrange(-(10**30), 10**30)).scaleb(-dice.randrange(40))),
    ("date", "date '2000-01-01' + %s::integer", lambda dice: dice.randrange(-2_451_000, 2_145_031_949 - 10_957)),
    (
        "timestamp",
        "timestamp '2000-01-01' + %s::bigint / 1000000 * interval '1 s' + mod(%s::bigint, 1000000) * interval '1 us'",
        _micros,
    ),
    ("timestamptz", "%s", _moment),
    ("bytea", "%s", lambda dice: dice.randbytes(dice.choice((0, 1, 7, 300)))),
    ("uuid", "%s::uuid", lambda dice: f"{dice.getrandbits(128):032x}"),
    ("jsonb", "%s", lambda dice: Jsonb({_text(dice): [_text(dice), dice.random(), None, True]})),
    ("json", "to_json(%s::text)", _text),
    ("boolean", "%s", lambda dice: dice.random() < 0.5),
    ("interval", "make_interval(0, %s::int, 3, 0, 0, -5)", lambda dice: dice.randrange(-(10**6), 10**6)),
)


def _fill(connection: Connected, dice: random.Random) -> None:
    columns = ", ".join(f"c{number} {kind[0]}" for number, kind in enumerate(_KINDS))
    raw(connection, f"CREATE TABLE public.things (id integer, {columns})")
    with connection.transaction():
        for row in range(_ROWS):
            expressions, values = [sql.SQL("%s")], [row]
            for _, expression, make in _KINDS:
                if dice.random() < 0.1:
                    expressions.append(sql.SQL("NULL"))
                    continue
                expressions.append(sql.SQL(expression))  # pyright: ignore[reportArgumentType]
                value: Any = make(dice)
                values += [value] * expression.count("%s")
            connection.execute(
                sql.SQL("INSERT INTO public.things VALUES ({})").format(sql.SQL(", ").join(expressions)), values
            )


@pytest.mark.long
@pytest.mark.parametrize("seed", [20240401, 7])
def test_random_values_come_back_exactly_and_random_damage_is_seen(databases: Urls, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    url = databases.base_url if seed % 2 else databases.legacy_url
    with Databases(url, url).session("base", "test") as connection:
        _fill(connection, dice)
        archived = require_exact(connection, url, tmp_path / "things.parquet")
        unseen: list[str] = []
        names = [column.name for column in archived.profile.columns[1:]]
        for _ in range(80):
            row, other = dice.sample(range(_ROWS), 2)
            name, another = dice.sample(names, 2)
            of_other = f"FROM public.things t WHERE b.id = {row} AND t.id = {other}"
            swap = f"FROM public.things t WHERE (b.id, t.id) IN (({row}, {other}), ({other}, {row}))"
            changes = [
                f"UPDATE public.back b SET {name} = t.{name} {of_other}",
                f"UPDATE public.back SET {name} = NULL WHERE id = {row}",
                f"UPDATE public.back SET c0 = c1::text || c0, c1 = c0 WHERE id = {row}",
                f"UPDATE public.back b SET {name} = t.{name}, {another} = t.{another} {swap}",
            ]
            change = dice.choice(changes)
            with connection.transaction(force_rollback=True):
                raw(connection, change)
                same = raw(connection, "SELECT count(*) FROM public.things t JOIN public.back b USING (id)"
                                       " WHERE t::text = b::text")[0][0]  # fmt: skip
                seen = portable_fingerprint(connection, BACK, archived.profile.columns) != archived.profile.portable
            if seen is not (same < _ROWS):
                unseen.append(change)
        assert unseen == []
        assert portable_fingerprint(connection, THINGS, archived.profile.columns) == archived.profile.portable
