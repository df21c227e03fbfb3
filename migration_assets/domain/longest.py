"""Upper limits of settings that are lengths of time. Pure.

Neither PostgreSQL nor Python knows a moment so long ago, and no server takes such a timeout. A person who wants to keep
something for ever writes many nines, and every look of the watch would fail at them.
"""

from collections.abc import Mapping

_MOST = {"_days": 36_500, "_hours": 876_000, "_minutes": 52_560_000, "_seconds": 2_000_000}


def endless(values: Mapping[str, object]) -> str | None:
    """Say which setting is over its limit, which the end of its name decides; None if none is."""
    for name, value in values.items():
        most = next((most for ending, most in _MOST.items() if name.endswith(ending)), None)
        if most is not None and isinstance(value, int | float) and value > most:
            return f"{name.upper()} is over {most:,}: longer than anything here can last"
    return None
