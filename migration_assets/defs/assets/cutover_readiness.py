"""Everything that a cutover rests on was looked at, and nothing stands in its way."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from migration_assets.defs.assets.sign_off import sign_off
from migration_assets.defs.failures import readable_failures
from migration_assets.defs.labels import CUT_OVER, KINDS, OWNERS
from migration_assets.domain.cutover_state import CutoverKind
from migration_assets.domain.findings import Finding, Severity
from migration_assets.readiness.readiness import examine_cutover
from migration_assets.readiness.step import give_code_for
from migration_assets.runtime import Migration

_NAME = "cutover_readiness"
_CHECK = "ready_for_cutover"
_TEXT = "No finding blocks the cutover. Warnings want a decision and do not stop it."


@dg.asset(
    name=_NAME,
    deps=[sign_off],
    group_name=CUT_OVER,
    owners=OWNERS,
    kinds=KINDS,
    description=(
        "Both databases were examined for the cutover: sign-offs of every quarter that holds rows, rows outside the"
        " base's weeks, the change stream, sequences, rights, indexes and constraints, statistics, open transactions,"
        " settings, extensions. Every finding has its evidence and its remedy. Changes nothing."
    ),
    check_specs=[dg.AssetCheckSpec(_CHECK, asset=_NAME, description=_TEXT)],
)
def cutover_readiness(
    context: dg.AssetExecutionContext,
    migration: dg.ResourceParam[Migration],
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Examine; fails where something blocks."""
    with readable_failures():
        examined = examine_cutover(migration)
        code = give_code_for(migration, CutoverKind.CUTOVER, context.run.run_id) if examined.ready else None
    stops = [one for one in examined.findings if one.severity is Severity.BLOCKING]
    check = dg.AssetCheckResult(
        check_name=_CHECK,
        asset_key=_NAME,
        passed=examined.ready,
        description="; ".join(f"{one.code}: {one.evidence}" for one in stops) or None,
        metadata={"findings": findings_table(stops)},
    )
    if stops:
        yield check
        raise dg.Failure(
            description="; ".join(f"{one.code}: {one.evidence} Remedy: {one.remedy}" for one in stops),
            metadata={"findings": findings_table(examined.findings)},
            allow_retries=False,
        )
    warnings = sum(one.severity is Severity.WARNING for one in examined.findings)
    yield dg.MaterializeResult(
        metadata={
            "findings": findings_table(examined.findings),
            "blocking": dg.MetadataValue.int(0),
            "warnings": dg.MetadataValue.int(warnings),
            "confirm": dg.MetadataValue.text(str(code)),
        },
        check_results=[check],
    )


def findings_table(findings: list[Finding] | tuple[Finding, ...]) -> dg.TableMetadataValue:
    """Severity, what, evidence and remedy."""
    columns = ("severity", "finding", "evidence", "remedy")
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "severity": one.severity.value,
                    "finding": f"{one.area.value}: {one.code}",
                    "evidence": one.evidence,
                    "remedy": one.remedy,
                }
            )
            for one in findings
        ],
        schema=dg.TableSchema([dg.TableColumn(name) for name in columns]),
    )
