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

    Args:
        source: The side that gave keys until now; its writes are held.
        target: The side that will.
        table: On both.
        of_source: As the source's catalogue describes it.
        of_target: As the target's does.
        margin: How many keys are left out: for those that were fetched on the source and are used on the target.

    Raises:
        CutoverError: A sequence is missing on the target, or would be exhausted.
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
        last, increment = _state(source, column.default_sequence)
        if of_source.primary_key[:1] == (column.name,):
            # Keys that an application chose by itself; the key's index has them at its end.
            last = _extreme(source, table, column.name, last, ascending=increment > 0)
        there, _ = _state(target, other)
        wanted = last + margin * increment
        value = max(wanted, there) if increment > 0 else min(wanted, there)
        _set(target, other, value)
        done.append(SequenceSet(column.name, other, value))
    return done


def _state(connection: Connected, sequence: str) -> tuple[int, int]:
    name = sql.Identifier(*parse_identifiers(sequence))
    row = connection.execute(
        sql.SQL("SELECT s.last_value, p.seqincrement FROM {} s, pg_sequence p WHERE p.seqrelid = {}::regclass").format(
            name, sql.Literal(sequence)
        )
    ).fetchone()
    last, increment = require_row(row, "a sequence")
    return int(last), int(increment)


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
    row = target.execute(
        "SELECT seqmin, seqmax, seqcycle FROM pg_sequence WHERE seqrelid = %s::regclass", [sequence]
    ).fetchone()
    least, most, _cycles = require_row(row, "a sequence")
    if not least <= value < most and not least < value <= most:
        raise CutoverError(
            f"sequence {sequence} would be exhausted: {value} is needed, it ends at {most}",
            state_left="the sequence is as it was",
            next_step="give it more room (ALTER SEQUENCE … AS bigint), or lower MIGRATION_CUTOVER_SEQUENCE_MARGIN",
        )
    with target.transaction():
        target.execute("SET LOCAL synchronous_commit = on")
        target.execute("SELECT setval(%s::regclass, %s, true)", [sequence, value])
