"""What a question may call: what computes from its arguments, however it is written, and nothing that tells more."""

import duckdb
import pytest

from migration_assets.archive.hot_rows import HotSide, hot_relation
from migration_assets.archive.questions import COMPUTING, require_question
from migration_assets.domain.errors import ArchiveError
from migration_assets.embedded.cluster import free_port

# They give something else each time, and change nothing.
CHANCE = {"gen_random_uuid", "random", "uuid", "uuidv4", "uuidv7"}


@pytest.fixture(scope="module")
def duck() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def require(duck: duckdb.DuckDBPyConnection, statement: str) -> str:
    return require_question(duck, statement, "public", "t")


@pytest.mark.parametrize(
    "expression",
    [
        "pg_get_viewdef(22070)",  # the archive's paths are in it
        "get_block_size('hot')",
        "format_type(1, 1)",
        "current_query()",
        "has_table_privilege('t', 'SELECT')",
        "main.CURRENT_SETTING('threads')",
        "('threads').current_setting()",
        "list_transform(['HOME'], x -> getenv(x))",
        "count(*) FILTER (WHERE sleep_ms(10000) IS NULL)",
        "sum(1) OVER (ORDER BY setseed(0.5))",
        "json_deserialize_sql('{}')",
        "no_such_function(1)",
    ],
)
def test_a_function_that_tells_or_does_more_than_it_computes_is_refused(
    duck: duckdb.DuckDBPyConnection, expression: str
) -> None:
    with pytest.raises(ArchiveError, match=r"a question calls no \w+\(\): it is not known to compute"):
        require(duck, f"SELECT {expression} FROM t")


def test_whatever_the_parser_makes_a_function_of_may_be_written(duck: duckdb.DuckDBPyConnection) -> None:
    duck.execute("CREATE TABLE t AS SELECT 1 AS id, 'ab' AS s, [1, 2] AS l, now() AS moment, '{\"a\": 1}'::JSON AS j")
    for expression in (
        "extract(year FROM moment), date_trunc('day', moment), moment AT TIME ZONE 'UTC', moment + INTERVAL 2 days",
        "current_date, now(), today(), s COLLATE NOCASE, id IN (1, 2), id BETWEEN 1 AND 2, 3!, ~id, random()",
        "s LIKE 'a!%' ESCAPE '!', s NOT ILIKE 'x', s SIMILAR TO 'a.', s GLOB 'a*', s ^@ 'a', s || 'c'",
        "substring(s FROM 1 FOR 1), position('b' IN s), trim(BOTH 'a' FROM s), s[1], s[1:2]",
        "l[1], [x + 1 FOR x IN l IF x > 1], list_transform(l, lambda x: x * 2), {'a': 1}.a, MAP {'a': 1}['a']",
        "row(1, 2), -id, hash(s), s IS DISTINCT FROM 'x'",
        "j -> 'a', j ->> '$.a', j.a, coalesce(s, ''), CASE id WHEN 1 THEN 2 END",
        "ARRAY(SELECT id FROM t), id::text, TRY_CAST(s AS int), typeof(s)",
        "COLUMNS(*), id ** 2, id // 2, id % 2, id & 1, id << 1, nullif(id, 2), ifnull(id, 1), greatest(1, id), md5(s)",
        "row_number() OVER (), lag(id) OVER (ORDER BY id), sum(id) OVER (PARTITION BY s ROWS 1 PRECEDING)",
        "count(*), sum(id) FILTER (WHERE id > 0), string_agg(s, ',' ORDER BY id), quantile_cont(id, 0.5), max(id)",
    ):
        assert duck.execute(require(duck, f"SELECT {expression} FROM t")).fetchall(), expression


def test_every_function_on_the_list_is_one_that_only_computes(duck: duckdb.DuckDBPyConnection) -> None:
    known = duck.execute(
        "SELECT lower(function_name), bool_or(coalesce(has_side_effects, false)),"
        " bool_or(coalesce(macro_definition ILIKE '%select%', false)) FROM duckdb_functions()"
        " WHERE function_type IN ('scalar', 'aggregate', 'macro') GROUP BY 1"
    ).fetchall()
    assert not COMPUTING - {name for name, _, _ in known}
    assert {name for name, effects, _ in known if effects and name in COMPUTING} <= CHANCE
    assert not {name for name, _, reads in known if reads and name in COMPUTING}


def test_a_base_that_does_not_answer_is_told_without_the_secrets_of_its_url(duck: duckdb.DuckDBPyConnection) -> None:
    parts = {"host": "127.0.0.1", "port": str(free_port()), "dbname": "base", "sslpassword": 'a" of: its key'}
    hot = HotSide(parts, "migration", "hot_t", "at", [], "", password="a password")
    with pytest.raises(ArchiveError, match=r'Unable to connect to Postgres: connection to server at "127') as refused:
        hot_relation(duck, hot, [])
    for secret in ("its key", "a password"):
        assert secret not in str(refused.value)
