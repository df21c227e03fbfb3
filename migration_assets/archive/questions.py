"""Decides whether a statement is a question: one SELECT over the table that reads or writes nothing else.

DuckDB itself can read and write files, change attached databases and show settings, all inside a SELECT. So a question
is parsed by DuckDB's own parser, and everything that it reads from is checked: the table, its own WITH queries, and
functions that make rows of their arguments. Every other function must be on the list of those that compute from their
arguments alone. A function that a later version of DuckDB brings is refused until it was looked at. The session has
further bars (`querying`); this one comes first and says what is wrong.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import duckdb

from migration_assets.domain.errors import ArchiveError

_OPERATORS = """
    !__postfix !~~ !~~* % & && * ** + - ->> / // <-> << <=> <@ >> @ @> ^ ^@ | || ~ ~~ ~~* ~~~
"""
_NAMES = """
    abs acos acosh add age aggregate ago alias any_value apply approx_count_distinct approx_quantile approx_top_k
    arbitrary arg_max arg_max_null arg_max_nulls_last arg_min arg_min_null arg_min_nulls_last argmax argmin
    array_agg array_aggr array_aggregate array_append array_apply array_cat array_concat array_contains
    array_cosine_distance array_cosine_similarity array_cross_product array_distance array_distinct
    array_dot_product array_extract array_filter array_grade_up array_has array_has_all array_has_any array_indexof
    array_inner_product array_intersect array_length array_negative_dot_product array_negative_inner_product
    array_pop_back array_pop_front array_position array_prepend array_push_back array_push_front array_reduce
    array_resize array_reverse array_reverse_sort array_select array_slice array_sort array_to_json array_to_string
    array_to_string_comma_default array_transform array_unique array_value array_where array_zip ascii asin asinh
    atan atan2 atanh avg bar base64 bin bit_and bit_count bit_length bit_or bit_position bit_xor bitstring
    bitstring_agg bool_and bool_or cardinality cbrt ceil ceiling century char_length character_length chr concat
    concat_ws contains corr cos cosh cot count count_if count_star countif covar_pop covar_samp cume_dist
    damerau_levenshtein date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day
    dayname dayofmonth dayofweek dayofyear days_in_month decade decode degrees dense_rank divide element_at encode
    ends_with entropy enum_code enum_first enum_last enum_range enum_range_boundary epoch epoch_ms epoch_ns epoch_us
    era even exp factorial favg fdiv fill filter first first_value flatten floor fmod format format_bytes
    formatreadabledecimalsize formatreadablesize from_base64 from_binary from_hex from_json from_json_strict fsum
    gamma gcd gen_random_uuid generate_series generate_subscripts geomean geometric_mean get_bit get_current_time
    get_current_timestamp grade_up greatest greatest_common_divisor group_concat hamming hash hex histogram
    histogram_exact hour ilike_escape instr isfinite isinf isnan isodow isoyear jaccard jaro_similarity
    jaro_winkler_similarity json json_array json_array_length json_contains json_exists json_extract
    json_extract_path json_extract_path_text json_extract_string json_group_array json_group_object
    json_group_structure json_keys json_merge_patch json_object json_pretty json_quote json_structure json_transform
    json_transform_strict json_type json_valid json_value julian kahan_sum kurtosis kurtosis_pop lag last last_day
    last_value lcase lcm lead least least_common_multiple left left_grapheme len length length_grapheme levenshtein
    lgamma like_escape list list_aggr list_aggregate list_any_value list_append list_apply
    list_approx_count_distinct list_avg list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or list_cat
    list_concat list_contains list_cosine_distance list_cosine_similarity list_count list_distance list_distinct
    list_dot_product list_element list_entropy list_extract list_filter list_first list_grade_up list_has
    list_has_all list_has_any list_histogram list_indexof list_inner_product list_intersect list_kurtosis
    list_kurtosis_pop list_last list_mad list_max list_median list_min list_mode list_negative_dot_product
    list_negative_inner_product list_pack list_position list_prepend list_product list_reduce list_resize
    list_reverse list_reverse_sort list_select list_sem list_skewness list_slice list_sort list_stddev_pop
    list_stddev_samp list_string_agg list_sum list_transform list_unique list_value list_var_pop list_var_samp
    list_where list_zip listagg ln log log10 log2 lower lpad ltrim mad make_date make_time make_timestamp
    make_timestamp_ms make_timestamp_ns make_timestamptz map map_concat map_contains map_contains_entry
    map_contains_value map_entries map_extract map_extract_value map_from_entries map_keys map_values max max_by md5
    md5_number md5_number_lower md5_number_upper mean median microsecond millennium millisecond min min_by minute
    mismatches mod mode month monthname multiply nanosecond nextafter nfc_normalize not_ilike_escape not_like_escape
    now nth_value ntile nullif octet_length ord parse_dirname parse_dirpath parse_filename parse_formatted_bytes
    parse_path percent_rank pg_typeof pi position pow power prefix printf product quantile quantile_cont
    quantile_disc quarter radians random range rank rank_dense reduce regexp_escape regexp_extract
    regexp_extract_all regexp_full_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table
    regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace
    reservoir_quantile reverse right right_grapheme round round_even roundbankers row row_number row_to_json rpad
    rtrim second sem set_bit sha1 sha256 sign signbit sin sinh skewness split split_part sqrt starts_with stddev
    stddev_pop stddev_samp str_split str_split_regex strftime string_agg string_split string_split_regex
    string_to_array strip_accents strlen strpos strptime struct_concat struct_contains struct_extract
    struct_extract_at struct_has struct_indexof struct_insert struct_keys struct_pack struct_position struct_update
    struct_values substr substring substring_grapheme subtract suffix sum sum_no_overflow sumkahan switch tan tanh
    time_bucket timezone timezone_hour timezone_minute to_base to_base64 to_binary to_centuries to_days to_decades
    to_hex to_hours to_json to_microseconds to_millennia to_milliseconds to_minutes to_months to_quarters to_seconds
    to_timestamp to_weeks to_years today translate trim trunc try_strptime typeof ucase unbin unhex unicode
    union_extract union_tag union_value unpivot_list upper url_decode url_encode uuid uuid_extract_timestamp
    uuid_extract_version uuidv4 uuidv7 var_pop var_samp variance variant_extract variant_normalize variant_typeof
    wavg week weekday weekofyear weighted_avg xor year yearweek
