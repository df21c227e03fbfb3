"""What the catalogue says of a table: the same whatever else the table has, and of one moment."""

import threading

import psycopg
import pytest

from migration_assets.domain.table_description import Drawn
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.catalogue import describe_table
from migration_assets_tests.ground import Ground


def test_a_constant_names_one_sequence_whatever_other_schemas_have_and_whatever_types_the_table_has(
    ground: Ground,
) -> None:
    ground.run(
        "legacy",
        "CREATE SCHEMA other; CREATE SEQUENCE own; CREATE SEQUENCE other.own; CREATE TYPE mood AS ENUM ('a')",
        "CREATE TABLE plain (id bigint PRIMARY KEY DEFAULT nextval('own'))",
        "CREATE TABLE moody (id bigint PRIMARY KEY DEFAULT nextval('own'), m mood)",
        "CREATE TABLE named (id bigint PRIMARY KEY DEFAULT nextval(('other.own'::text)::regclass))",
    )
    found = {name: drawn(ground, name) for name in ("plain", "moody", "named")}
    assert found["plain"] == found["moody"] == {("public.own", Drawn.DEFAULT)}
    # A text may mean any that has the name.
    assert found["named"] == {("public.own", Drawn.FUNCTION), ("other.own", Drawn.FUNCTION)}


def test_a_trigger_whose_function_lies_in_schema_migration_and_is_not_ours_draws_like_any_other(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE SCHEMA IF NOT EXISTS migration; CREATE SEQUENCE own; CREATE TABLE t (id bigint PRIMARY KEY)",
        "CREATE FUNCTION migration.theirs() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.id := nextval(''own''); RETURN NEW; END'",
        "CREATE TRIGGER theirs BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION migration.theirs()",
    )
    assert drawn(ground, "t") == {("public.own", Drawn.TRIGGER)}


@pytest.mark.long
def test_a_table_that_is_altered_meanwhile_is_described_as_it_was_before_or_after(ground: Ground) -> None:
    ground.run(
        "legacy",
        "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id bigint PRIMARY KEY, m mood, note text)",
    )
    over = threading.Event()

    def alter() -> None:
        with psycopg.connect(ground.databases.legacy_url, autocommit=True) as other:
            while not over.is_set():
                for collation in ('"C"', '"POSIX"', '"default"'):
                    other.execute(f"ALTER TABLE t ALTER note TYPE text COLLATE {collation}".encode())

    thread = threading.Thread(target=alter)
    thread.start()
    try:
        with ground.databases.session("legacy", "test") as connection:
            for _ in range(60):
                found = describe_table(connection, QualifiedName("public", "t"))
                assert found is not None
                named = {column.collation for column in found.columns if column.collation}
                assert named == {collation.name for collation in found.collations}
    finally:
        over.set()
        thread.join()


def drawn(ground: Ground, table: str) -> set[tuple[str, Drawn]]:
    """Each sequence that a new row draws from, and how that is known."""
    with ground.databases.session("legacy", "test") as connection:
        found = describe_table(connection, QualifiedName("public", table))
    assert found is not None
    return {(use.sequence, use.how) for use in found.sequence_uses}
