"""What runs where a rule or a trigger writes to another table belongs to what was accepted of that rule or trigger."""

from migration_assets.postgres.sessions import Connected
from migration_assets.preflight.other_writers import examine_other_writers
from migration_assets_tests.terminal.live_quarter import LiveQuarter

_TRIGGER, _RULE = ("always_trigger", "tr"), ("redirecting_rule", "aside")
_FIRING = ("aside", "further", "child", "heir", "pointing", "behind", "emptied", "read")
_ASKED = ("check", "index", "policy", "narrow", "column", "parent")
_MADE = (
    "CREATE TABLE aside (n int CHECK (by_check(n)))",
    "CREATE UNIQUE INDEX ON aside (n, by_index(n))",
    "CREATE POLICY sometimes ON aside WITH CHECK (by_policy(n))",
    "CREATE TABLE further (n int)",
    "CREATE RULE further AS ON INSERT TO aside DO ALSO INSERT INTO further VALUES (new.n)",
    "CREATE DOMAIN of_parent AS int CHECK (by_parent(VALUE))",
    "CREATE TABLE parent (n int CHECK (by_check(n)), m of_parent DEFAULT by_index(1)) PARTITION BY RANGE (n)",
    "CREATE INDEX ON parent (by_index(n))",
    "CREATE TRIGGER each BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION by_child()",
    "CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (9)",
    "CREATE TABLE ancestor (n int)",
    "CREATE TABLE heir () INHERITS (ancestor)",
    "CREATE DOMAIN narrow AS int CHECK (by_narrow(VALUE))",
    "CREATE DOMAIN narrower AS narrow",
    "CREATE DOMAIN of_column AS int CHECK (by_column(VALUE))",
    "CREATE TABLE typed (n int PRIMARY KEY, m of_column)",
    "CREATE TABLE pointing (n int REFERENCES typed ON DELETE CASCADE)",
    "CREATE TABLE behind (n int)",
    "CREATE VIEW before_it AS SELECT n FROM behind",
    "CREATE TABLE emptied (n int)",
    "CREATE TABLE read (n int)",
    """CREATE FUNCTION calls() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO -- a comment
            parent VALUES (1);
        UPDATE ONLY (ancestor) SET n = 3::narrower; DELETE FROM ONLY (typed);
        INSERT INTO before_it SELECT n FROM read;
        TRUNCATE TABLE ONLY emptied;
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER tr BEFORE UPDATE ON public.bookings FOR EACH ROW EXECUTE FUNCTION calls()",
    "ALTER TABLE public.bookings ENABLE ALWAYS TRIGGER tr",
    "CREATE RULE aside AS ON INSERT TO public.bookings DO ALSO INSERT INTO aside VALUES (new.guests)",
)


def _altered(name: str) -> str:
    if name in _FIRING:
        return f"CREATE OR REPLACE FUNCTION by_{name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    result, value = ("int", "NULL::int") if name == "index" else ("bool", "NULL::bool")
    return f"CREATE OR REPLACE FUNCTION by_{name}(a int) RETURNS {result} IMMUTABLE LANGUAGE sql AS 'SELECT {value}'"


_ALTERATIONS: tuple[tuple[str, *tuple[tuple[str, str], ...]], ...] = (
    *((_altered(name), _RULE) for name in ("aside", "further", "policy")),
    *((_altered(name), _TRIGGER, _RULE) for name in ("check", "index")),
    *(
        (_altered(name), _TRIGGER)
        for name in ("child", "heir", "narrow", "column", "parent", "pointing", "behind", "emptied")
    ),
    (_altered("read"),),
    ("CREATE TABLE another PARTITION OF parent FOR VALUES FROM (9) TO (18)",),
    ("ALTER TABLE another ENABLE ALWAYS TRIGGER each", _TRIGGER),
    ("ALTER TABLE aside ENABLE ALWAYS TRIGGER fires", _RULE),
    ("ALTER TABLE aside DISABLE RULE further", _RULE),
    ("ALTER TABLE aside ENABLE ROW LEVEL SECURITY", _RULE),
    ("ALTER TABLE child ENABLE ALWAYS TRIGGER fires", _TRIGGER),
)


def _digests(legacy: Connected, quarter: LiveQuarter) -> dict[tuple[str, str], str]:
    seen = examine_other_writers(legacy, quarter.ground.spec, "legacy")
    return {(one.code, one.subject): one.digest for one in seen}


def test_what_runs_where_a_rule_or_a_trigger_writes_belongs_to_what_was_accepted(quarter: LiveQuarter) -> None:
    functions = [
        _altered(name).replace("NULL::int", "1").replace("NULL", "NEW" if name in _FIRING else "true")
        for name in (*_FIRING, *_ASKED)
    ]
    triggers = [
        f"CREATE TRIGGER fires AFTER {'TRUNCATE' if name == 'emptied' else 'INSERT OR UPDATE OR DELETE'} ON {name}"
        f" EXECUTE FUNCTION by_{name}()"
        for name in _FIRING
    ]
    found: dict[str, set[tuple[str, str]]] = {}
    with quarter.ground.databases.session("legacy", "test") as legacy, legacy.transaction(force_rollback=True):
        legacy.execute("CREATE SCHEMA elsewhere; SET LOCAL search_path = elsewhere")
        for statement in (*functions, *_MADE, *triggers):
            legacy.execute(statement.encode())
        before = _digests(legacy, quarter)
        assert before.keys() == {_TRIGGER, _RULE}
        for statement, *_ in _ALTERATIONS:
            legacy.execute(statement.encode())
            now = _digests(legacy, quarter)
            found[statement] = {key for key in now if now[key] != before[key]}
            before = now
    assert found == {statement: set(changes) for statement, *changes in _ALTERATIONS}