"""
COMPUTING = frozenset((_OPERATORS + _NAMES).split())
"""Functions that compute from their arguments alone: names in lower case, operators included."""


# Table functions that make rows of their arguments; every other one reads something.
_ROWS_OF_ARGUMENTS = frozenset({
    "generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest",
})  # fmt: skip
_EXAMPLE = "SELECT fiscal_quarter, count(*) FROM {table} GROUP BY ALL"
_PLAIN_NAME = re.compile(r"\w+")
# Prefixes of DuckDB's own views and tables; a WITH query must not use such a name, since it could hide one.
_OWN_NAMES = re.compile(r"(duckdb|pragma|sqlite|pg)_|__")


def require_question(duck: duckdb.DuckDBPyConnection, statement: str, schema: str, table: str) -> str:
    """Return the statement without its semicolon, if it is a question.

    Args:
        duck: Any session; only its parser is used, and nothing is run.
        statement: The statement as the user wrote it.
        schema: Schema of the table.
        table: The only table that may be read.

    Raises:
        ArchiveError: It is not exactly one SELECT, or it reads from or calls something else; the error names it.
    """
    try:
        found = duckdb.extract_statements(statement)
        if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
            raise _refused("a question is one SELECT", table)
        text = found[0].query.strip().rstrip(";")
        row = duck.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    except duckdb.Error as error:
        raise ArchiveError(
            str(error).strip(), where="query", state_left="nothing was touched", next_step="correct the statement"
        ) from None
    tree = json.loads(row[0]) if row else {"error": True}
    if tree.get("error"):
        raise _refused("a question is one SELECT, and not a PRAGMA or SHOW", table)
    nodes = list(_nodes(tree))
    own = {name.lower() for name in _named_queries(nodes)}
    for node in nodes:
        _require_harmless(node, own, schema, table)
    return text


_Node = dict[str, Any]


def _nodes(value: object) -> Iterator[_Node]:
    if isinstance(value, dict):
        node = cast("_Node", value)
        yield node
        for part in node.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _nodes(part)


def _named_queries(nodes: list[_Node]) -> Iterator[str]:
    for node in nodes:
        named = cast("dict[str, list[_Node]]", node.get("cte_map") or {})
        yield from (str(entry["key"]) for entry in named.get("map", []))


def _require_harmless(node: _Node, own: set[str], schema: str, table: str) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        name, home = str(node["table_name"]).lower(), str(node.get("schema_name") or "").lower()
        ours = name == table.lower() and home in {"", "main", schema.lower()}
        with_query = not home and name in own and _PLAIN_NAME.fullmatch(name) and not _OWN_NAMES.match(name)
        if node.get("catalog_name") or not (ours or with_query):
            raise _refused(f"a question is about {table} alone, and not about {_shown(node)}", table)
    elif kind == "TABLE_FUNCTION":
        name = str(node["function"]["function_name"]).lower()
        if name not in _ROWS_OF_ARGUMENTS:
            raise _refused(f"a question calls no {name}(): it would read something else than {table}", table)
    elif kind == "SHOW_REF" and node.get("query") is None:
        raise _refused(f"a question is about {table} alone: DESCRIBE {table} tells its columns", table)
    elif node.get("class") in {"FUNCTION", "WINDOW"}:
        name = str(node["function_name"]).lower()
        if name not in COMPUTING | _ROWS_OF_ARGUMENTS:
            raise _refused(f"a question calls no {name}(): it is not known to compute from its arguments alone", table)


def _shown(node: _Node) -> str:
    parts = (node.get("catalog_name"), node.get("schema_name"), node.get("table_name"))
    return ".".join(str(part) for part in parts if part)


def _refused(what: str, table: str) -> ArchiveError:
    return ArchiveError(
        what,
        where="query",
        state_left="nothing was touched",
        next_step=f"write it like: {_EXAMPLE.format(table=table)}",
    )
