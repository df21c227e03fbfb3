"""Which of the two servers an error is of: the error itself does not say so, and a step has sessions on both."""

import psycopg

_SIDE = "migration_assets_side"


def mark_side(error: psycopg.Error, side: str | None) -> None:
    """Note the side whose session raised the error; the first note stays."""
    if side is not None and side_of(error) is None:
        setattr(error, _SIDE, side)


def side_of(error: BaseException) -> str | None:
    """`legacy` or `base`; None where the session was of neither, or the error is no server's."""
    return getattr(error, _SIDE, None)


def on_side(error: BaseException) -> str:
    """For the middle of a sentence: ` on the legacy`, or nothing."""
    side = side_of(error)
    return f" on the {side}" if side else ""


def place(where: str, error: BaseException) -> str:
    """What an error of ours has as `where`: the step or slice, and the side, as far as they are known."""
    side = side_of(error)
    return f"{where}, the {side}" if where and side else where or (f"the {side}" if side else "")
