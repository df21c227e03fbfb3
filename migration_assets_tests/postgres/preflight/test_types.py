"""Types of the legacy: every printed remedy runs as it is, and types of one name are compared by what they are."""

from collections.abc import Sequence
from typing import LiteralString

import psycopg
import pytest

from migration_assets.domain.findings import Finding, Severity
from migration_assets.postgres.introspection import require_table
from migration_assets.postgres.preflight.requisites import examine_types
from migration_assets_tests.postgres.preflight.conftest import Findings, Patient

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


@pytest.mark.parametrize(
    ("of_legacy", "of_base", "what"),
    [
        ("TYPE t AS ENUM ('a', 'c', 'b')", "TYPE t AS ENUM ('a', 'b', 'c')", "PostgreSQL cannot change it"),
        ("TYPE t AS ENUM ('a', 'c', 'b')", "TYPE t AS ENUM ('a', 'b')", "ADD VALUE 'c' BEFORE 'b';"),
        ("TYPE t AS (a int, b text)", "TYPE t AS (b text, a int)", "(a integer, b text) in the legacy, (b text"),
        ("TYPE t AS (a int)", "TYPE t AS (a bigint)", "a bigint) in the base"),
        ('TYPE t AS (a text COLLATE "C")', "TYPE t AS (a text)", "CREATE TYPE public.t AS (a text COLLATE"),
        ("DOMAIN t AS int CHECK (VALUE > 0)", "DOMAIN t AS int", "CHECK ((VALUE > 0)) in the legacy"),
        ("DOMAIN t AS int DEFAULT 1", "DOMAIN t AS int DEFAULT 2", "DEFAULT 2 in the base"),
        ("DOMAIN t AS int", "DOMAIN t AS bigint", "bigint in the base"),
        ('TYPE t AS RANGE (subtype = text, collation = "C")', "TYPE t AS RANGE (subtype = text)", "COLLATION ="),
        ("TYPE t AS RANGE (subtype = float8, subtype_diff = float8mi)", "TYPE t AS RANGE (subtype = float8)", "DIFF ="),
        ("TYPE t AS ENUM ('a')", "TYPE t AS (a int)", "of another kind"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_types_of_one_name_that_are_not_the_same_block_with_a_remedy(
    patient: Patient, of_legacy: LiteralString, of_base: LiteralString, what: str, *, wrapped: bool
) -> None:
    outer: LiteralString = "CREATE TYPE outside AS (x t[])" if wrapped else "CREATE DOMAIN outside AS t"
    patient.with_bookings(f"CREATE {of_legacy}", outer, "ALTER TABLE bookings ADD o outside[]")
    patient.base(f"CREATE {of_base}", outer)
    with patient.ground.databases.session("legacy", "test") as legacy, \
         patient.ground.databases.session("base", "test") as base:  # fmt: skip
        found = examine_types(base, require_table(legacy, patient.ground.spec.table, "legacy"))
    differing = [one for one in found if one.code == "types_differ"]
    assert {one.severity for one in differing} == {Severity.BLOCKING}
    assert what in " ".join(f"{one.evidence} {one.remedy}" for one in differing)


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
