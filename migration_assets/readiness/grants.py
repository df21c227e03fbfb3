"""Compares what roles may do: whoever may do it on the legacy's table may do it on the base's root, too.

By effect, not by name: memberships, PUBLIC and ownership count on both sides. What is missing is put down to the role
that was granted it on the legacy, so that the statements here repeat the legacy's own.
"""

from collections.abc import Iterator, Mapping, Sequence

from migration_assets.domain.findings import Area, Finding, Severity
from migration_assets.domain.table_spec import quote_identifier
from migration_assets.postgres.sessions import require_row
from migration_assets.preflight.wording import info, listed
from migration_assets.readiness.rights import (
    Right,
    Rights,
    Role,
    missing_rights,
    read_rights,
    read_roles,
)
from migration_assets.readiness.sides import Sides

_PUBLIC = "public"


def examine_grants(sides: Sides) -> list[Finding]:
    """Roles, their rights, the owner, row security."""
    on_legacy = read_rights(sides.legacy, sides.spec.table, sides.of_legacy)
    wanted = {right.role for right in on_legacy.rights}
    here, there = read_roles(sides.legacy), read_roles(sides.base)
    findings = [*_roles(here, there, wanted), *_owner(sides, on_legacy, there), *_row_security(sides)]
    present = [right for right in on_legacy.rights if right.role == _PUBLIC or right.role in there]
    missing = _to_grant(missing_rights(sides.base, sides.spec.table, sides.of_base, present), there)
    findings += [_granted(sides, role, mine, there) for role, mine in _by_role(missing).items()]
    findings += _public_access(sides, on_legacy)
    if not missing:
        evidence = f"{len(present)} rights of {len(wanted)} roles on the legacy's table: the base grants all of them"
        findings.append(info("grants", Area.BASE, evidence))
    user = require_row(sides.legacy.execute("SELECT current_user::text").fetchone(), "the role")[0]
    findings.append(info("role_not_compared", Area.LEGACY, f"role {user}, which this program uses, was not compared"))
    return findings


def _to_grant(missing: Sequence[Right], there: Mapping[str, Role]) -> list[Right]:
    """Without what a role gets by itself as soon as the group that it is in on the base, too, is granted it."""
    lacking = {(right.role, right.kind, right.privilege, right.column) for right in missing}
    return [
        right
        for right in missing
        if right.through is None
        or (right.through, right.kind, right.privilege, right.column) not in lacking
        or right.through not in there[right.role].member_of
    ]


def _by_role(rights: Sequence[Right]) -> dict[str, list[Right]]:
    return {
        role: [right for right in rights if right.role == role] for role in sorted({right.role for right in rights})
    }


def _granted(sides: Sides, role: str, rights: Sequence[Right], there: Mapping[str, Role]) -> Finding:
    """GRANTs in the role's own name, or of the membership that gave it them on the legacy."""
    groups = sorted({right.through for right in rights if right.through is not None and right.through in there})
    own = [right for right in rights if right.through is None or right.through not in there]
    name = "PUBLIC" if role == _PUBLIC else quote_identifier(role)
    statements = [f"GRANT {quote_identifier(group)} TO {name};" for group in groups]
    statements += list(_grants(sides, name, own))
    what = listed(sorted({right.text for right in rights}))
    evidence = f"{name} may on the legacy, and not on the base: {what}"
    return Finding("grants", Area.BASE, Severity.BLOCKING, evidence, "in the base: " + " ".join(statements))


def _grants(sides: Sides, name: str, rights: Sequence[Right]) -> Iterator[str]:
    """One statement for each object, columns put together."""
    database = str(require_row(sides.base.execute("SELECT current_database()").fetchone(), "the database")[0])
    by: dict[tuple[str, bool], list[Right]] = {}
    for right in rights:
        by.setdefault((right.on(sides.of_base, sides.spec.table, database), right.grantable), []).append(right)
    for (target, grantable), mine in by.items():
        columns: dict[str, list[str]] = {}
        for right in mine:
            columns.setdefault(right.privilege, [])
            if right.kind == "column" and right.column is not None:
                columns[right.privilege].append(quote_identifier(right.column))
        privileges = ", ".join(f"{one} ({', '.join(of)})" if of else one for one, of in columns.items())
        yield f"GRANT {privileges} ON {target} TO {name}{' WITH GRANT OPTION' if grantable else ''};"


