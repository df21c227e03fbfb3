"""Detects whether the stream's subscription or publication was altered by hand.

ALTER SUBSCRIPTION … SKIP, advancing a slot or an origin while the subscription is disabled, or a publication that omits
something for a while: each can skip changes without a trace in the stream. But each writes a row of the catalogue.
So each ALTER of this program notes the row's transaction number (`xmin`) in the ledger, in the same transaction. A
different number means that somebody else altered the row, and that earlier proofs may no longer hold.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from psycopg import errors

from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.sessions import Connected, require_row

# Neither VACUUM FREEZE nor VACUUM FULL changes xmin. One statement reads everything, so that it shows one moment.
_LOOK = """
SELECT {subscription}, k.subscription, k.publication, s.status, s.row_filter IS NOT NULL
FROM migration.streams s LEFT JOIN migration.stream_parts k USING (relation) WHERE s.relation = %s
"""
_SUBSCRIPTION = """
coalesce((SELECT p.oid || '/' || p.xmin FROM pg_subscription p WHERE p.subname = s.subscription
          AND p.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())), '')
"""
_PUBLICATION = """
SELECT coalesce(string_agg(part, ',' ORDER BY part), '') FROM (
    SELECT 'p' || oid || '/' || xmin AS part FROM pg_publication WHERE pubname = %(name)s
    UNION ALL SELECT 'r' || r.oid || '/' || r.xmin FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE p.pubname = %(name)s
) AS parts
"""
# Before a step of ours changes the publication, it notes that in the ledger: by the status, or by a filter of NULL.
_KNOWN_TO_STAND = frozenset({StreamStatus.LIVE, StreamStatus.PAUSED})
log = logging.getLogger(__name__)


@contextmanager
def altering_subscription(base: Connected, subscription: str) -> Generator[None]:
    """A transaction in which this program alters the subscription; changes of others are noticed first, ours are noted.

    A subscriber without a ledger (the legacy, after a cutover) notes nothing: a rollback compares whatever was written
    to the base.
    """
    with base.transaction():
        relation = _relation_of(base, subscription)
        if relation is not None:
            notice_alterations(base, relation)
        yield
        if relation is not None:
            base.execute(
                "INSERT INTO migration.stream_parts (relation, subscription) VALUES (%(relation)s, %(now)s)"
                " ON CONFLICT (relation) DO UPDATE SET subscription = excluded.subscription",
                {"relation": relation, "now": _look(base, relation)[0]},
            )


def note_publication(base: Connected, legacy: Connected, relation: str, publication: str) -> None:
    """Note the publication as it is now, which is as it should be; in the transaction that notes its filter.

    Args:
        base: The session with the ledger.
        legacy: Without a snapshot that is older than the change of the publication.
        relation: The table's key in the ledger.
        publication: The publication's name.
    """
    base.execute(
        "INSERT INTO migration.stream_parts (relation, publication) VALUES (%s, %s)"
        " ON CONFLICT (relation) DO UPDATE SET publication = excluded.publication",
        [relation, _publication_rows(legacy, publication)],
    )


def notice_alterations(base: Connected, relation: str, legacy: Connected | None = None) -> None:
    """Count alterations of the stream by somebody else; see `alterations`.

    Without `legacy` only the subscription is examined.
    """
    if not _knows_parts(base) or not _found(base, relation, legacy):
        return
    try:
        with base.transaction():
            base.execute("INSERT INTO migration.stream_parts (relation) VALUES (%s) ON CONFLICT DO NOTHING", [relation])
            base.execute("SELECT 1 FROM migration.stream_parts WHERE relation = %s FOR UPDATE", [relation])
            # Look again: a step of ours that altered it at the time of the first look has noted it by now.
            found = _found(base, relation, legacy)
            for part, (now, what) in found.items():
                base.execute(
                    "UPDATE migration.stream_parts SET subscription = CASE WHEN %(part)s = 'subscription' THEN %(now)s"
                    " ELSE subscription END, publication = CASE WHEN %(part)s = 'publication' THEN %(now)s"
                    " ELSE publication END, alterations = alterations + (%(what)s::text IS NOT NULL)::integer,"
                    " what = coalesce(%(what)s, what), noticed_at = CASE WHEN %(what)s::text IS NULL THEN noticed_at"
                    " ELSE clock_timestamp() END WHERE relation = %(relation)s",
                    {"part": part, "now": now, "what": what, "relation": relation},
                )
                if what is not None:
                    log.warning("%s", what)
    except errors.LockNotAvailable:
        log.warning("a step is changing the stream now; alterations by others are examined at the next look")


def alterations(base: Connected, relation: str) -> int | None:
    """How often others have altered the stream, in the session's snapshot; None if the ledger does not record it."""
    if not _knows_parts(base):
        return None
    row = base.execute("SELECT alterations FROM migration.stream_parts WHERE relation = %s", [relation]).fetchone()
    return int(row[0]) if row else 0


