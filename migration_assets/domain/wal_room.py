"""How long there is room for the WAL that the legacy keeps for the slot. Pure."""

from collections.abc import Sequence
from datetime import timedelta

from migration_assets.domain.stream_sample import StreamSample

_GROWTH_SPAN = timedelta(minutes=15)
_SHORTEST_SPAN = timedelta(seconds=30)


def minutes_of_room(sample: StreamSample, history: Sequence[StreamSample], disk_gb: float | None) -> float | None:
    """Until the slot's limit, or else the legacy's disk, is reached at the growth of the last quarter of an hour.

    Infinite where the WAL kept does not grow; None where there is no limit, or too little history to tell.
    """
    kept = sample.retained_wal_bytes
    room = sample.safe_wal_bytes
    if room is None and disk_gb is not None and kept is not None:
        room = disk_gb * 1e9 - kept
    earlier = [
        s
        for s in history
        if s.retained_wal_bytes is not None and _SHORTEST_SPAN <= sample.taken_at - s.taken_at <= _GROWTH_SPAN
    ]
    if room is None or kept is None or not earlier:
        return None
    grown = kept - (earlier[0].retained_wal_bytes or 0)
    if grown <= 0:
        return float("inf")
    seconds = (sample.taken_at - earlier[0].taken_at).total_seconds()
    return max(room, 0.0) / (grown / seconds) / 60
