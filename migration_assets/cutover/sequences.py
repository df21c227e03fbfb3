"""Sets the target's sequences and identities, so that the first insert there gets a key that no row ever had."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from migration_assets.domain.states import CutoverError
from migration_assets.domain.table_description import Drawn, SequenceUse, TableDescription
from migration_assets.domain.table_spec import QualifiedName, parse_identifiers
from migration_assets.postgres.server_messages import told
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import raw_sql, table_name

_NAMED = {Drawn.IDENTITY, Drawn.DEFAULT}
_PLAIN_DEFAULT = re.compile(r"nextval\('[^']+(''[^']*)*'::regclass\)")
_DRAW_SECONDS = 5
_TRIALS = 10
# No index over an expression or over some rows only.
_WHOLE_KEY = re.compile(r"USING btree \([^()]*\)(?! WHERE).*")


@dataclass(frozen=True)
class SequenceSet:
    """A sequence on the target and the value it was set to; the value after that is the first to be given out."""

    columns: tuple[str, ...]
    sequence: str
    value: int


@dataclass(frozen=True)
class Counterpart:
    """A sequence of the source, the column that it fills, and its name on the target (None: not there)."""

    source: str
    target: str | None
    uses: tuple[SequenceUse, ...]
    ends: tuple[str, ...]
    """Columns that hold only values of this sequence and are the first of a key: the key's index has the last value."""


def counterparts(target: Connected, of_source: TableDescription, of_target: TableDescription) -> list[Counterpart]:
    """Every sequence that new rows of the source draw from, in whatever way, with the one that the target will use.

    The sequence of an identity or a default may have another name on the target; any other is found by its name.
    """
    found: list[Counterpart] = []
    for sequence in dict.fromkeys(one.sequence for one in of_source.sequence_uses):
        uses = tuple(one for one in of_source.sequence_uses if one.sequence == sequence)
        plain = tuple(one.column for one in uses if one.column and _holds_it_alone(of_source, one))
        ends = tuple(name for name in plain if name in _first_of_keys(of_source))
        found.append(Counterpart(sequence, _target_of(target, uses, of_source, of_target), uses, ends))
    return found


def _holds_it_alone(description: TableDescription, use: SequenceUse) -> bool:
    if use.column is None or use.how in {Drawn.FUNCTION, Drawn.TRIGGER}:
        return False
    default = description.column(use.column).default
    return use.how is not Drawn.DEFAULT or (default is not None and _PLAIN_DEFAULT.fullmatch(default) is not None)


def _first_of_keys(description: TableDescription) -> set[str]:
    keys = [description.primary_key, *(index.key_columns for index in description.indexes if index.unique)]
    return {key[0] for key in keys if key}


def _alone_unique(description: TableDescription) -> set[str]:
    """Columns that are unique by themselves."""
    keys = [description.primary_key]
    keys += [one.key_columns for one in description.indexes if one.unique and _WHOLE_KEY.fullmatch(one.tail)]
    return {key[0] for key in keys if len(key) == 1}


def _target_of(
    target: Connected, uses: Sequence[SequenceUse], of_source: TableDescription, of_target: TableDescription
) -> str | None:
    name = uses[0].sequence
    column = next((one.column for one in uses if one.how in {Drawn.IDENTITY, Drawn.DEFAULT}), None)
    if column is not None:
        there = [one.sequence for one in of_target.sequence_uses if one.column == column and one.how in _NAMED]
        here = [one for one in of_source.sequence_uses if one.column == column and one.how in _NAMED]
        if name in there:
            return name
        return there[0] if len(there) == len(here) == 1 else None
    row = target.execute(
        "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'S')", [name]
    ).fetchone()
    return name if require_row(row, "EXISTS")[0] else None


