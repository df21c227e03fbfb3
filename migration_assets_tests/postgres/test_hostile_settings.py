"""What a database or a role is set to changes nothing of what our sessions see or may do."""

import secrets
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from migration_assets.archive.archiving import archive_week
from migration_assets.domain.errors import SettingsError, StreamError, TableSpecError
from migration_assets.domain.findings import Area, Severity
from migration_assets.ledger.definitions import require_all_rows
from migration_assets.postgres.arrow_stream import arrow_stream
from migration_assets.postgres.sessions import Side, Timeouts, connect, require_row, session_settings
from migration_assets.postgres.snapshots import export_snapshot
from migration_assets.stream.slots import exported_slot
from migration_assets.stream.way import examine_applying, examine_sending
from migration_assets_tests.archive.conftest import with_settings
from migration_assets_tests.defs.conftest import migration_of
from migration_assets_tests.ground import Ground, week

HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "lock_timeout": "1ms",
    "statement_timeout": "20ms",
    "idle_in_transaction_session_timeout": "10ms",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "exit_on_error": "on",
    "gin_fuzzy_search_limit": "1",
    "session_replication_role": "replica",
    "client_encoding": "SQL_ASCII",
    "DateStyle": "German, DMY",
    "search_path": "nowhere",
    "jit": "on",
}
# These reach the server's own apply worker, whom preflight speaks of.
_OF_THE_WORKER = ("lock_timeout", "default_transaction_isolation", "array_nulls")


# Of each: what a database may be set to, and what a session of ours must find all the same; None: its own timeouts.
_PINNED: dict[str, tuple[str, str | None]] = {
    "TimeZone": ("Asia/Tokyo", "UTC"),
    "DateStyle": ("German, DMY", "ISO, YMD"),
    "IntervalStyle": ("sql_standard", "postgres"),
    "extra_float_digits": ("0", "1"),
    "bytea_output": ("escape", "hex"),
    "lc_monetary": ("POSIX", "C"),
    "xmloption": ("document", "content"),
    "search_path": ("nowhere", "pg_catalog"),
    "standard_conforming_strings": ("off", "on"),
    "quote_all_identifiers": ("on", "off"),
    "array_nulls": ("off", "on"),
    "transform_null_equals": ("on", "off"),
    "row_security": ("on", "off"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "gin_fuzzy_search_limit": ("1", "0"),
    "exit_on_error": ("on", "off"),
    "jit": ("on", "off"),
    "client_encoding": ("SQL_ASCII", "UTF8"),
    "idle_session_timeout": ("20s", "0"),
    "transaction_timeout": ("21s", "0"),
    "session_replication_role": ("replica", "origin"),
    "lock_timeout": ("22s", None),
    "statement_timeout": ("23s", None),
    "idle_in_transaction_session_timeout": ("24s", None),
    "client_connection_check_interval": ("25s", None),
}
_TIMEOUTS = {
    "lock_timeout": "1111ms", "statement_timeout": "2222ms", "idle_in_transaction_session_timeout": "3333ms",
    "client_connection_check_interval": "4444ms",
}  # fmt: skip


def _set(ground: Ground, side: Side, settings: dict[str, str]) -> None:
    with psycopg.connect(ground.databases.url(side), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        for name, value in settings.items():
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(connection.info.dbname), sql.Identifier(name), sql.Literal(value)
                )
            )


def test_a_whole_journey_goes_well_in_databases_that_are_set_against_it(ground: Ground, tmp_path: Path) -> None:
    ground.fill().open()
    ground.run(
        "base",
        "UPDATE migration.slices SET state = 'copied', copied_at = now(), legacy_rows = 0, base_rows = 0,"
        " legacy_sum_a = 0, legacy_sum_b = 0, base_sum_a = 0, base_sum_b = 0",
    )
    _set(ground, "legacy", HOSTILE)
    gentle = {name: value for name, value in HOSTILE.items() if name not in _OF_THE_WORKER}
    _set(ground, "base", gentle | {"transaction_timeout": "30s"})
    ground.copy(5)
    ground.stream()
    assert ground.validate(5).base.rows == 70
    ground.copy(6)
    with ground.databases.session("base", "test") as vandal:
        vandal.execute(
            "DELETE FROM public.bookings WHERE booked_at >= '2024-04-29' AND booked_at < '2024-05-06' AND guests = 3"
        )
    assert not ground.reconcile().equal
    assert ground.repair(5).differences.missing == 10
    assert ground.reconcile().equal
    with ground.databases.session("base", "test") as base:
        base.execute("UPDATE migration.slices SET state = 'signed_off' WHERE week = 'W05'")
    migration = with_settings(
        migration_of(ground.databases.legacy_url, ground.databases.base_url),
        table="public.bookings",
        archive_url=SecretStr(str(tmp_path / "archive")),
    )
    archived = archive_week(migration, week(5))
    assert archived.manifest.rows == 70
    assert {column.name: column.type_name for column in archived.manifest.columns}["id"] == "bigint"
    assert ground.contents("base") == ground.contents("legacy")