def _roles(here: Mapping[str, Role], there: Mapping[str, Role], wanted: set[str]) -> Iterator[Finding]:
    missing = sorted(wanted - {_PUBLIC} - there.keys())
    if missing:
        statements = [
            f"CREATE ROLE {quote_identifier(name)} {'LOGIN' if here[name].login else 'NOLOGIN'}"
            f"{'' if here[name].inherit else ' NOINHERIT'};"
            + "".join(
                f" GRANT {quote_identifier(group)} TO {quote_identifier(name)};" for group in here[name].member_of
            )
            for name in missing
        ]
        evidence = f"{len(missing)} roles that may do something on the legacy's table are not on the base's server:"
        yield Finding(
            "role_missing",
            Area.BASE,
            Severity.BLOCKING,
            f"{evidence} {listed(missing)}",
            "in the base: " + " ".join(statements) + " -- with their passwords: pg_dumpall --roles-only",
        )
    shut = [name for name in sorted(wanted & there.keys() & here.keys()) if here[name].login and not there[name].login]
    if shut:
        remedy = "in the base: " + " ".join(f"ALTER ROLE {quote_identifier(name)} LOGIN;" for name in shut)
        evidence = f"may log in on the legacy alone, or their password is past its time: {listed(shut)}"
        yield Finding("role_login", Area.BASE, Severity.BLOCKING, evidence, remedy)
    supers = [name for name, role in here.items() if role.superuser and not (name in there and there[name].superuser)]
    if supers:
        remedy = "see whether an application uses them; better a role of its own with the rights it needs"
        evidence = (
            f"superusers of the legacy that are none on the base, and whose rights were not compared: {listed(supers)}"
        )
        yield Finding("superusers", Area.BASE, Severity.WARNING, evidence, remedy)


def _owner(sides: Sides, on_legacy: Rights, there: Mapping[str, Role]) -> Iterator[Finding]:
    row = sides.base.execute(
        "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass(%s)", [str(sides.spec.table)]
    ).fetchone()
    owner = require_row(row, "the owner")[0]
    if owner == on_legacy.owner:
        yield info("owner", Area.BASE, f"the table belongs to {owner} on both sides")
        return
    remedy = (
        f"in the base: ALTER TABLE {sides.spec.table} OWNER TO {quote_identifier(on_legacy.owner)}; and of every"
        " partition; or leave it, where nobody alters the table as its owner: rights are compared for themselves"
    )
    known = "" if on_legacy.owner in there else ", a role that the base does not have"
    evidence = f"the table belongs to {on_legacy.owner} in the legacy{known}, to {owner} in the base"
    yield Finding("owner", Area.BASE, Severity.WARNING, evidence, remedy)


_ROW_SECURITY = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = to_regclass(%s)"


def _row_security(sides: Sides) -> Iterator[Finding]:
    table = sides.spec.table
    here = require_row(sides.legacy.execute(_ROW_SECURITY, [str(table)]).fetchone(), "row security")
    there = require_row(sides.base.execute(_ROW_SECURITY, [str(table)]).fetchone(), "row security")
    for on_legacy, on_base, word in zip(here, there, ("ENABLE", "FORCE"), strict=True):
        if on_legacy and not on_base:
            remedy = (
                f"in the base: CREATE POLICY … as on the legacy, then ALTER TABLE {table} {word} ROW LEVEL SECURITY;"
            )
            evidence = f"row security ({word}) hides rows on the legacy, and none on the base: policies are not carried"
            yield Finding("row_security", Area.BASE, Severity.BLOCKING, evidence, remedy)
        elif on_base and not on_legacy:
            remedy = (
                f"in the base: ALTER TABLE {table} {'DISABLE' if word == 'ENABLE' else 'NO FORCE'} ROW LEVEL SECURITY;"
            )
            evidence = f"row security ({word}) hides rows on the base, and none on the legacy"
            yield Finding("row_security", Area.BASE, Severity.BLOCKING, evidence, remedy)


def _public_access(sides: Sides, on_legacy: Rights) -> Iterator[Finding]:
    """What everybody may do on the base, and not on the legacy."""
    of_base = read_rights(sides.base, sides.spec.table, sides.of_base)
    allowed = {right.text for right in on_legacy.rights if right.role == _PUBLIC}
    extra = sorted(right.text for right in of_base.rights if right.role == _PUBLIC and right.text not in allowed)
    extra = [text for text in extra if " on the table" in text or " of column" in text]
    if extra:
        remedy = f"in the base: REVOKE ALL ON {sides.spec.table} FROM PUBLIC;"
        evidence = f"everybody may on the base, and not on the legacy: {listed(extra)}"
        yield Finding("public_rights", Area.BASE, Severity.WARNING, evidence, remedy)
