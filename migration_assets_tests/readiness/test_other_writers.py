"""What writes to the table beside applications and our stream blocks, until its remedy ran or a person accepted it."""

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from migration_assets.domain.definitions import TableState
from migration_assets.domain.findings import Acceptance, Finding, Severity, blocking, with_acceptances
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets.ledger.definitions import table_states
from migration_assets.preflight.other_writers import examine_both
from migration_assets_tests.cutover.strangers import stranger
from migration_assets_tests.readiness.conftest import looking
from migration_assets_tests.terminal.live_quarter import LiveQuarter

_TOUCH = "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"


def found(quarter: LiveQuarter) -> dict[tuple[str, str], Finding]:
    with looking(quarter) as sides:
        seen = examine_both(sides.legacy, sides.base, sides.spec)
    assert all(one.acceptable for one in seen if one.severity is Severity.BLOCKING)
    return {(one.code, one.subject): one for one in seen if one.severity is Severity.BLOCKING}


def mend(quarter: LiveQuarter, finding: Finding) -> None:
    """Exactly what it says."""
    side = "base" if "on the base: " in finding.remedy else "legacy"
    with psycopg.connect(quarter.ground.databases.url(side), autocommit=True) as client:
        client.execute(finding.remedy.partition(f"on the {side}: ")[2].partition(" --")[0].encode())


def test_triggers_that_fire_for_streams_and_rules_block_until_mended_or_accepted(quarter: LiveQuarter) -> None:
    ground = quarter.ground
    assert found(quarter) == {}, "neither our own triggers, nor our own subscription, nor those of foreign keys"
    for side in ("legacy", "base"):
        ground.run(side, _TOUCH, "CREATE TABLE public.aside (LIKE bookings)")
        ground.run(
            side,
            "CREATE TRIGGER tr BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE TRIGGER copy AFTER INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE TRIGGER plain BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE TRIGGER counted AFTER INSERT ON bookings FOR EACH STATEMENT EXECUTE FUNCTION touch()",
            "ALTER TABLE bookings ENABLE ALWAYS TRIGGER tr, ENABLE REPLICA TRIGGER copy, ENABLE ALWAYS TRIGGER counted",
            "CREATE RULE aside AS ON INSERT TO bookings WHERE new.guests > 99 DO ALSO INSERT INTO aside VALUES (new.*)",
            "CREATE RULE off AS ON DELETE TO bookings DO ALSO DELETE FROM aside",
            "ALTER TABLE bookings DISABLE RULE off",
        )
    ground.run("base", "CREATE TRIGGER late AFTER UPDATE ON bookings_fy25_q2_w05 FOR EACH ROW EXECUTE FUNCTION touch()",
               "ALTER TABLE bookings_fy25_q2_w05 ENABLE ALWAYS TRIGGER late",
               # An ordinary one of the root, whose clone on one leaf is not.
               "CREATE TRIGGER sly BEFORE UPDATE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
               "ALTER TABLE bookings_fy25_q2_w07 ENABLE ALWAYS TRIGGER sly")  # fmt: skip
    seen = found(quarter)
    assert seen.keys() == {
        ("always_trigger", "tr"), ("always_trigger", "copy"), ("redirecting_rule", "aside"),
        ("always_trigger_in_base", "tr"), ("always_trigger_in_base", "copy"), ("redirecting_rule_in_base", "aside"),
        ("always_trigger_in_base", "late on public.bookings_fy25_q2_w05"),
        ("always_trigger_in_base", "sly on public.bookings_fy25_q2_w07"),
    }  # fmt: skip
    assert "ENABLE REPLICA" in seen["always_trigger", "copy"].evidence
    at = ground.one("base", "SELECT now()")
    acceptances = [Acceptance(*key, "Ada", "it only counts", at, one.digest) for key, one in seen.items()]
    assert not blocking(with_acceptances(seen.values(), acceptances))
    # What was made anew under the same name, or does something else by now, is another thing.
    ground.run(
        "legacy",
        "DROP TRIGGER copy ON bookings",
        "CREATE TRIGGER copy AFTER INSERT OR DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION touch()",
        "ALTER TABLE bookings ENABLE REPLICA TRIGGER copy",
        "CREATE OR REPLACE RULE aside AS ON INSERT TO bookings DO INSTEAD NOTHING",
    )
    ground.run("base", _TOUCH.replace("CREATE", "CREATE OR REPLACE").replace("NEW;", "NULL;"))
    waiting = blocking(with_acceptances(found(quarter).values(), acceptances))
    changed = {key for key in seen if key[0].startswith("always_trigger_in_base")}
    assert {(one.code, one.subject) for one in waiting} == {
        ("always_trigger", "copy"), ("redirecting_rule", "aside"), *changed,
    }  # fmt: skip
    for one in seen.values():
        mend(quarter, one)
    assert found(quarter) == {}
    for side in ("legacy", "base"):
        ground.run(side, "DROP FUNCTION public.touch() CASCADE", "DROP TABLE public.aside CASCADE")


