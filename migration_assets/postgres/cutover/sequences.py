"""Sets the target's sequences and identities, so that the first insert there gets a key that nobody had."""

from dataclasses import dataclass

from psycopg import sql

from migration_assets.domain.cutover_state import CutoverError
from migration_assets.domain.table_description import TableDescription
from migration_assets.domain.table_spec import QualifiedName, parse_identifiers
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.postgres.sql_text import table_name


@dataclass(frozen=True)
class SequenceSet:
    """One column's sequence on the target, and the value it was set to: the next one is the first to be given."""

    column: str
    sequence: str
    value: int


def advance_sequences(
    source: Connected,
    target: Connected,
    table: QualifiedName,
    of_source: TableDescription,
    of_target: TableDescription,
    *,
    margin: int,
) -> list[SequenceSet]:
    """Set every sequence that fills a column of the table beyond what the source gave, or holds; never back.

    What sessions of the source have cached counts as given. A sequence that cycles goes on where the source's is: its
    keys come again by design.

    Args:
        source: The side that gave keys until now; its writes are held.
        target: The side that will.
        table: On both.
        of_source: As the source's catalogue describes it.
        of_target: As the target's does.
        margin: How many keys are left out: for those that were fetched on the source and are used on the target.

    Raises:
        CutoverError: A sequence is missing on the target, steps in the other direction, or would be exhausted.
    """
    done: list[SequenceSet] = []
    for column in of_source.columns:
        if column.default_sequence is None:
            continue
        other = of_target.column(column.name).default_sequence
        if other is None:
            raise CutoverError(
                f"column {column.name} has sequence {column.default_sequence}, and none on the other side",
                where=str(table),
                state_left="nothing was changed on the other side",
                next_step=f"give the column a default or an identity there (see `\\d {table}` on both sides)",
            )
        here, there = read_sequence(source, column.default_sequence), read_sequence(target, other)
        if here.ascending is not there.ascending:
            raise CutoverError(
                f"sequence {other} steps by {there.increment}, and by {here.increment} on the other side",
                where=str(table),
                state_left="the sequence is as it was",
                next_step=f"make them alike: ALTER SEQUENCE {other} INCREMENT BY {here.increment}",
            )
        last = here.last
        if of_source.primary_key[:1] == (column.name,) and not here.cycles:
            # Keys that an application chose by itself; the key's index has them at its end.
            last = _extreme(source, table, column.name, last, ascending=here.ascending)
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
        done.append(SequenceSet(column.name, other, value))
    return done


@dataclass(frozen=True)
class SequenceState:
    """One sequence as its server has it; `last` includes what sessions have cached."""

    last: int
    increment: int
    least: int
    most: int
    cycles: bool

    @property
    def ascending(self) -> bool:
        """Or else it counts down."""
        return self.increment > 0


def next_start(here: SequenceState, there: SequenceState, last: int, margin: int) -> int:
    """The value to set the target's to: `margin` keys beyond `last`; further where it already is further."""
    wanted = last + margin * here.increment
    if there.cycles:
        # Where the source would be after so many keys: beyond its end it begins anew.
        return there.least + (wanted - there.least) % (there.most - there.least + 1)
    if here.ascending:
        return max(wanted, there.last, there.least)
    return min(wanted, there.last, there.most)


def read_sequence(connection: Connected, sequence: str) -> SequenceState:
    """As it is now; reading it gives no key."""
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