def proofs_outlived(base: Connected, relation: str) -> str | None:
    """What was altered, and how many weeks were last proven before that; None if there are none."""
    if alterations(base, relation) in {None, 0}:
        return None
    row = base.execute(
        "SELECT k.what, date_trunc('second', k.noticed_at)::text, count(*) FROM migration.stream_parts k"
        " JOIN migration.slices s USING (relation)"
        " WHERE k.relation = %s AND s.released_at IS NULL AND s.state IN ('validated', 'signed_off', 'archived')"
        " AND (s.definitions ->> 'alterations')::integer < k.alterations GROUP BY 1, 2",
        [relation],
    ).fetchone()
    return None if row is None else f"{row[0]} (noticed at {row[1]}): {row[2]} weeks were proven before that"


def may_see_subscription(base: Connected) -> bool:
    """Whether our role may read the transaction number: other roles than superusers need SELECT on that column."""
    row = base.execute("SELECT has_column_privilege('pg_catalog.pg_subscription', 'xmin', 'SELECT')").fetchone()
    return bool(require_row(row, "a privilege")[0])


def _knows_parts(base: Connected) -> bool:
    """Whether there is a ledger that is new enough to note parts."""
    row = base.execute("SELECT to_regclass('migration.stream_parts') IS NOT NULL").fetchone()
    return bool(require_row(row, "to_regclass")[0])


def _relation_of(base: Connected, subscription: str) -> str | None:
    if not _knows_parts(base):
        return None
    row = base.execute("SELECT relation FROM migration.streams WHERE subscription = %s", [subscription]).fetchone()
    return None if row is None else str(row[0])


def _look(base: Connected, relation: str) -> tuple[Any, ...]:
    """Read what exists and what is known, by `_LOOK`; the subscription is None if our role may not see it."""
    statement = _LOOK.format(subscription=_SUBSCRIPTION if may_see_subscription(base) else "NULL::text")
    return require_row(base.execute(statement.encode(), [relation]).fetchone(), "the stream")


def _publication_rows(legacy: Connected, name: str) -> str:
    return str(require_row(legacy.execute(_PUBLICATION, {"name": name}).fetchone(), "the publication")[0])


def _found(base: Connected, relation: str, legacy: Connected | None) -> dict[str, tuple[str, str | None]]:
    """The parts that differ from what is known: their present rows and, if they were known before, what was done."""
    stream = base.execute("SELECT publication FROM migration.streams WHERE relation = %s", [relation]).fetchone()
    if stream is None:
        return {}
    found: dict[str, tuple[str, str | None]] = {}
    published: str | None = None
    if legacy is not None:
        # The legacy first: our own changes of it were noted in the ledger before.
        published = _publication_rows(legacy, stream[0])
    subscription, known, known_published, status, filter_known = _look(base, relation)
    if subscription is not None and subscription != known:
        found["subscription"] = subscription, None if known is None else "somebody altered the subscription by hand"
    stands = status in _KNOWN_TO_STAND and filter_known
    if published is not None and stands and published != known_published:
        found["publication"] = (
            published,
            None if known_published is None else "somebody altered the publication by hand",
        )
    return found
