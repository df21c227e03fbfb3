"""What a server's owner may have set for a database or a role, and what of it a migration must survive."""

from psycopg import sql

from migration_assets_tests.adversarial.mob import Mob
from migration_assets_tests.adversarial.table import Side, run, session

BOTH: tuple[tuple[str, str], ...] = (
    ("lock_timeout", "20ms"),
    ("statement_timeout", "60ms"),
    ("idle_in_transaction_session_timeout", "40ms"),
    ("idle_session_timeout", "300ms"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_deferrable", "on"),
    ("row_security", "off"),
    ("client_encoding", "SQL_ASCII"),
    ("client_encoding", "LATIN1"),
    ("search_path", "nowhere"),
    ("session_replication_role", "replica"),
    ("quote_all_identifiers", "on"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Asia/Kathmandu"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("array_nulls", "off"),
    ("standard_conforming_strings", "off"),
    ("transform_null_equals", "on"),
    ("synchronous_commit", "off"),
    ("xmloption", "document"),
    ("logical_decoding_work_mem", "64kB"),
    ("debug_parallel_query", "regress"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit_above_cost", "0"),
    ("enable_indexscan", "off"),
    ("enable_partition_pruning", "off"),
    ("exit_on_error", "on"),
    ("check_function_bodies", "off"),
    ("track_activities", "off"),
    ("work_mem", "64kB"),
    ("deadlock_timeout", "10s"),
)
OF_THE_BASE = (*BOTH, ("track_counts", "off"), ("transaction_timeout", "200ms"))
# These reach the apply worker, too: it may stand until they are gone.
STALLING = frozenset(
    {"lock_timeout", "statement_timeout", "default_transaction_read_only", "transaction_timeout", "exit_on_error",
     "idle_in_transaction_session_timeout"}
)  # fmt: skip


def hostile_setting(mob: Mob) -> str:
    """One of them for the database, or for our role in it."""
    side: Side = mob.random.choice(["legacy", "base"])
    name, value = mob.random.choice(OF_THE_BASE if side == "base" else BOTH)
    set_one(mob.world.url(side), name, value, of_the_role=mob.random.random() < 0.4)
    return f"{name} = {value} on the {side}"


def set_one(url: str, name: str, value: str, *, of_the_role: bool = False) -> None:
    with session(url, "stranger") as connection:
        database = sql.Identifier(connection.info.dbname)
        whom = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(connection.info.user), database)
        connection.execute(
            sql.SQL("ALTER {} SET {} = {}").format(
                whom if of_the_role else sql.SQL("DATABASE {}").format(database),
                sql.Identifier(name),
                sql.Literal(value),
            )
            if name != "search_path"
            else sql.SQL("ALTER DATABASE {} SET search_path = nowhere").format(database)
        )


def reset_all(mob: Mob) -> None:
    """Everything as it was, for the workers that run, too."""
    for side in ("legacy", "base"):
        with session(mob.world.url(side), "stranger") as connection:
            database = sql.Identifier(connection.info.dbname)
            user = sql.Identifier(connection.info.user)
            connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
            connection.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(user, database))
        run(
            mob.world.url(side),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type IN ('walsender', 'logical replication apply worker', 'logical replication worker')",
        )
