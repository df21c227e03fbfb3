"""Contender `psql`: the whole table through `psql COPY | psql COPY` in binary, then its indexes; no proof by itself.

Done as a careful administrator would: FREEZE, the same memory for index builds as ours, several builds at a time, the
primary key as a unique index first so that it can be built beside the others, ANALYZE at the end.
"""

from concurrent.futures import ThreadPoolExecutor

from psycopg import sql

from benchmarks.clients import measured, run_client, run_pipe
from benchmarks.contenders import Contender, Run
from benchmarks.lab import Lab, client_program
from benchmarks.lab_names import MAINTENANCE_WORK_MEM_MB, SPEC
from migration_assets.domain.errors import EmbeddedServerError

_ENVIRONMENT = {"PGOPTIONS": f"-c maintenance_work_mem={MAINTENANCE_WORK_MEM_MB}MB"}


def contender() -> Contender:
    """Skipped where psql or pg_dump is not in the package."""
    skip = None
    try:
        client_program("psql")
        client_program("pg_dump")
    except EmbeddedServerError as error:
        skip = str(error)
    return Contender("psql", "psql COPY | psql COPY", _run, skip)


def _run(lab: Lab, copies: int) -> Run:
    urls = lab.databases
    _create_table(lab)
    indexes = _indexes(lab)
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in lab.description.copied_columns).as_string()
    table = sql.Identifier(SPEC.table.schema, SPEC.table.name).as_string()
    key = f"{SPEC.table.name}_pkey"
    with measured(lab.server_cpu) as usage:
        with usage.phase("copy"):
            run_pipe(
                _psql(urls.legacy_url, f"COPY {table} ({columns}) TO STDOUT (FORMAT binary)"),
                # FREEZE wants a table that its own transaction made or emptied.
                _psql(
                    urls.base_url, f"TRUNCATE {table}", f"COPY {table} ({columns}) FROM STDIN (FORMAT binary, FREEZE)"
                ),
                _ENVIRONMENT,
            )
        with usage.phase("indexes"), ThreadPoolExecutor(copies) as pool:
            for build in [pool.submit(run_client, _psql(urls.base_url, index), _ENVIRONMENT) for index in indexes]:
                build.result()
        with usage.phase("key and analyze"):
            adopt = f"ALTER TABLE {table} ADD CONSTRAINT {key} PRIMARY KEY USING INDEX {key}"
            run_client(_psql(urls.base_url, adopt, f"ANALYZE {table}"), _ENVIRONMENT)
        unvalidated = usage.seconds
        with usage.phase("fingerprints"):
            legacy, base = lab.fingerprints()
    assert legacy == base, "the pipe lost or changed rows"
    return Run("psql", usage, unvalidated, usage.seconds)


def _psql(url: str, *statements: str) -> list[str]:
    command = [client_program("psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", url]
    return command + [part for statement in statements for part in ("-c", statement)]


def _create_table(lab: Lab) -> None:
    """The same columns, defaults and CHECKs, unpartitioned; not measured."""
    urls = lab.databases
    run_pipe(
        [client_program("pg_dump"), "--section=pre-data", "--no-owner", "--no-privileges", "-d", urls.legacy_url],
        [client_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", urls.base_url],
    )


def _indexes(lab: Lab) -> list[str]:
    """CREATE INDEX statements, the primary key's first, as the legacy's catalogue has them."""
    with lab.databases.session("legacy", "benchmark") as connection:
        rows = connection.execute(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass"
            " ORDER BY indisprimary DESC, indexrelid",
            [SPEC.relation],
        ).fetchall()
    return [str(definition) for (definition,) in rows]
