"""Types of the legacy: every printed remedy runs as it is, and types of one name are compared by what they are."""

import re
from collections.abc import Sequence
from typing import LiteralString

import psycopg

from migration_assets.domain.findings import Finding, Severity
from migration_assets.postgres.catalogue import require_table
from migration_assets.preflight.servers import examine_types
from migration_assets_tests.preflight.conftest import Findings, Patient

RICH: tuple[LiteralString, ...] = (
    "CREATE SCHEMA ext",
    "CREATE EXTENSION vector SCHEMA ext",
    'CREATE SCHEMA "odd; schema"',
    "CREATE COLLATION \"odd; schema\".plain (provider = libc, locale = 'C')",
    "CREATE COLLATION mixed (provider = libc, lc_collate = 'C', lc_ctype = 'C.UTF-8')",
    "CREATE TYPE mood AS ENUM ('it''s; a', 'b')",
    "CREATE DOMAIN pos AS int CHECK (VALUE > 0)",
    'CREATE DOMAIN "odd; schema".label AS text COLLATE "odd; schema".plain DEFAULT \'x\' NOT NULL',
    'CREATE TYPE place AS (n pos, m mood, t text COLLATE "C", "order" numeric(5,2)[], v ext.vector(3))',
    'CREATE TYPE "Way" AS (places place[], "odd "" name" "odd; schema".label, i text COLLATE mixed)',
    'CREATE TYPE tr AS RANGE (subtype = text, collation = "C")',
    "CREATE TYPE fr AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = frm)",
    "CREATE FUNCTION gap(a time, b time) RETURNS float8 LANGUAGE sql IMMUTABLE RETURN extract(hour FROM a - b)::float8",
    "CREATE TYPE span AS RANGE (subtype = time, subtype_diff = gap)",
    "CREATE TYPE pat AS RANGE (subtype = text, subtype_opclass = text_pattern_ops)",
    "CREATE TYPE held AS (days span, more frm)",
)
COLUMNS = 'p place, w "Way", r tr, f frm, s held, q pat, v ext.vector(3), l "odd; schema".label, k text COLLATE mixed'


def mend(patient: Patient, findings: Findings) -> Sequence[Finding]:
    """Run every remedy of the two codes as it is printed, in the printed order."""
    found = [one for one in findings.all if one.code in {"collations", "types"} and one.severity is Severity.BLOCKING]
    with psycopg.connect(patient.ground.databases.base_url, autocommit=True) as base:
        for one in found:
            base.execute(one.remedy.removeprefix("in the base: ").encode())
    return found


def test_the_printed_remedies_make_an_empty_base_fit_as_they_are(patient: Patient) -> None:
    patient.with_bookings(*RICH, f"ALTER TABLE bookings ADD {COLUMNS.replace(', ', ', ADD ').replace('; ADD', ';')}")
    before = patient.examine()
    assert {"types", "collations"} <= set(before.blocking)
    assert len(mend(patient, before)) == 2
    after = patient.examine()
    assert after.blocking == []
    assert after.severity("ddl_rehearsal") is Severity.INFO


def test_an_extension_in_another_schema_is_moved_to_the_legacys(patient: Patient) -> None:
    patient.with_bookings(*RICH[:2], "ALTER TABLE bookings ADD v ext.vector(3)").base("CREATE EXTENSION vector")
    mend(patient, patient.examine())
    assert patient.examine().blocking == []


# Kind and definition in the legacy, in the base, and what is said; each under a name of its own, inside another type.
DIFFERENT: tuple[tuple[LiteralString, LiteralString, LiteralString, str], ...] = (
    ("TYPE", "AS ENUM ('a', 'c', 'b')", "AS ENUM ('a', 'b', 'c')", "PostgreSQL cannot change it"),
    ("TYPE", "AS ENUM ('a', 'c', 'b')", "AS ENUM ('a', 'b')", "ADD VALUE 'c' BEFORE 'b';"),
    ("TYPE", "AS (a int, b text)", "AS (b text, a int)", "(a integer, b text) in the legacy, (b text"),
    ("TYPE", "AS (a int)", "AS (a bigint)", "a bigint) in the base"),
    ("TYPE", 'AS (a text COLLATE "C")', "AS (a text)", "AS (a text COLLATE"),
    ("DOMAIN", "AS int CHECK (VALUE > 0)", "AS int", "CHECK ((VALUE > 0)) in the legacy"),
    ("DOMAIN", "AS int DEFAULT 1", "AS int DEFAULT 2", "DEFAULT 2 in the base"),
    ("DOMAIN", "AS int", "AS bigint", "bigint in the base"),
    ("TYPE", 'AS RANGE (subtype = text, collation = "C")', "AS RANGE (subtype = text)", "COLLATION ="),
    ("TYPE", "AS RANGE (subtype = float8, subtype_diff = float8mi)", "AS RANGE (subtype = float8)", "SUBTYPE_DIFF ="),
)


