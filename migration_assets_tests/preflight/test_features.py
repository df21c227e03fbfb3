"""Everything that hangs on the table is found in the catalogue, told with statements that run, and never silent."""

import secrets
from pathlib import Path

import psycopg
import pytest

from migration_assets.domain.findings import Severity
from migration_assets.postgres.sessions import Side
from migration_assets.preflight.table_features import BY_KIND, FEATURES, Hanging, judge_features, matrix, read_features
from migration_assets_tests.preflight.conftest import Patient

_ROOT = Path(__file__).resolve().parents[2]


def hanging(patient: Patient, side: Side) -> list[Hanging]:
    with patient.ground.databases.session(side, "test") as connection:
        return read_features(connection, patient.ground.spec.table)


def do(patient: Patient, side: Side, *statements: str) -> None:
    """As somebody pastes them who has his own search_path."""
    with psycopg.connect(patient.ground.databases.url(side), autocommit=True) as session:
        for statement in statements:
            session.execute("SET search_path = pg_catalog")
            session.execute(statement.encode())


def test_the_documentations_matrix_is_the_table_that_the_code_judges_by() -> None:
    written = (_ROOT / "docs" / "what-hangs-on-a-table.md").read_text()
    assert written == matrix(), "python -m migration_assets.preflight.table_features > docs/what-hangs-on-a-table.md"
    assert "(docs/what-hangs-on-a-table.md)" in (_ROOT / "README.md").read_text()
    assert len({feature.kind for feature in FEATURES}) == len(FEATURES)


def test_each_kind_is_found_and_its_statements_make_it_on_the_base(patient: Patient) -> None:
    role = f"clerk_{secrets.token_hex(4)}"
    patient.with_bookings(
        "CREATE TABLE sizes (guests int PRIMARY KEY)",
        "INSERT INTO sizes SELECT generate_series(1, 10)",
        "ALTER TABLE bookings ADD CONSTRAINT its_size FOREIGN KEY (guests) REFERENCES sizes",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        'CREATE TRIGGER "touch; it" BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()',
        'ALTER TABLE bookings DISABLE TRIGGER "touch; it"',
        "CREATE RULE keep AS ON DELETE TO bookings WHERE OLD.guests = 99 DO INSTEAD NOTHING",
        "CREATE POLICY mine ON bookings AS RESTRICTIVE FOR UPDATE USING (guests > 1) WITH CHECK (guests > 2)",
        "CREATE STATISTICS together ON guests, price FROM bookings",
        "ALTER TABLE bookings SET (fillfactor = 70, toast.autovacuum_enabled = off)",
        "ALTER TABLE bookings ALTER note SET STATISTICS 1000",
        "ALTER TABLE bookings ALTER guests SET (n_distinct = -0.5)",
        "CREATE VIEW daily WITH (security_barrier = true) AS SELECT date_trunc('day', booked_at) AS day FROM bookings",
        'CREATE VIEW "A view" AS SELECT day FROM daily',
        "CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM bookings",
        "CREATE FUNCTION busy() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM bookings; END",
        "CREATE FUNCTION takes(b bookings) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION upsert() RETURNS void LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO bookings (id) VALUES (1) ON CONFLICT (id) DO NOTHING; END'",
        "CREATE FUNCTION other() RETURNS text LANGUAGE sql AS $$SELECT 'overbookings'$$",
    )
    patient.base("CREATE TABLE sizes (guests int PRIMARY KEY)")
    patient.ground.open()
    # Both servers of these tests have roles of their own.
    do(patient, "legacy", f"CREATE ROLE {role}")
    do(patient, "base", f"CREATE ROLE {role}")
    try:
        do(patient, "legacy", f"GRANT SELECT ON public.bookings TO {role}",
           f"GRANT UPDATE (guests, note) ON public.bookings TO {role}",
           f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {role}")  # fmt: skip
        found = hanging(patient, "legacy")
        assert {one.kind for one in found} == {
            "outgoing foreign key", "trigger", "rule", "row security policy", "extended statistics",
            "storage parameter", "statistics target", "column option", "view", "materialized view",
            "function that uses it", "function whose text names it", "privilege", "column privilege",
            "default privilege",
        }  # fmt: skip
        assert [one.name for one in found if one.kind == "view"] == ["public.daily", 'public."A view"']
        assert [one.name for one in found if one.kind == "function whose text names it"] == ["public.upsert()"]
        wanted = {(one.kind, one.name) for one in found}
        assert wanted - {(one.kind, one.name) for one in hanging(patient, "base")} == wanted
        assert all(one.statement for one in found)
        do(patient, "base", *(one.statement or "" for one in found))
        assert wanted - {(one.kind, one.name) for one in hanging(patient, "base")} == set()
        # What is missing on a single leaf is not made.
        patient.base("ALTER TABLE bookings_fy25_q2_w05 RESET (fillfactor)")
        left = wanted - {(one.kind, one.name) for one in hanging(patient, "base")}
        assert left == {("storage parameter", "fillfactor=70")}
    finally:
        for side in ("legacy", "base"):
            do(patient, side, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_what_no_row_of_the_table_names_is_told_as_unknown(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE FUNCTION same(bookings, bookings) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR === (LEFTARG = bookings, RIGHTARG = bookings, FUNCTION = same)",
        "CREATE TABLE old (b bookings)",
    )
    findings = patient.examine()
    unknown = findings.one("unknown_kind")
    assert (unknown.severity, "operator" in unknown.evidence) == (Severity.WARNING, True), unknown.evidence
    assert "public.old.b" in findings.one("row_type_used").evidence
    # A kind that some later version of the query finds, and the table does not know.
    [told] = judge_features([Hanging("something new", "it", "it", None)], before_cutover=True)
    assert (told.code, told.severity) == ("unknown_kind", Severity.WARNING)
    assert "something new" in told.evidence


@pytest.mark.parametrize("before_cutover", [False, True])
def test_every_kind_can_be_judged(before_cutover: bool) -> None:
    things = [Hanging(kind, "a name", "a name", "SELECT 1;") for kind in BY_KIND]
    findings = judge_features(things, before_cutover=before_cutover)
    assert all("SELECT 1;" in one.remedy for one in findings)
    accepted = [one.code for one in findings if one.acceptable]
    assert accepted == (["incoming_foreign_key"] if before_cutover else [])
