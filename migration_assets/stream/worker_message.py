"""Why an apply worker ends again and again, in its own words where the base lets our role read its log.

Only the server's log has the message: no view does, in any version. What is shown of it are the words that PostgreSQL
itself wrote, names of tables, columns and constraints; never a value of a row, which its messages quote at their end.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Iterator

import psycopg

from migration_assets.postgres.server_messages import shown_message
from migration_assets.postgres.sessions import Connected, require_row

_TAIL_BYTES = 256 * 1024
_CSV_SEVERITY, _CSV_MESSAGE, _CSV_CONTEXT = 11, 13, 18
# A conflict that the worker passes over is logged too, with the same context.
_NO_ERROR = re.compile(r"\b(LOG|WARNING|NOTICE|INFO|FATAL|PANIC|DEBUG\d?):  ")
log = logging.getLogger(__name__)


def read_worker_message(base: Connected, subscription: str) -> str | None:
    """The newest error of the subscription's worker that may be shown; None where the log says nothing or is not ours.

    Args:
        base: A session there. Reading the log takes `pg_monitor` and `pg_read_server_files`, or a superuser.
        subscription: Its name.
    """
    try:
        found = _log_tail(base)
        if found is None:
            return None
        form, text = found
        row = base.execute(
            "SELECT 'pg_' || oid FROM pg_subscription WHERE subname = %s"
            " AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [subscription],
        ).fetchone()
        return newest_message(form, text, str(row[0])) if row else None
    except psycopg.Error as error:
        if base.broken:
            raise
        log.info("the base's log could not be read: %s", error.diag.message_primary)
        return None


def newest_message(form: str, text: str, origin: str) -> str | None:
    """The newest message of a log that the worker of this origin wrote and that may be shown.

    Args:
        form: `stderr`, `csvlog` or `jsonlog`.
        text: The end of the log; its first line may be a part of one.
        origin: Of the subscription, as the worker's context names it: `pg_16385`.
    """
    newest = None
    for message, context in _entries(form, text):
        if f'replication origin "{origin}"' in context:
            newest = shown_message(message) or newest
    return newest


def _log_tail(base: Connected) -> tuple[str, str] | None:
    row = base.execute(
        "SELECT has_function_privilege('pg_current_logfile(text)', 'EXECUTE')"
        " AND has_function_privilege('pg_stat_file(text)', 'EXECUTE')"
        " AND has_function_privilege('pg_read_binary_file(text, bigint, bigint)', 'EXECUTE')"
    ).fetchone()
    if not require_row(row, "a privilege")[0]:
        return None
    for form in ("jsonlog", "csvlog", "stderr"):
        row = base.execute("SELECT pg_current_logfile(%s)", [form]).fetchone()
        path = require_row(row, "the log's name")[0]
        if path is None:
            continue
        row = base.execute(
            "SELECT pg_read_binary_file(%(path)s, greatest(0, f.size - %(tail)s), %(tail)s)"
            " FROM pg_stat_file(%(path)s) f",
            {"path": path, "tail": _TAIL_BYTES},
        ).fetchone()
        return form, bytes(require_row(row, "the log")[0]).decode(errors="replace")
    return None


def _entries(form: str, text: str) -> Iterator[tuple[str, str]]:
    """Message and context of each error, oldest first."""
    return {"jsonlog": _of_json, "csvlog": _of_csv, "stderr": _of_plain}[form](text)


def _of_json(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line.startswith("{"):
            continue  # the first line, cut in two
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the same, cut at a brace; or the last line, which is being written
        if entry.get("error_severity") == "ERROR":
            yield str(entry.get("message", "")), str(entry.get("context", ""))


def _of_csv(text: str) -> Iterator[tuple[str, str]]:
    # A statement may be as long as all that was read.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    for row in csv.reader(io.StringIO(text.partition("\n")[2])):
        if len(row) > _CSV_CONTEXT and row[_CSV_SEVERITY] == "ERROR":
            yield row[_CSV_MESSAGE], row[_CSV_CONTEXT]


def _of_plain(text: str) -> Iterator[tuple[str, str]]:
    message = ""
    for line in text.splitlines():
        # An error's lines stand together: the server writes them at once.
        _, found, said = line.partition("ERROR:  ")
        if found:
            message = said
            continue
        if _NO_ERROR.search(line):
            message = ""  # the context that follows is not the error's
            continue
        _, found, context = line.partition("CONTEXT:  ")
        if found:
            yield message, context
