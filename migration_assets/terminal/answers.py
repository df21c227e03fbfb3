"""Answers of queries, and plans, in the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from migration_assets.archive.querying import Asked


def print_answer(console: Console, asked: Asked) -> None:
    """The rows as a table; NULL is told from an empty text."""
    answer = asked.answer
    table = Table(show_header=True, header_style="bold")
    for column in answer.columns:
        table.add_column(Text(column), overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(str(value)) for value in row))
    console.print(table)
    rows = f"{len(answer.rows):,} rows" + (", and there are more: --limit, or --to FILE" if answer.truncated else "")
    console.print(f"{rows}; {_places(asked)}")


def print_plan(console: Console, asked: Asked) -> None:
    """What DuckDB read where, as it draws it."""
    for row in asked.answer.rows:
        console.print(Text(str(row[0])), soft_wrap=True)
    console.print(_places(asked))


def _places(asked: Asked) -> str:
    return f"{asked.hot_weeks} weeks in the base, {asked.cold_weeks} in Parquet alone; {asked.seconds:,.2f} s"
