"""Whether the stream's subscription and publication are as this program left them, or somebody altered them by hand.

ALTER SUBSCRIPTION … SKIP, a slot or an origin that is moved onwards while the subscription is disabled, a publication
that leaves something out for a while: each lets changes be skipped, and afterwards all looks as ever. But whoever did
it wrote a row of the catalogue. So the transaction number in such a row (`xmin`) is noted in the ledger, in the same
transaction as each ALTER of ours: another one there means that what was proven before may not hold.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from psycopg import errors

from migration_assets.ledger.stream import StreamStatus
from migration_assets.postgres.sessions import Connected, require_row

# Neither VACUUM FREEZE nor VACUUM FULL changes it. One statement, so that all is of one moment.
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
# A step of ours that changes the publication says so in the ledger before it does: by the status, or a filter of NULL.
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
        base: Whose ledger.
        legacy: In no snapshot that is older than the change of the publication.
        relation: Whose stream.
        publication: Its name.
    """
    base.execute(
        "INSERT INTO migration.stream_parts (relation, publication) VALUES (%s, %s)"
        " ON CONFLICT (relation) DO UPDATE SET publication = excluded.publication",
        [relation, _publication_rows(legacy, publication)],
    )


def notice_alterations(base: Connected, relation: str, legacy: Connected | None = None) -> None:
    """Count alterations of the stream by somebody else; see `alterations`.

    Without `legacy` only the subscription is looked at.
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
        log.warning("a step is changing the stream: whether somebody else did will be seen at the next look")


def alterations(base: Connected, relation: str) -> int | None:
    """How often others have altered the stream, in the session's snapshot; None where no ledger could know."""
    if not _knows_parts(base):
        return None
    row = base.execute("SELECT alterations FROM migration.stream_parts WHERE relation = %s", [relation]).fetchone()
    return int(row[0]) if row else 0


def proofs_outlived(base: Connected, relation: str) -> str | None:
    """What was altered, and of how many weeks the newest proof is older; None where there are none."""
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
    """Whether our role may read the transaction number: superusers may, others need the right on that one column."""
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
    """What is there and what is known, by `_LOOK`; of the subscription None where our role may not see it."""
    statement = _LOOK.format(subscription=_SUBSCRIPTION if may_see_subscription(base) else "NULL::text")
    return require_row(base.execute(statement.encode(), [relation]).fetchone(), "the stream")


def _publication_rows(legacy: Connected, name: str) -> str:
    return str(require_row(legacy.execute(_PUBLICATION, {"name": name}).fetchone(), "the publication")[0])


def _found(base: Connected, relation: str, legacy: Connected | None) -> dict[str, tuple[str, str | None]]:
    """The parts that are not as they are known to be, as they are now; with what was done, where they were known."""
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
