"""Names of the base's partitions, from the table's name and a fiscal label, and back.

PostgreSQL cuts identifiers at 63 bytes without an error, so two long names could silently become one. Names are plain
text without quotes: compose them with `psycopg.sql.Identifier`. No room is kept for the names of indexes: PostgreSQL
makes those itself, shortened and unique.
"""

import hashlib
import re

from migration_assets.domain.errors import CalendarError, TableSpecError
from migration_assets.domain.fiscal_periods import FiscalQuarter, FiscalWeek

MAX_IDENTIFIER_BYTES = 63

# The room for the longest suffix is kept in every case, so that all partitions of a table share one stem.
_MAX_STEM_BYTES = MAX_IDENTIFIER_BYTES - len("_fy2125_q1_w05")
_HASH_DIGITS = 8
_MAX_HEAD_BYTES = _MAX_STEM_BYTES - _HASH_DIGITS - len("_")
_UTF8_MAX_BYTES = 4
_SHORTENED = re.compile(rf"_[0-9a-f]{{{_HASH_DIGITS}}}\Z")
_SUFFIX = re.compile(r"_fy([0-9]{2,4})_q([1-4])(?:_(w[0-9]{2}))?")


def quarter_table_name(table: str, quarter: FiscalQuarter) -> str:
    """`amenity_bookings_fy25_q2`; the table's part is shortened as `leaf_name` says."""
    return _stem(table) + _suffix(quarter)


def leaf_name(table: str, week: FiscalWeek) -> str:
    """`amenity_bookings_fy25_q2_w05`, at most 63 bytes of UTF-8.

    A table name of more than 49 bytes is cut at a character and gets a hash of the whole: different tables keep
    different names. TableSpecError for a name that no table can have.
    """
    return f"{_stem(table)}{_suffix(week.quarter)}_{week.name.lower()}"


def parse_leaf_name(table: str, leaf: str) -> FiscalWeek | None:
    """The week for which `leaf` is the name of the table's leaf; None for any other name."""
    quarter_key, week_name = _keys(table, leaf)
    try:
        return FiscalWeek.parse(f"{quarter_key}|{week_name}")
    except CalendarError:
        return None


def parse_quarter_table_name(table: str, name: str) -> FiscalQuarter | None:
    """The quarter for which `name` is the name of the table's quarter partition; None for any other name."""
    quarter_key, week_name = _keys(table, name)
    try:
        return None if week_name else FiscalQuarter.parse(quarter_key)
    except CalendarError:
        return None


def _suffix(quarter: FiscalQuarter) -> str:
    return f"_{quarter.key.lower().replace('-', '_')}"


def _keys(table: str, name: str) -> tuple[str, str]:
    """The quarter's and week's keys as spelled in the name; empty where there are none."""
    stem = _stem(table)
    match = _SUFFIX.fullmatch(name, len(stem)) if name.startswith(stem) else None
    if match is None:
        return "", ""
    return f"FY{match[1]}-Q{match[2]}", (match[3] or "").upper()


def _stem(table: str) -> str:
    """The table's part of its partitions' names, at most 49 bytes, different for different tables."""
    try:
        whole = table.encode()
    except UnicodeEncodeError as error:
        raise TableSpecError(f"{table!r} cannot be the name of a table: it is not valid Unicode") from error
    if not whole or b"\0" in whole:
        raise TableSpecError(f"{table!r} cannot be the name of a table")
    # A short name that happens to look like a shortened one is shortened too: otherwise it could be equal to one.
    looks_shortened = len(whole) > _MAX_STEM_BYTES - _UTF8_MAX_BYTES and _SHORTENED.search(table)
    if len(whole) <= _MAX_STEM_BYTES and not looks_shortened:
        return table
    head = whole[:_MAX_HEAD_BYTES].decode(errors="ignore")  # drops the bytes of a character that was cut through
    return f"{head}_{hashlib.sha256(whole).hexdigest()[:_HASH_DIGITS]}"
