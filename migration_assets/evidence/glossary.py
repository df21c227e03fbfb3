"""What the words of a pack mean, for readers who know neither PostgreSQL nor this program."""

from migration_assets.evidence.markup import Markup, element

_WORDS: tuple[tuple[str, str], ...] = (
    ("old database (legacy)", "The database that the table came from. It stays in use until the applications move."),
    ("new database (base)", "The database that the table is moved to, where it is divided into fiscal weeks."),
    ("fiscal quarter, fiscal week", (
        "A quarter of the company's year, FY25-Q2, and one of its 13 weeks, W01 to W13."
        " Twelve weeks have seven days, the last one has the rest. Each week is moved, compared and archived by itself."
    )),
    ("row", "One entry of the table, for instance one booking."),
    ("checksum, fingerprint", (
        "A number that is computed from every byte of every row of a week. Two sets of rows that"
        " differ in a single letter have different numbers; the order of the rows does not matter. Together with the"
        " count of rows it is the fingerprint. Both databases compute it by themselves, each from its own rows."
    )),
    ("compared, validated", (
        "Both databases were read at exactly the same point of the table's history, while everybody"
        " went on working, and their fingerprints were the same."
    )),
    ("marker", (
        "The number of that point. Whatever was written before it is in both databases, nothing after it is in"
        " what was compared."
    )),
    ("reconciled", "All 13 weeks of a quarter were compared at one single point, and no key was there twice."),
    ("change stream, lag", (
        "Every change in the old database is carried to the new one at once. The lag is how many"
        " seconds that takes."
    )),
    ("signed off", (
        "A named person approved a quarter. The program allows that only where every week was compared"
        " recently and was the same, and keeps exactly what was approved, with a SHA-256 over it."
    )),
    ("does not stand any more", (
        "Somebody changed rows of the quarter after it was signed, other than by the change"
        " stream. It has to be compared and signed again."
    )),
    ("mended, repair", "Rows that differed were made the same again. Each repair is kept and can be taken back."),
    ("archive", (
        "A week written to files in a common format (Parquet), read again by a second program (DuckDB), which"
        " computed the same checksum from the files as PostgreSQL from its rows."
    )),
    ("left the table, retired", (
        "After its archive was proven, a week can leave the new database's table; it is kept"
        " aside for some days first, and can be brought back."
    )),
    ("cutover, rehearsal", (
        "The moment at which the applications move to the new database: for a short while nobody can write, the last"
        " changes are brought over, both databases are compared once more, and the new one is opened. A rehearsal does"
        " all of that but the opening, and goes back."
    )),
    ("rollback", (
        "The same in the other direction. It stays possible because from the cutover on every change in the new"
        " database is carried to the old one (the stream is turned round), until the old one is decommissioned."
    )),
    ("decommissioned", (
        "The old database was closed to the applications for good, after its last fingerprint was taken. Its rows are"
        " not deleted."
    )),
    ("SHA-256", "A seal over a text: 64 characters. Nobody knows a way to change the text and keep the seal."),
    ("chain of records", (
        "Every signature, comparison, archive and departure is a record, whose seal also covers the"
        " seal of the record before it. Changing an old record breaks all that follow. The last seal is on this page:"
        " with it, even a chain that somebody wrote anew from the beginning is found."
    )),
)  # fmt: skip


def glossary() -> Markup:
    """All words."""
    entries = [part for word, meaning in _WORDS for part in (element("dt", word), element("dd", meaning))]
    return element("section", element("h2", "Words"), element("dl", *entries), id="words")
