"""Enemies that change what a table is: rewrites, columns, labels, indexes, schemas, storage."""

from migration_assets_tests.adversarial.mob import Deed, Mob
from migration_assets_tests.adversarial.table import QUARTER, run

# Behind somebody's lock a change of a definition would hold up every writer: so does no sane person.
_IMPATIENT = {"lock_timeout": "500ms", "statement_timeout": "5s"}
_TABLE = "public.bookings"
# What REINDEX CONCURRENTLY leaves where a lock stops it; the next REINDEX makes it valid.
_HALF_MADE = r"""
DO $$ DECLARE half regclass; BEGIN
    FOR half IN SELECT indexrelid FROM pg_index WHERE indrelid = 'public.bookings'::regclass
        AND indexrelid::regclass::text ~ '_cc(new|old)\d*$'
    LOOP EXECUTE 'DROP INDEX ' || half; END LOOP;
END $$
"""


def _legacy(mob: Mob, *statements: str) -> None:
    run(mob.world.legacy_url, *statements, **_IMPATIENT)


def _base(mob: Mob, *statements: str) -> None:
    run(mob.world.base_url, *statements, **_IMPATIENT)


def _leaf(mob: Mob) -> str:
    return f"public.bookings_{QUARTER.key.lower().replace('-', '_')}_w{mob.random.randint(1, 13):02d}"


def rewrite_legacy(mob: Mob) -> str:
    """A snapshot from before sees an empty table."""
    column = mob.random.choice(["note", "document"])
    _legacy(mob, f"ALTER TABLE {_TABLE} ALTER COLUMN {column} TYPE text USING {column} || ''")
    return column


def rewrite_base(mob: Mob) -> str:
    """The same on the other side, of all leaves."""
    column = mob.random.choice(["note", "document"])
    _base(mob, f"ALTER TABLE {_TABLE} ALTER COLUMN {column} TYPE text USING {column} || ''")
    return column


def volatile_column(mob: Mob) -> str:
    """A new column that rewrites the table; as the runbook says, the same on the base. It goes away later."""
    name = f"u{mob.number()}"
    add = f"ALTER TABLE {_TABLE} ADD COLUMN {name} integer DEFAULT (random() * 0)::integer"
    _base(mob, add)
    # The base's column outlives the legacy's: changes from before the drop still bring it.
    mob.at_rest.append(lambda: _base(mob, f"ALTER TABLE {_TABLE} DROP COLUMN {name}"))
    _legacy(mob, add)
    mob.at_rest.insert(len(mob.at_rest) - 1, lambda: _legacy(mob, f"ALTER TABLE {_TABLE} DROP COLUMN {name}"))
    return name


def new_label(mob: Mob) -> str:
    """On the base first, so that no row ever comes that it cannot hold."""
    label = f"mood {mob.number()}"
    before = mob.random.choice(["", " BEFORE 'angry'"])
    for change in (_base, _legacy):
        change(mob, f"ALTER TYPE public.mood ADD VALUE IF NOT EXISTS '{label}'{before}")
    return label


def index_and_drop(mob: Mob) -> str:
    name = f"enemy_{mob.number()}"
    how = mob.random.choice(["", "CONCURRENTLY "])
    # Where a lock keeps it from that now.
    mob.at_rest.append(lambda: _legacy(mob, f"DROP INDEX IF EXISTS public.{name}"))
    _legacy(mob, f"CREATE INDEX {how}{name} ON {_TABLE} (guests)", f"DROP INDEX {how}public.{name}")
    return how


def schema_and_back(mob: Mob) -> None:
    """In one transaction, so that no application meets it."""
    _legacy(
        mob,
        "CREATE SCHEMA IF NOT EXISTS elsewhere",
        f"DO $$ BEGIN ALTER TABLE {_TABLE} SET SCHEMA elsewhere;"
        " ALTER TABLE elsewhere.bookings SET SCHEMA public; END $$",
    )


def rename_and_back(mob: Mob) -> None:
    for change in (_legacy, _base):
        change(
            mob,
            f"DO $$ BEGIN ALTER TABLE {_TABLE} RENAME spare TO kept; ALTER TABLE {_TABLE} RENAME kept TO spare; END $$",
        )


def reorganise_legacy(mob: Mob) -> str:
    how = mob.random.choice(
        ["VACUUM FULL {t}", "CLUSTER {t} USING bookings_booked_at_idx", "REINDEX TABLE {t}", "VACUUM {t}",
         "REINDEX TABLE CONCURRENTLY {t}", "ANALYZE {t}"]
    ).format(t=_TABLE)  # fmt: skip
    mob.at_rest.append(lambda: _legacy(mob, _HALF_MADE))
    _legacy(mob, how)
    return how


def reorganise_base(mob: Mob) -> str:
    leaf = _leaf(mob)
    how = mob.random.choice(["VACUUM FULL {t}", "REINDEX TABLE {t}", "VACUUM {t}", "ANALYZE {t}"]).format(t=leaf)
    _base(mob, how)
    return how


def storage(mob: Mob) -> str:
    fill = mob.random.randint(50, 100)
    _legacy(mob, f"ALTER TABLE {_TABLE} SET (fillfactor = {fill}, autovacuum_vacuum_scale_factor = 0.05)")
    return str(fill)


def row_security(mob: Mob) -> None:
    """For a while, with a policy that shows nothing to whom it holds for."""
    _legacy(mob, f"ALTER TABLE {_TABLE} ENABLE ROW LEVEL SECURITY")
    mob.later(0.6, lambda: run(mob.world.legacy_url, f"ALTER TABLE {_TABLE} DISABLE ROW LEVEL SECURITY"))


DEFINITIONS: tuple[Deed, ...] = (
    rewrite_legacy,
    rewrite_legacy,
    rewrite_base,
    volatile_column,
    new_label,
    index_and_drop,
    schema_and_back,
    rename_and_back,
    reorganise_legacy,
    reorganise_base,
    storage,
    row_security,
)
HARMLESS_IN_CHARGE: tuple[Deed, ...] = (
    rewrite_legacy,
    rewrite_base,
    index_and_drop,
    reorganise_legacy,
    reorganise_base,
    storage,
)