def require_counterparts(
    target: Connected, table: QualifiedName, of_source: TableDescription, of_target: TableDescription
) -> list[Counterpart]:
    """As `counterparts`.

    Raises:
        CutoverError: A sequence is missing on the target.
    """
    found = counterparts(target, of_source, of_target)
    for one in found:
        if one.target is None:
            fills = f"column {one.uses[0].column}" if one.uses[0].column else one.uses[0].via
            raise CutoverError(
                f"{fills} has sequence {one.source}, and none on the other side",
                where=str(table),
                state_left="nothing was changed on the other side",
                next_step="run the statements that `migration-assets readiness` prints for it, then run this again",
            )
    return found


def advance_sequences(
    source: Connected,
    target: Connected,
    table: QualifiedName,
    of_source: TableDescription,
    of_target: TableDescription,
    *,
    margin: int,
) -> list[SequenceSet]:
    """Set every sequence that new rows draw from beyond all that the source gave or holds, then try the next keys.

    A sequence is never set back. Values that sessions of the source have cached count as given. A sequence that cycles
    continues where the source's is: its keys come again by design.

    Args:
        source: The side that has given the keys so far; its writes are held.
        target: The side that will give them.
        table: The table, which has the same name on both sides.
        of_source: As the source's catalogue describes it.
        of_target: As the target's catalogue describes it.
        margin: How many keys are left out, for keys that were fetched on the source and are used on the target.

    Returns:
        Every sequence with the value it was set to.

    Raises:
        CutoverError: A sequence is missing on the target, steps in the other direction or would be exhausted; or a key
            that was drawn there as a trial exists already.
    """
    done: list[SequenceSet] = []
    for one in require_counterparts(target, table, of_source, of_target):
        other = one.target or one.source
        here, there = read_sequence(source, one.source), read_sequence(target, other)
        if here.ascending is not there.ascending:
            raise CutoverError(
                f"sequence {other} steps by {there.increment}, and by {here.increment} on the other side",
                where=str(table),
                state_left="the sequence is as it was",
                next_step=f"make them alike: ALTER SEQUENCE {other} INCREMENT BY {here.increment}",
            )
        last = here.last
        if not here.cycles:
            for column in one.ends:
                # Keys that an application chose by itself are at the end of the key's index.
                last = _extreme(source, table, column, last, ascending=here.ascending)
        value = next_start(here, there, last, margin)
        if not there.cycles and not there.least <= value + there.increment <= there.most:
            raise CutoverError(
                f"sequence {other} would be exhausted: it would be set to {value}, and ends at"
                f" {there.most if there.ascending else there.least}",
                where=str(table),
                state_left="the sequence is as it was",
                next_step="give it more room (ALTER SEQUENCE … AS bigint), or lower MIGRATION_CUTOVER_SEQUENCE_MARGIN",
            )
        _set(target, other, value)
        done.append(SequenceSet(tuple(use.column for use in one.uses if use.column), other, value))
    try:
        _try_keys(source, target, table, of_source, of_target, done)
    finally:
        # A key that was drawn for a trial is given out by the next draw.
        for one in done:
            _set(target, one.sequence, one.value)
    return done


def _try_keys(
    source: Connected,
    target: Connected,
    table: QualifiedName,
    of_source: TableDescription,
    of_target: TableDescription,
    done: Sequence[SequenceSet],
) -> None:
    """Really draw the next key of each column that is unique by itself, and check that no row has it.

    Where a key is drawn by something that the catalogue does not explain (a function that calls functions, a table that
    counts), nothing else can be known about it. This happens in a transaction that is rolled back, with the search path
    that applications have.
    """
    owned = {name: one.sequence for one in done for name in one.columns}
    cycling = {one.sequence for one in done if read_sequence(target, one.sequence).cycles}
    for name in sorted(_alone_unique(of_source) | _alone_unique(of_target)):
        column = of_target.column(name)
        if column.is_generated or (owned.get(name) in cycling):
            continue
        if column.default is not None:
            drawn = raw_sql(column.default)
        elif name in owned:
            drawn = sql.SQL("nextval({}::regclass)").format(sql.Literal(owned[name]))
        else:
            continue  # the application itself supplies the key
        # A sequence that we know was set beyond all that was given; of what we do not know we take some more.
        number = 1 if any(use.column == name for use in of_target.sequence_uses) else _TRIALS
        for key in _draw(target, table, name, drawn, number):
            for side in (source, target):
                _require_free(side, table, name, key)