def test_every_setting_is_as_we_want_it_whoever_opens_the_session_and_whatever_the_database_is_set_to(
    ground: Ground,
) -> None:
    _set(ground, "base", {name: hostile for name, (hostile, _) in _PINNED.items()})
    wanted = {name: value if value is not None else _TIMEOUTS[name] for name, (_, value) in _PINNED.items()}
    # A setting that is pinned one day belongs into the list above.
    assert {*session_settings("test", Timeouts(), 180_000)} - {"application_name"} <= wanted.keys()
    timeouts = Timeouts(lock=1111, statement=2222, idle_in_transaction=3333, client_check=4444)
    url = ground.databases.base_url
    for replication in (False, True):
        with connect(url, "test", timeouts, replication=replication) as session:
            shown = {name: session.execute(f"SHOW {name}".encode()).fetchone() for name in wanted}
        # A path that was set while every name was quoted is shown so.
        found = {name: row and row[0].strip('"') for name, row in shown.items()}
        assert found == wanted, f"replication: {replication}"
    # Arrow's sessions only read: they fire no triggers.
    wanted.pop("session_replication_role")
    names = ", ".join(f"'{name}'" for name in wanted)
    query = f"SELECT n, pg_catalog.current_setting(n) FROM pg_catalog.unnest(ARRAY[{names}]) AS n"
    with connect(url, "test", timeouts) as holder:
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot = export_snapshot(holder)
        with arrow_stream(url, snapshot, query, timeouts=timeouts) as reader:
            rows = reader.read_all().to_pydict()
    assert dict(zip(*rows.values(), strict=True)) == wanted


def test_fewer_rows_by_a_policy_are_an_error(ground: Ground) -> None:
    ground.fill()
    with psycopg.connect(ground.databases.legacy_url, autocommit=True) as owner:
        if not owner.execute("SELECT 1 FROM pg_roles WHERE rolname = 'weak_reader'").fetchone():
            owner.execute("CREATE ROLE weak_reader")
        owner.execute("GRANT SELECT ON public.bookings TO weak_reader")
        owner.execute("ALTER TABLE public.bookings ENABLE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY few ON public.bookings USING (id < 10)")
    with ground.databases.session("legacy", "test") as legacy:
        legacy.execute("SET ROLE weak_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            legacy.execute("SELECT count(*) FROM public.bookings")
        with pytest.raises(TableSpecError, match="role weak_reader does not pass it") as caught:
            require_all_rows(legacy, ground.spec.table, "legacy")
        assert "ALTER ROLE weak_reader BYPASSRLS" in caught.value.next_step
        legacy.execute("RESET ROLE")
        require_all_rows(legacy, ground.spec.table, "legacy")


def test_a_role_that_fires_no_triggers_is_told_how_to_mend_it(ground: Ground) -> None:
    with psycopg.connect(ground.databases.base_url, autocommit=True) as owner:
        if not owner.execute("SELECT 1 FROM pg_roles WHERE rolname = 'weak_replica'").fetchone():
            owner.execute("CREATE ROLE weak_replica LOGIN PASSWORD 'weak'")
        owner.execute("ALTER ROLE weak_replica SET session_replication_role = replica")
        url = make_conninfo(ground.databases.base_url, user="weak_replica", password="weak")
    with pytest.raises(SettingsError, match="RESET session_replication_role"):
        connect(url, "test", Timeouts())


def test_a_lock_timeout_of_the_database_does_not_cut_the_slot_short(ground: Ground) -> None:
    """Case r14: our own patience does, and a refusal says what is left and what to do."""
    ground.fill()
    _set(ground, "legacy", {"lock_timeout": "50ms", "client_encoding": "SQL_ASCII"})
    url = ground.databases.legacy_url
    with ground.databases.session("legacy", "test") as legacy, psycopg.connect(url) as writer:
        writer.execute("SET lock_timeout = 0")
        writer.execute("CREATE TABLE open_work (i integer)")
        with (
            pytest.raises(StreamError, match=r"within 0.5 s.*CREATE TABLE"),
            exported_slot(url, legacy, "slot_of_r14", patience_seconds=0.5),
        ):
            pass
        writer.rollback()
        with exported_slot(url, legacy, "slot_of_r14", patience_seconds=20) as slot:
            legacy.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            legacy.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(slot.snapshot)))
            legacy.execute("ROLLBACK")
        with (
            pytest.raises(StreamError, match="already exists") as caught,
            exported_slot(url, legacy, "slot_of_r14", patience_seconds=20),
        ):
            pass
        assert caught.value.next_step
        assert caught.value.state_left


