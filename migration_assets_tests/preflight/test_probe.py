"""The fingerprint probe: the same figures on both servers, by the rules that real columns follow."""

from dataclasses import replace

from psycopg import sql

from migration_assets.domain.findings import Severity
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.postgres.catalogue import require_table
from migration_assets.postgres.sql_text import raw_sql
from migration_assets.preflight.meaning import PROBE, examine_probe, probe_fingerprint
from migration_assets_tests.preflight.conftest import Patient


def test_the_probe_hashes_each_type_just_as_a_real_column_of_it_is_hashed(patient: Patient) -> None:
    with patient.ground.databases.session("base", "test") as base:
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(f"c{number}"), raw_sql(column.type_name))
            for number, column in enumerate(PROBE)
        ]
        base.execute(sql.SQL("CREATE TABLE public.all_types ({})").format(sql.SQL(", ").join(columns)))
        described = require_table(base, QualifiedName("public", "all_types"), "base").columns
    assert [(c.type_name, c.hashing, c.send_function) for c in described] == [
        (c.type_name, c.column("x").hashing, c.send_function) for c in PROBE
    ]


def test_every_single_value_of_the_probe_changes_its_fingerprint(patient: Patient) -> None:
    with patient.ground.databases.session("legacy", "test") as legacy:
        for column in PROBE:
            whole = probe_fingerprint(legacy, (column,))
            for number in range(len(column.values)):
                values = column.values[:number] + column.values[number + 1 :]
                without = probe_fingerprint(legacy, (replace(column, values=values),))
                assert not whole.same_checksums(without), (column.type_name, column.values[number])


def test_a_server_that_hashes_one_type_in_another_way_is_refused_with_both_figures_and_the_type(
    patient: Patient,
) -> None:
    databases = patient.ground.databases
    with databases.session("legacy", "test") as legacy, databases.session("base", "test") as base:
        good = examine_probe(legacy, base)[0]
        # A patched server: this session finds another int8send before the system's.
        base.execute("CREATE FUNCTION public.int8send(bigint) RETURNS bytea LANGUAGE sql AS $$SELECT 'x'::bytea$$")
        base.execute("SET search_path = public, pg_catalog")
        bad = examine_probe(legacy, base)[0]
    assert (good.severity, bad.severity) == (Severity.INFO, Severity.BLOCKING)
    assert bad.evidence.endswith("; different for bigint")
    assert bad.evidence.count("checksum") == 2


def test_a_server_that_cannot_hash_at_all_is_refused_by_name(patient: Patient) -> None:
    databases = patient.ground.databases
    with databases.session("legacy", "test") as legacy, databases.session("base", "test") as base:
        base.execute("SET search_path = public, pg_catalog")
        base.execute(
            "CREATE FUNCTION public.int8send(bigint) RETURNS bytea LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$"
        )
        finding = examine_probe(legacy, base)[0]
    assert finding.severity is Severity.BLOCKING
    assert finding.evidence.startswith("the base cannot hash the fixed rows: RaiseException")
