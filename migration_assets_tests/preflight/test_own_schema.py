"""A schema `migration` of somebody else: named before anything is copied, never replaced, never used."""

import secrets

import psycopg
import pytest

from migration_assets.domain.errors import ForeignObjectError
from migration_assets.domain.findings import Area, Severity
from migration_assets.ledger.charge import read_cutover_facts
from migration_assets.ledger.own_objects import TAG, drop_own_objects, read_quarantine
from migration_assets.ledger.preflights import record_acceptance
from migration_assets.ledger.schema import ensure_ledger, has_ledger
from migration_assets.postgres.sessions import Side
from migration_assets.retirement.checks import of_quarantine
from migration_assets_tests.preflight.conftest import Patient


def do(patient: Patient, side: Side, statement: str) -> None:
    with psycopg.connect(patient.ground.databases.url(side), autocommit=True) as session:
        session.execute(statement.encode())


def test_a_table_of_somebody_elses_with_our_name_stops_preflight_and_the_stream(patient: Patient) -> None:
    patient.with_bookings(
        "CREATE SCHEMA migration",
        "CREATE TABLE migration.markers (x int)",
        "CREATE TABLE migration.customers (x int)",
        "CREATE FUNCTION migration.refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    found = patient.examine()
    assert found.blocking == ["own_schema"]
    said = found.one("own_schema", "legacy")
    assert not said.acceptable
    for name in ("table migration.markers of", "function migration.refuse_truncate() of", "table customers of"):
        assert name in said.evidence
    with pytest.raises(ForeignObjectError, match=r"migration\.markers of"):
        patient.ground.streamed()
    body = "SELECT prosrc FROM pg_proc WHERE proname = 'refuse_truncate'"
    assert patient.ground.one("legacy", body) == "BEGIN RETURN NULL; END", "nothing of theirs is replaced"
    # As the remedy says; what else they have there stays, and is no obstacle.
    patient.legacy(
        "ALTER TABLE migration.markers RENAME TO their_markers", "CREATE SCHEMA theirs",
        "ALTER FUNCTION migration.refuse_truncate() SET SCHEMA theirs",
    )  # fmt: skip
    healthy = patient.examine()
    assert healthy.blocking == []
    assert "table customers of" in healthy.one("own_schema", "legacy").evidence
    patient.ground.stream()
    patient.ground.assert_same()


def test_a_ledger_of_somebody_elses_is_not_taken_for_ours(patient: Patient) -> None:
    patient.with_bookings().base(
        "CREATE SCHEMA migration",
        "CREATE TABLE migration.schema_versions (version text, script text)",
        "CREATE VIEW migration.slices AS SELECT 1 AS pizza",
    )
    found = patient.examine()
    assert set(found.blocking) == {"own_schema", "ddl_rehearsal"}
    said = found.one("own_schema", "base").evidence
    assert "table migration.schema_versions of" in said
    assert "view migration.slices of" in said
    with (
        patient.ground.databases.session("base", "test") as base,
        pytest.raises(ForeignObjectError, match=r"view migration\.slices"),
    ):
        ensure_ledger(base)
    patient.base("DROP VIEW migration.slices", "ALTER TABLE migration.schema_versions RENAME TO theirs")
    assert patient.examine().blocking == []
    patient.ground.open()
    # A ledger that is ours is so with everything in it.
    assert patient.examine().severity("own_schema", "base") is Severity.INFO


@pytest.mark.long
def test_what_an_earlier_version_made_without_a_comment_is_ours_and_a_strangers_ownership_is_not(
    patient: Patient,
) -> None:
    patient.with_bookings().ground.streamed()
    patient.legacy(
        "COMMENT ON TABLE migration.markers IS NULL", "COMMENT ON SEQUENCE migration.marker_id IS NULL",
        "COMMENT ON FUNCTION migration.refuse_truncate() IS NULL",
    )  # fmt: skip
    assert patient.examine().blocking == []
    patient.ground.stream(rebuild=True)
    role = f"stranger_{secrets.token_hex(4)}"
    do(patient, "legacy", f"CREATE ROLE {role}")
    try:
        for what in ("TABLE migration.markers", "FUNCTION migration.refuse_truncate()"):
            do(patient, "legacy", f"ALTER {what} OWNER TO {role}")
        found = patient.examine()
        assert found.blocking == ["own_schema"]
        said = found.one("own_schema", "legacy")
        assert f"role {role} owns" in said.evidence
        assert not said.acceptable, "its owner can have anything run as our role"
        with pytest.raises(ForeignObjectError, match=f"role {role} owns function"):
            patient.ground.stream(rebuild=True)
        do(patient, "legacy", said.remedy.removeprefix("in the legacy: "))
        assert patient.examine().blocking == []
    finally:
        do(patient, "legacy", f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def test_what_has_our_comment_is_ours_whatever_is_in_it_and_another_comment_makes_nothing_ours(
    patient: Patient,
) -> None:
    patient.with_bookings()
    patient.legacy(
        "CREATE SCHEMA migration",
        "CREATE TABLE migration.markers (n int)",
        "CREATE FUNCTION migration.wait_at_reverse_marker() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    )
    names = ("TABLE migration.markers", "FUNCTION migration.wait_at_reverse_marker()")
    for comment, others in ((None, 2), ("markers of migration_assets: old ones", 2), (f"{TAG}one of ours", 0)):
        for name in names:
            do(patient, "legacy", f"COMMENT ON {name} IS {'NULL' if comment is None else repr(comment)}")
        said = patient.examine().one("own_schema", "legacy")
        assert (said.severity is Severity.BLOCKING) == bool(others)
        assert sum(name.partition(" ")[2] in said.evidence for name in names) == others
    with patient.ground.databases.session("legacy", "test") as legacy:
        drop_own_objects(legacy)
        assert legacy.execute("SELECT to_regclass('migration.markers')").fetchone() == (None,)


_PREPARED = """
CREATE SCHEMA migration;
GRANT ALL ON SCHEMA migration TO PUBLIC;
CREATE TABLE migration.schema_versions (version integer PRIMARY KEY, upgraded_at timestamptz DEFAULT now());
CREATE TABLE migration.caught (who text);
GRANT ALL ON ALL TABLES IN SCHEMA migration TO PUBLIC;
CREATE FUNCTION migration.catch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO migration.caught VALUES (current_user); RETURN NEW; END $$;
CREATE TRIGGER catch BEFORE INSERT ON migration.schema_versions FOR EACH ROW EXECUTE FUNCTION migration.catch();
CREATE FUNCTION migration.see() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO migration.caught VALUES (current_user); RETURN true; END $$;
CREATE POLICY see ON migration.schema_versions USING (migration.see());
ALTER TABLE migration.schema_versions ENABLE ROW LEVEL SECURITY
"""


def test_a_ledger_that_a_stranger_has_prepared_runs_none_of_his_statements_as_us(patient: Patient) -> None:
    """Whoever may create in a database can be there first."""
    patient.with_bookings()
    role = f"stranger_{secrets.token_hex(4)}"
    do(patient, "base", f"CREATE ROLE {role}")
    try:
        database = str(patient.ground.one("base", "SELECT current_database()"))
        do(patient, "base", f"GRANT CREATE ON DATABASE {database} TO {role}")
        do(patient, "base", f"SET ROLE {role}; {_PREPARED}")
        found = patient.examine()
        assert "own_schema" in found.blocking
        said = [finding for finding in found.all if finding.code == "own_schema" and finding.area == Area.BASE]
        assert f"role {role} owns table migration.schema_versions" in said[0].evidence
        assert [one.acceptable for one in said] == [False, True, True], (
            "the owner of the schema, and PUBLIC, who writes"
        )
        with patient.ground.databases.session("base", "test") as base:
            with pytest.raises(ForeignObjectError, match=rf"role {role} owns table migration\.schema_versions"):
                ensure_ledger(base)
            assert not has_ledger(base), "there is nothing of that name yet"
            assert not read_cutover_facts(base, "public.bookings").ledger
        assert patient.ground.one("base", "SELECT count(*) FROM migration.caught") == 0
    finally:
        do(patient, "base", f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    assert patient.examine().blocking == []


@pytest.mark.long
def test_a_right_that_lets_a_stranger_into_the_ledger_is_found_and_what_runs_his_statements_is_refused(
    patient: Patient,
) -> None:
    patient.with_bookings().ground.streamed()
    role = f"stranger_{secrets.token_hex(4)}"
    do(patient, "base", f"CREATE ROLE {role}")
    grants = {
        "CREATE ON SCHEMA migration": f"{role} is neither our role nor a superuser",
        "UPDATE ON migration.slices": f"{role} is neither our role nor a superuser",
        "UPDATE (state) ON migration.slices": f"{role} is neither our role nor a superuser",
        "REFERENCES ON migration.watchers": "may references migration.watchers",
        "MAINTAIN ON migration.watchers": "may maintain migration.watchers",
        "TRIGGER ON migration.slices": f"{role} may put triggers on migration.slices",
    }
    try:
        for right, evidence in grants.items():
            do(patient, "base", f"GRANT {right} TO {role}")
            found = patient.examine()
            assert "own_schema" in found.blocking, right
            said = found.one("own_schema", "base")
            assert evidence in said.evidence
            assert said.acceptable == ("TRIGGER" not in right)
            if "TRIGGER" in right:
                with pytest.raises(ForeignObjectError, match=r"may put triggers on migration\.slices"):
                    patient.ground.copy(1)
            do(patient, "base", said.remedy.partition("in the base: ")[2].partition(" --")[0])
        do(patient, "base", f"GRANT SELECT ON ALL TABLES IN SCHEMA migration TO {role}")
        assert patient.examine().blocking == []
    finally:
        do(patient, "base", f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.long
def test_a_quarantine_that_a_stranger_may_empty_is_refused_and_what_he_keeps_there_is_named(patient: Patient) -> None:
    patient.with_bookings()
    assert patient.examine().severity("quarantine") is Severity.INFO
    role = f"stranger_{secrets.token_hex(4)}"
    do(patient, "base", f"CREATE ROLE {role}; CREATE SCHEMA migration_quarantine AUTHORIZATION {role}")
    try:
        do(patient, "base", "CREATE TABLE migration_quarantine.bookings_fy25_q2_w05 (theirs int)")
        found = patient.examine()
        assert found.blocking == ["quarantine"]
        owned, kept = (one for one in found.all if one.code == "quarantine")
        assert f"belongs to role {role}, who may drop the weeks in it" in owned.evidence
        assert (owned.acceptable, owned.subject) == (True, role)
        assert "bookings_fy25_q2_w05" in kept.evidence
        # The same is said, in other words, where a week is to leave the root.
        ground = patient.ground.streamed()
        with ground.databases.session("base", "test") as base:
            said = [*of_quarantine(base, ground.record(5))]
            assert [role in said[0], "exists already" in said[1], len(said)] == [True, True, 2]
            record_acceptance(base, ground.spec.relation, owned, by="Ada", reason="our own DBA")
            assert len([*of_quarantine(base, ground.record(4))]) == 0
        do(patient, "base", owned.remedy.partition("in the base: ")[2].partition(" --")[0])
        do(patient, "base", "DROP TABLE migration_quarantine.bookings_fy25_q2_w05")
        assert patient.examine().severity("quarantine") is Severity.INFO
    finally:
        do(patient, "base", f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def test_whose_the_quarantine_is_goes_by_what_our_own_role_may(patient: Patient) -> None:
    group, team, weak = (f"{kind}_{secrets.token_hex(4)}" for kind in ("group", "team", "weak"))
    do(patient, "base", f"CREATE ROLE {group}; CREATE ROLE {team} IN ROLE {group}; CREATE ROLE {weak}")
    do(patient, "base", "CREATE SCHEMA migration_quarantine")
    do(patient, "base", f"ALTER SCHEMA migration_quarantine OWNER TO {group}")

    def seen(role: str | None) -> tuple[str | None, str | None]:
        with patient.ground.databases.session("base", "test") as base:
            if role is not None:
                base.execute(f"SET ROLE {role}".encode())
            found = read_quarantine(base)
        return found.owner, found.missing_right

    try:
        assert seen(None) == (group, None), "a superuser is no member of everything"
        assert seen(weak) == (group, weak)
        do(patient, "base", f"GRANT USAGE, CREATE ON SCHEMA migration_quarantine TO {weak}")
        assert seen(weak) == (group, None)
        do(patient, "base", f"REVOKE ALL ON SCHEMA migration_quarantine FROM {weak}; GRANT {team} TO {weak}")
        assert seen(weak) == (None, None)
    finally:
        do(patient, "base", f"DROP SCHEMA migration_quarantine; DROP ROLE {weak}, {team}, {group}")


_LEFT_BEHIND = """
CREATE SCHEMA his;
GRANT USAGE ON SCHEMA his TO PUBLIC;
CREATE TABLE his.caught (who text);
GRANT ALL ON his.caught TO PUBLIC;
CREATE FUNCTION his.see() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO his.caught VALUES (current_user); RETURN true; END $$;
CREATE FUNCTION his.when_seen() RETURNS timestamptz LANGUAGE sql AS 'SELECT now() WHERE his.see()';
CREATE FUNCTION his.seen(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM his.see(); RETURN $1; END';
CREATE FUNCTION his.more(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT his.see()';
CREATE OPERATOR his.>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = his.more);
CREATE DOMAIN his.number AS integer CHECK (his.see());
CREATE SCHEMA migration;
CREATE TABLE his.above (version integer, upgraded_at timestamptz);
CREATE TABLE migration.schema_versions (
    version integer PRIMARY KEY, upgraded_at timestamptz DEFAULT his.when_seen(),
    twice integer GENERATED ALWAYS AS (his.seen(version)) STORED, checked his.number,
    CONSTRAINT looked CHECK (version OPERATOR(his.>>>) 0)) INHERITS (his.above);
CREATE INDEX looked_up ON migration.schema_versions (his.seen(version));
CREATE TRIGGER looks BEFORE UPDATE ON migration.schema_versions FOR EACH ROW WHEN (his.see())
    EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE RULE sees AS ON INSERT TO migration.schema_versions DO ALSO INSERT INTO his.caught VALUES (current_user);
CREATE TABLE his.below () INHERITS (migration.schema_versions);
CREATE VIEW migration.hot_0123456789ab AS SELECT his.see() AS x;
CREATE FUNCTION migration.hot_0123456789ab() RETURNS boolean LANGUAGE sql AS 'SELECT his.see()'
"""


def test_what_a_stranger_left_on_a_table_of_ours_is_found_when_the_table_is_his_no_longer(patient: Patient) -> None:
    """The owner is what one looks at first, and to change it is what one does first."""
    patient.with_bookings()
    role = f"stranger_{secrets.token_hex(4)}"
    do(patient, "base", f"CREATE ROLE {role}")
    try:
        database = str(patient.ground.one("base", "SELECT current_database()"))
        do(patient, "base", f"GRANT CREATE ON DATABASE {database} TO {role}; SET ROLE {role}; {_LEFT_BEHIND}")
        do(patient, "base", "ALTER TABLE migration.schema_versions OWNER TO CURRENT_USER")
        do(patient, "base", "ALTER SCHEMA migration OWNER TO CURRENT_USER")
        found = patient.examine()
        assert "own_schema" in found.blocking
        said = found.one("own_schema", "base")
        with (
            patient.ground.databases.session("base", "test") as base,
            pytest.raises(ForeignObjectError, match="could have its statements run as our role") as refused,
        ):
            ensure_ledger(base)
        for left in ("default value for column upgraded_at", "default value for column twice", "constraint looked",
                     "column checked of table", "index migration.looked_up", "trigger looks", "rule sees",
                     "his.below inherits from", "inherits from his.above", "owns view migration.hot_0123456789ab",
                     "owns function migration.hot_0123456789ab()", "on view migration.hot_0123456789ab"):  # fmt: skip
            assert left in str(refused.value)
        assert patient.ground.one("base", "SELECT count(*) FROM his.caught") == 0
        do(patient, "base", said.remedy.removeprefix("in the base: "))
        assert patient.examine().blocking == [], "the remedy takes away all of it"
        with patient.ground.databases.session("base", "test") as base:
            ensure_ledger(base)
        assert patient.ground.one("base", "SELECT count(*) FROM his.caught") == 0
    finally:
        do(patient, "base", f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_table_and_a_domain_that_a_stranger_made_first_are_not_loaded_into_unseen(patient: Patient) -> None:
    patient.legacy("CREATE DOMAIN headcount AS integer CHECK (VALUE > 0)")
    patient.with_bookings(
        "ALTER TABLE bookings ALTER COLUMN guests TYPE headcount",
        "CREATE SEQUENCE numbers", "ALTER TABLE bookings ALTER COLUMN price SET DEFAULT nextval('numbers')",
    )  # fmt: skip
    role = f"stranger_{secrets.token_hex(4)}"
    do(patient, "base", f"CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}")
    try:
        do(
            patient,
            "base",
            f"SET ROLE {role}; CREATE DOMAIN headcount AS integer CHECK (VALUE > 0); CREATE TABLE bookings (id bigint,"
            " booked_at timestamptz, guests headcount DEFAULT 1, price numeric, note text, PRIMARY KEY (id, booked_at))"
            " PARTITION BY RANGE (booked_at); CREATE SEQUENCE numbers",
        )
        found = patient.examine()
        assert found.blocking == ["base_owner"]
        said = found.one("base_owner")
        assert (said.acceptable, said.subject) == (True, role)
        assert said.definition.splitlines() == [
            "table public.bookings", "domain public.headcount", "sequence public.numbers",
        ]  # fmt: skip
        do(patient, "base", said.remedy.partition("in the base: ")[2].partition(" --")[0])
        assert patient.examine().severity("base_owner") is Severity.INFO
    finally:
        do(patient, "base", f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
