"""The asset preflight: both databases are examined, and a blocking finding stops everything downstream."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from migration_assets.defs.failures import readable_failures
from migration_assets.defs.partitions import KINDS, OWNERS, PREPARE, register_quarters
from migration_assets.defs.shown import findings_table
from migration_assets.domain.findings import Finding, Severity, blocking, worst_first
from migration_assets.preflight.run import examine
from migration_assets.runtime import Migration

_NAME = "preflight"
_COLUMNS = ("severity", "finding", "remedy", "evidence")
_COLUMNS_WITHOUT_REMEDY = ("severity", "finding", "evidence")
_CHECKS = {
    "nothing_blocks": "No finding is blocking.",
    "nothing_warns": "No finding needs a decision. A warning does not stop the migration.",
}


@dg.asset(
    name=_NAME,
    group_name=PREPARE,
    owners=OWNERS,
    kinds=KINDS,
    description=(
        "Both databases were examined: versions, settings, privileges, keys, physical order, sizes, the migration"
        " window. Every finding has its evidence and its remedy. Registers the quarters that the legacy holds."
    ),
    check_specs=[dg.AssetCheckSpec(name, asset=_NAME, description=text) for name, text in _CHECKS.items()],
)
def preflight(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[Migration]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Examine both sides, keep the findings in the ledger, and register quarters; fail if a finding blocks."""
    with readable_failures():
        examined = examine(migration, run_id=context.run.run_id)
    results = [
        _check("nothing_blocks", examined.findings, Severity.BLOCKING, dg.AssetCheckSeverity.ERROR),
        _check("nothing_warns", examined.findings, Severity.WARNING, dg.AssetCheckSeverity.WARN),
    ]
    stops = blocking(examined.findings)
    if stops:
        yield from results
        raise dg.Failure(
            description="; ".join(f"{finding.code}: {finding.evidence} Remedy: {finding.remedy}" for finding in stops),
            metadata=_tables(examined.findings),
            allow_retries=False,
        )
    added = register_quarters(context.instance, examined.quarters)
    yield dg.MaterializeResult(
        metadata={
            **_tables(examined.findings),
            "blocking": dg.MetadataValue.int(0),
            "warnings": dg.MetadataValue.int(sum(f.severity is Severity.WARNING for f in examined.findings)),
            "quarters_held": dg.MetadataValue.text(", ".join(q.key for q in examined.quarters) or "none"),
            "quarters_registered_now": dg.MetadataValue.text(", ".join(q.key for q in added) or "none"),
        },
        check_results=results,
    )


def _check(
    name: str, findings: list[Finding], severity: Severity, check_severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    hits = [finding for finding in findings if finding.severity is severity]
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=_NAME,
        passed=not hits,
        severity=check_severity,
        description="; ".join(f"{hit.code}: {hit.evidence}" for hit in hits) or None,
        metadata={"count": dg.MetadataValue.int(len(hits)), "findings": findings_table(worst_first(hits), _COLUMNS)},
    )


def _tables(findings: list[Finding]) -> dict[str, dg.MetadataValue]:
    """First the findings that need attention, then everything that was examined."""
    everything = worst_first(findings)
    urgent = [finding for finding in everything if finding.severity is not Severity.INFO]
    return {
        "findings": findings_table(urgent, _COLUMNS)
        if urgent
        else dg.MetadataValue.text("nothing blocks and nothing warns"),
        # Most of these findings have no remedy; an empty column would push the evidence out of sight.
        "everything_examined": findings_table(everything, _COLUMNS_WITHOUT_REMEDY),
    }
