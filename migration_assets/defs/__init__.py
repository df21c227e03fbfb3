"""The migration as Dagster sees it. Thin: a body calls, records and returns; gates read the ledger."""

import warnings

import dagster as dg

# Partitioned checks and multi-dimensional partitions are preview and beta API; the version is pinned exactly for that
# reason, and a warning at every import of every run would teach people to overlook warnings.
for _category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_category)
