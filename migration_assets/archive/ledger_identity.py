"""Which ledger this one is, and what it was before its base was moved: see `domain/archive_writer.py`."""

from collections.abc import Iterable

from migration_assets.domain.archive_writer import ArchiveWriter, LedgerIdentity
from migration_assets.postgres.sessions import Connected, require_row
from migration_assets.stream.servers import known_servers, read_identity


def read_archive_writer(base: Connected, relation: str) -> ArchiveWriter:
    """On whose behalf this base's archives are written.

    Args:
        base: The ledger must be of this version.
        relation: Whose archives.

    Raises:
        ServerChangedError: A standby answers.
    """
    number = require_row(base.execute("SELECT id::text FROM migration.ledger_identity").fetchone(), "the identity")[0]
    server = read_identity(base, "base")
    identity = LedgerIdentity(number, server.system_identifier, server.database_oid, server.timeline)
    adopted = base.execute(
        "SELECT adopted FROM migration.archive_adoptions WHERE relation = %s AND adopter = %s",
        [relation, str(identity)],
    )
    before = frozenset(str(row[0]) for row in adopted)
    recorded = base.execute("SELECT manifest_sha256 FROM migration.archives WHERE relation = %s", [relation])
    known = known_servers(base, relation).get("base")
    then = known.identity if known else server
    same = (then.system_identifier, then.database_oid, then.timeline) == (
        server.system_identifier, server.database_oid, server.timeline,
    )  # fmt: skip
    return ArchiveWriter(identity, before, frozenset(str(row[0]) for row in recorded), same or bool(before))


def adopt(base: Connected, relation: str, adopter: LedgerIdentity, adopted: Iterable[str], by: str) -> None:
    """Note that this ledger was these before, and what they were; in the caller's transaction, where there is one."""
    known = list(adopted)
    earlier = base.execute(
        "SELECT DISTINCT adopted FROM migration.archive_adoptions WHERE relation = %s AND adopter = ANY(%s)",
        [relation, known],
    )
    for one in dict.fromkeys([*known, *(str(row[0]) for row in earlier)]):
        base.execute(
            "INSERT INTO migration.archive_adoptions (relation, adopted, adopter, adopted_by) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [relation, one, str(adopter), by],
        )