def test_what_reaches_the_servers_own_workers_is_found_and_the_remedy_mends_it(ground: Ground) -> None:
    """A stream whose worker ends at every lock looks alive, and no cut ever gets through."""
    of_base = {"lock_timeout": "20ms", "transaction_timeout": "5s", "default_transaction_isolation": "repeatable read",
               "array_nulls": "off", "xmloption": "document", "zero_damaged_pages": "on"}  # fmt: skip
    _set(ground, "base", of_base)
    _set(ground, "legacy", {"wal_sender_timeout": "10ms", "ignore_checksum_failure": "on"})
    sides = ground.databases
    with sides.session("base", "test") as base, sides.session("legacy", "test") as legacy:
        found = [*examine_applying(base, "base"), *examine_sending(legacy, "legacy")]
        assert {one.code for one in found} == {
            "apply_worker_lock_timeout", "apply_worker_transaction_timeout", "apply_worker_array_nulls",
            "apply_worker_default_transaction_isolation", "apply_worker_xmloption", "zero_damaged_pages",
            "walsender_timeout", "ignore_checksum_failure",
        }  # fmt: skip
        assert {one.severity for one in found} == {Severity.BLOCKING}
        for one in found:
            (base if one.area is Area.BASE else legacy).execute(one.remedy.encode())
    with sides.session("base", "test") as base, sides.session("legacy", "test") as legacy:
        assert [one.severity for one in examine_applying(base, "base")] == [Severity.INFO]
        assert [one.severity for one in examine_sending(legacy, "legacy")] == [Severity.INFO]


def test_no_session_of_ours_acts_as_a_role_that_the_databases_owner_chose(ground: Ground) -> None:
    """What is his would be taken for our own, and could take a superuser's rights back."""
    role, database = f"owner_{secrets.token_hex(4)}", str(ground.one("base", "SELECT current_database()"))
    us = str(ground.one("base", "SELECT current_user"))

    def seen() -> set[str]:
        found: set[str] = set()
        for replication in (False, True):
            with connect(ground.databases.base_url, "test", Timeouts(), replication=replication) as session:
                found.add(str(require_row(session.execute("SELECT current_user").fetchone(), "us")[0]))
        with connect(ground.databases.base_url, "test", Timeouts()) as holder:
            holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            query = "SELECT current_user::text AS us"
            with arrow_stream(ground.databases.base_url, export_snapshot(holder), query) as rows:
                return found | {str(one) for one in rows.read_all().to_pydict()["us"]}

    with psycopg.connect(ground.databases.base_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role}; ALTER DATABASE {database} OWNER TO {role}".encode())
        try:
            superuser.execute(f"SET ROLE {role}; ALTER DATABASE {database} SET role = '{role}'; RESET ROLE".encode())
            assert seen() == {us}
            superuser.execute(f"ALTER ROLE {us} IN DATABASE {database} SET role = '{role}'".encode())
            assert seen() == {role}, "what our own role is set to is meant"
        finally:
            superuser.execute(f"ALTER ROLE {us} IN DATABASE {database} RESET role".encode())
            superuser.execute(f"ALTER DATABASE {database} RESET role; ALTER DATABASE {database} OWNER TO {us}".encode())
            superuser.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