_CALLED = (
    """CREATE FUNCTION public."the inner one"() RETURNS bool LANGUAGE sql RETURN true""",
    """CREATE FUNCTION public.Helper(n int) RETURNS bool LANGUAGE sql AS 'SELECT n > 1 AND public."the inner one"()'""",
    "CREATE FUNCTION public.odd(n int) RETURNS bool LANGUAGE sql AS 'SELECT n % 2 = 1'",
    "CREATE FUNCTION public.aside_of(n int) RETURNS int LANGUAGE sql AS 'SELECT n'",
    "CREATE FUNCTION public.of_nobody(n int) RETURNS int LANGUAGE sql AS 'SELECT n'",
    "CREATE TABLE public.aside (n int)",
    "CREATE FUNCTION public.by_operator(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OPERATOR public.<+> (LEFTARG = int, RIGHTARG = int, FUNCTION = by_operator)",
    "CREATE TYPE public.pair AS (a int, b int)",
    "CREATE FUNCTION public.by_cast(a pair) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE CAST (pair AS int) WITH FUNCTION public.by_cast(pair)",
    "CREATE FUNCTION public.by_aggregate(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE AGGREGATE public.summed(int) (SFUNC = by_aggregate, STYPE = int)",
    "CREATE FUNCTION public.by_view() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE VIEW public.seen AS SELECT public.by_view() AS n",
    "CREATE FUNCTION public.by_domain(a int) RETURNS bool LANGUAGE sql AS 'SELECT true'",
    "CREATE DOMAIN public.small AS int CHECK (public.by_domain(VALUE))",
    "CREATE FUNCTION public.by_default() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.logged (n int, m int DEFAULT public.by_default())",
    "CREATE FUNCTION public.by_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER logged BEFORE INSERT ON public.logged FOR EACH ROW EXECUTE FUNCTION public.by_trigger()",
    "CREATE FUNCTION public.of_read() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TABLE public.read (n int)",
    "CREATE TRIGGER read BEFORE INSERT ON public.read FOR EACH ROW EXECUTE FUNCTION public.of_read()",
    "CREATE FUNCTION public.größe() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    """CREATE FUNCTION public.calls() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        IF helper(NEW.guests) THEN RETURN NEW; END IF;
        PERFORM 1 <+> 2, public.größe();
        PERFORM summed(n) FROM seen;
        INSERT INTO public."logged" (n) SELECT 3::small FROM read;
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER tr BEFORE UPDATE ON bookings FOR EACH ROW WHEN (public.odd(NEW.guests)) EXECUTE FUNCTION calls()",
    "ALTER TABLE bookings ENABLE ALWAYS TRIGGER tr",
    "CREATE RULE aside AS ON INSERT TO bookings DO ALSO INSERT INTO aside VALUES (public.aside_of(new.guests))",
)
_TRIGGER, _RULE = ("always_trigger", "tr"), ("redirecting_rule", "aside")
_ALTERATIONS: tuple[tuple[LiteralString, tuple[str, str] | tuple[tuple[str, str], ...] | None], ...] = (
    ("CREATE OR REPLACE FUNCTION public.of_nobody(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1'", None),
    ("""CREATE OR REPLACE FUNCTION public.helper(n int) RETURNS bool LANGUAGE sql
     AS 'SELECT public."the inner one"()'""", _TRIGGER),
    ("""CREATE OR REPLACE FUNCTION public."the inner one"() RETURNS bool LANGUAGE sql RETURN false""", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.odd(n int) RETURNS bool LANGUAGE sql AS 'SELECT true'", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.aside_of(n int) RETURNS int LANGUAGE sql AS 'SELECT 1'", _RULE),
    # What is called without the word of a function.
    ("CREATE OR REPLACE FUNCTION public.by_operator(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT 2'", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.by_cast(a pair) RETURNS int LANGUAGE sql AS 'SELECT 2'", (_TRIGGER, _RULE)),
    ("CREATE OR REPLACE FUNCTION public.by_aggregate(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT 2'", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.by_view() RETURNS int LANGUAGE sql AS 'SELECT 2'", _TRIGGER),
    ("CREATE OR REPLACE VIEW public.seen AS SELECT public.by_view() AS n WHERE false", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.by_domain(a int) RETURNS bool LANGUAGE sql AS 'SELECT NULL::bool'", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.by_default() RETURNS int LANGUAGE sql AS 'SELECT 2'", _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.by_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
     _TRIGGER),
    ("CREATE OR REPLACE FUNCTION public.of_read() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'", None),
    ("CREATE OR REPLACE FUNCTION public.größe() RETURNS int LANGUAGE sql AS 'SELECT 2'", _TRIGGER),
    ("ALTER FUNCTION calls() SECURITY DEFINER", _TRIGGER),
    ("ALTER FUNCTION calls() OWNER TO pg_monitor", _TRIGGER),
    ("ALTER FUNCTION calls() SET search_path = public", _TRIGGER),
    ("ALTER TABLE bookings ENABLE REPLICA TRIGGER tr", _TRIGGER),
    ("ALTER TABLE bookings ENABLE REPLICA RULE aside", _RULE),
)  # fmt: skip


@pytest.mark.long
def test_what_a_trigger_or_a_rule_calls_belongs_to_what_was_accepted(quarter: LiveQuarter) -> None:
    ground = quarter.ground

    def altered() -> TableState:
        with ground.databases.session("legacy", "test") as legacy:
            return table_states(legacy, [ground.spec.table])[ground.spec.table]

    ground.run("legacy", *_CALLED)
    try:
        for statement, changes in _ALTERATIONS:
            seen, before = found(quarter), altered()
            at = ground.one("base", "SELECT now()")
            acceptances = [Acceptance(*key, "Ada", "it only counts", at, one.digest) for key, one in seen.items()]
            ground.run("legacy", statement)
            waiting = blocking(with_acceptances(found(quarter).values(), acceptances))
            wanted = () if changes is None else changes if isinstance(changes[0], tuple) else (changes,)
            assert {(one.code, one.subject) for one in waiting} == set(wanted), statement
            # What was proven before rows came by another trigger is stale.
            assert (altered() != before) == (_TRIGGER in wanted), statement
    finally:
        ground.run(
            "legacy",
            "DROP TABLE aside, logged, read CASCADE",
            "DROP AGGREGATE summed(int)",
            "DROP FUNCTION by_operator, by_cast, by_aggregate, by_view, by_domain CASCADE",
            "DROP FUNCTION by_default, by_trigger, of_read, größe CASCADE",
            "DROP DOMAIN small; DROP TYPE pair CASCADE",
            'DROP FUNCTION calls, helper, odd, aside_of, of_nobody, public."the inner one" CASCADE',
        )


_PUBLISHER = "SELECT subconninfo FROM pg_subscription WHERE subname = 'stranger'"


def test_another_subscription_into_either_table_blocks_until_it_is_gone(
    quarter: LiveQuarter, servers: EmbeddedServers
) -> None:
    ground = quarter.ground
    with stranger(ground, servers, "legacy", "base"):
        seen = found(quarter)
        assert seen.keys() == {("other_subscription", "stranger"), ("other_subscription_in_base", "stranger")}
        assert "does not go back to the legacy" in seen["other_subscription_in_base", "stranger"].evidence
        elsewhere = [ground.one(side, _PUBLISHER) for side in ("legacy", "base")]
        # Whatever was accepted of it is not what it is after any of these.
        for change in (
            "DISABLE",
            "SET (origin = none)",
            "SET PUBLICATION another WITH (refresh = false)",
            "CONNECTION {}",
        ):
            before = found(quarter)
            for side, info in zip(("legacy", "base"), elsewhere, strict=True):
                with psycopg.connect(ground.databases.url(side), autocommit=True) as client:
                    target = sql.Literal(make_conninfo(info, dbname="postgres", sslpassword="hunter2"))
                    client.execute(sql.SQL("ALTER SUBSCRIPTION stranger " + change).format(target))
            now = found(quarter)
            assert all(now[key].digest != before[key].digest for key in seen), change
        assert not any("hunter2" in str(one) for one in now.values())
    assert found(quarter) == {}
