"""Which seeds are run when nobody names any: some that are always the same, the others fresh."""

import secrets

FIXED = (20_240_401, 7)


def fresh_seed() -> int:
    """A seed that nobody chose."""
    return secrets.randbelow(10**9)


def some_seeds(count: int) -> list[int]:
    """The fixed ones first."""
    return [*FIXED, *(fresh_seed() for _ in range(count))][:count]
