"""Where an archive's files lie below the store's root: names only, nothing is opened here.

    <table>/fiscal_quarter=FY24-Q3/fiscal_week=W05/part-<generation>-00000.parquet
    <table>/fiscal_quarter=FY24-Q3/fiscal_week=W05/manifest.json
    <table>/.staging/FY24-Q3-W05/<generation>/part-<generation>-00000.parquet

Staging lies beside the weeks, on the same disk, so that moving a file is a rename; its name starts with a dot, which
Spark, Arrow and others leave out. A generation is one try at archiving a week: its files never overwrite another's.
"""

import hashlib
import re
import secrets
from datetime import UTC, datetime

from migration_assets.domain.errors import ArchiveError
from migration_assets.domain.fiscal_periods import FiscalWeek

MANIFEST = "manifest.json"
PART_SUFFIX = ".parquet"
# File systems allow 255 bytes in a name. A table's name with every byte escaped may have three times 131.
_LONGEST_NAME = 200
_HASH_DIGITS = 16
_GENERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PART = re.compile(rf"part-{_GENERATION.pattern}-[0-9]{{5,}}{re.escape(PART_SUFFIX)}")
# Capitals are escaped too: some file systems take "Bookings" and "bookings" for the same.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_.")


def table_folder(relation: str) -> str:
    """A table's folder, another one for every table: `public.amenity_bookings`; odd bytes become `%` and two digits."""
    escaped = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in relation.encode())
    if len(escaped) > _LONGEST_NAME:
        digest = hashlib.sha256(relation.encode()).hexdigest()[:_HASH_DIGITS]
        escaped = f"{escaped[: _LONGEST_NAME - _HASH_DIGITS - 1]}~{digest}"
    # Only an impossible relation starts with a dot; `..` must never leave the root.
    return "%2E" + escaped[1:] if escaped.startswith(".") else escaped


def slice_folder(relation: str, week: FiscalWeek) -> str:
    """A week's folder: `public.amenity_bookings/fiscal_quarter=FY24-Q3/fiscal_week=W05`."""
    return f"{table_folder(relation)}/fiscal_quarter={week.quarter.key}/fiscal_week={week.name}"


def staging_of_week(relation: str, week: FiscalWeek) -> str:
    """Where all tries at archiving a week write first: whatever is found there later is of a dead one."""
    return f"{table_folder(relation)}/.staging/{week.quarter.key}-{week.name}"


def staging_folder(relation: str, week: FiscalWeek, generation: str) -> str:
    """Where one try writes."""
    return f"{staging_of_week(relation, week)}/{_checked(generation)}"


def part_name(generation: str, number: int) -> str:
    """`part-<generation>-00000.parquet`."""
    return f"part-{_checked(generation)}-{number:05d}{PART_SUFFIX}"


def is_part(name: str) -> bool:
    """Whether a file is called as this program calls those that it writes."""
    return _PART.fullmatch(name) is not None


def new_generation(now: datetime) -> str:
    """A name that no other try has; they sort by time: `20261122T151500-3fa9c1`."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _checked(generation: str) -> str:
    if _GENERATION.fullmatch(generation) is None:
        raise ArchiveError(f"{generation!r} cannot name a generation of files", state_left="nothing was written")
    return generation