def _draw(target: Connected, table: QualifiedName, column: str, drawn: sql.Composable, number: int) -> list[str]:
    try:
        with target.transaction(force_rollback=True):
            target.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('search_path', concat_ws(', ',"
                " nullif((SELECT reset_val FROM pg_settings WHERE name = 'search_path'), ''), quote_ident(%s)), true)",
                [f"{_DRAW_SECONDS}s", table.schema],
            )
            rows = target.execute(
                sql.SQL("SELECT format('%s', {}) FROM generate_series(1, {})").format(drawn, sql.Literal(number))
            ).fetchall()
    except psycopg.Error as error:
        if target.broken:
            raise
        raise CutoverError(
            f"the next key of {column} cannot be drawn on the other side: {told(error)}",
            where=str(table),
            state_left="no key was given; the sequences are set, which harms nothing",
            next_step=f"see that its default works there: SELECT what `\\d {table}` shows for it; then run this again",
        ) from error
    return [str(row[0]) for row in rows]


def _require_free(side: Connected, table: QualifiedName, column: str, key: str) -> None:
    name = sql.Identifier(column)
    row = side.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} = {})").format(table_name(table), name, sql.Literal(key))
    ).fetchone()
    if require_row(row, "EXISTS")[0]:
        raise CutoverError(
            f"the next key of {column} on the other side is {key}, and a row has it already",
            where=str(table),
            state_left="the other side was not opened",
            next_step=f"see what the default of {column} draws from there (sequence, function, table that counts), and"
            " move that beyond the greatest key; then run this again",
        )


@dataclass(frozen=True)
class SequenceState:
    """One sequence as its server has it; `last` includes the values that sessions have cached."""

    last: int
    increment: int
    least: int
    most: int
    cycles: bool

    @property
    def ascending(self) -> bool:
        """Whether it counts up; else it counts down."""
        return self.increment > 0


def next_start(here: SequenceState, there: SequenceState, last: int, margin: int) -> int:
    """The value to set the target's sequence to: `margin` keys beyond `last`, or where it is, if that is farther."""
    wanted = last + margin * here.increment
    if there.cycles:
        # Where the source's would be after that many keys: at its end it begins again.
        return there.least + (wanted - there.least) % (there.most - there.least + 1)
    if here.ascending:
        return max(wanted, there.last, there.least)
    return min(wanted, there.last, there.most)


def read_sequence(connection: Connected, sequence: str) -> SequenceState:
    """Read the sequence as it is now, without drawing a key."""
    name = sql.Identifier(*parse_identifiers(sequence))
    row = connection.execute(
        sql.SQL(
            "SELECT s.last_value, p.seqincrement, p.seqmin, p.seqmax, p.seqcycle FROM {} s, pg_sequence p"
            " WHERE p.seqrelid = {}::regclass"
        ).format(name, sql.Literal(sequence))
    ).fetchone()
    last, increment, least, most, cycles = require_row(row, "a sequence")
    return SequenceState(int(last), int(increment), int(least), int(most), bool(cycles))


def _extreme(connection: Connected, table: QualifiedName, column: str, last: int, *, ascending: bool) -> int:
    row = connection.execute(
        sql.SQL("SELECT {}({})::bigint FROM {}").format(
            sql.SQL("max" if ascending else "min"), sql.Identifier(column), table_name(table)
        )
    ).fetchone()
    found = require_row(row, "the greatest key")[0]
    if found is None:
        return last
    return max(last, int(found)) if ascending else min(last, int(found))


def _set(target: Connected, sequence: str, value: int) -> None:
    with target.transaction():
        target.execute("SET LOCAL synchronous_commit = on")
        target.execute("SELECT setval(%s::regclass, %s, true)", [sequence, value])
