"""Upper limits of settings that are lengths of time. Pure.

People who want to keep something for ever set a huge number. PostgreSQL and Python have no dates that long ago, and
servers no such timeouts, so every later step would fail. The limits refuse such a value at once.
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