def test_types_of_one_name_that_are_not_the_same_block_with_a_remedy(patient: Patient) -> None:
    for number, (kind, of_legacy, of_base, _) in enumerate(DIFFERENT):
        for side, definition in (("legacy", of_legacy), ("base", of_base)):
            patient.ground.run(
                "legacy" if side == "legacy" else "base",
                f"CREATE {kind} t{number} {definition}",  # pyright: ignore[reportArgumentType]
                f"CREATE TYPE outside{number} AS (x t{number}[])",  # pyright: ignore[reportArgumentType]
            )
    columns = ", ".join(f"ADD d{number} t{number}, ADD o{number} outside{number}[]" for number in range(len(DIFFERENT)))
    patient.with_bookings(f"ALTER TABLE bookings {columns}")  # pyright: ignore[reportArgumentType]
    databases = patient.ground.databases
    with databases.session("legacy", "test") as legacy, databases.session("base", "test") as base:
        found = examine_types(base, require_table(legacy, patient.ground.spec.table, "legacy"))
    told = {one.evidence: one for one in found if one.code == "types_differ"}
    assert {one.severity for one in told.values()} == {Severity.BLOCKING}
    for number, (*_, what) in enumerate(DIFFERENT):
        of_this = [one for one in told.values() if re.search(rf"public\.t{number}\b", one.evidence)]
        assert len(of_this) == 1, (number, list(told))
        assert what in f"{of_this[0].evidence} {of_this[0].remedy}"


def test_a_collation_of_one_name_that_sorts_in_another_way_blocks(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE COLLATION mine (provider = libc, locale = 'C')", "ALTER TABLE bookings ADD t text COLLATE mine"
    )
    patient.base("CREATE COLLATION mine (provider = libc, locale = 'C.UTF-8')")
    assert "locale = 'C.UTF-8'" in patient.examine().one("types_differ").evidence


def test_a_generated_control_column_is_refused_with_the_only_remedy_that_there_is(patient: Patient) -> None:
    patient.with_bookings(
        "ALTER TABLE bookings ADD day date NOT NULL GENERATED ALWAYS AS (date '2024-04-02' + guests) STORED"
    )
    findings = patient.table("public.bookings", "day").examine()
    assert "choose another column as MIGRATION_CONTROL_COLUMN" in findings.one("control_column").remedy
    assert "functions and collations" not in findings.text


def test_values_of_the_legacy_mean_the_same_on_the_base_or_preflight_says_of_which_column(patient: Patient) -> None:
    types: tuple[LiteralString, ...] = (
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c')",
        "CREATE TYPE place AS (n int, m mood)",
        "CREATE TYPE span AS RANGE (subtype = float8)",
    )
    columns: LiteralString = 'ADD mood mood, ADD p place, ADD s span, ADD t text COLLATE "C", ADD j json'
    patient.with_bookings(*types, f"ALTER TABLE bookings {columns}")
    patient.legacy(
        "UPDATE bookings SET mood = (ARRAY['a', 'b', 'c'])[1 + id % 3]::mood, p = ('(' || id || ',a)')::place,"
        " s = span(id, 10.5), t = 'x' || id, j = '{}' WHERE id > 2"
    )
    patient.base(*types)
    assert "27 values" in (good := patient.examine()).one("type_meaning").evidence, good.one("type_meaning")
    patient.base("DROP TYPE place", "DROP TYPE mood", "CREATE TYPE mood AS ENUM ('b', 'a', 'c')", types[1])
    assert "mood (public.mood): order of the same values differ" in patient.examine().one("type_meaning").evidence
    patient.base("DROP TYPE place", "DROP TYPE mood", "CREATE TYPE mood AS ENUM ('b', 'a')", types[1])
    evidence = patient.examine().one("type_meaning").evidence
    assert "the base refuses a value of the legacy (invalid input value for enum public.mood)" in evidence
    patient.base("DROP TYPE place", "CREATE TYPE place AS (m mood, n int)")
    assert "p (public.place): the base refuses a value" in patient.examine().one("type_meaning").evidence
