"""Midnights of a time zone as instants, whatever the zone's clocks did. The zone's rules are the only data read."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from migration_assets.domain.errors import CalendarError

# zoneinfo opens these, but they mean something else on every machine, or count leap seconds as PostgreSQL does not.
_UNPORTABLE_ZONES = ("localtime", "posixrules", "Factory", "right/", "posix/")
_SECOND = timedelta(seconds=1)


def load_zone(name: object) -> ZoneInfo:
    """The zone of this IANA name (kept in memory by zoneinfo after the first use); CalendarError for any other."""
    advice = "Use an IANA name such as UTC or America/New_York."
    if not isinstance(name, str) or name.startswith(_UNPORTABLE_ZONES):
        raise CalendarError(f"{name!r} is not a time zone", next_step=advice)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder such as "America" gives an OSError
        raise CalendarError(f"{name!r} is not a time zone", next_step=advice) from error


def first_midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the zone's clock shows `day` 00:00 or later, in UTC.

    So the first one where a clock set back shows midnight twice, and the end of the gap where it was set forward over
    midnight. A day that never was (Apia, 2011-12-30) gets the same instant as the day after it and is empty. "First
    instant at or after" cannot decrease from one day to the next, whatever a zone did.
    """
    midnight = datetime.combine(day, time.min)
    try:
        after = midnight.replace(tzinfo=zone).astimezone(UTC)
        if after.astimezone(zone).replace(tzinfo=None) == midnight:
            return after
        # In a gap fold=0 counts with the offset before it and so lands after it, fold=1 the other way round. The change
        # of the clock lies between: halve. (Not always at fold=0: Toronto went from 23:30 to 00:30 in 1919.)
        before = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
        while (seconds := (after - before) // _SECOND) > 1:
            middle = before + seconds // 2 * _SECOND
            if middle.astimezone(zone).replace(tzinfo=None) < midnight:
                before = middle
            else:
                after = middle
    except OverflowError as error:
        raise outside_years(day) from error
    return after


def as_utc(instant: datetime) -> datetime:
    """The same instant in UTC; CalendarError for a naive datetime."""
    if instant.utcoffset() is None:
        raise CalendarError(f"{instant!r} has no time zone", next_step="Pass an instant: a datetime with a tzinfo.")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise outside_years(instant) from error


def outside_years(what: object) -> CalendarError:
    """The error for what Python's dates cannot hold."""
    return CalendarError(f"{what} is outside of the years 1..9999 that the calendar covers")
