"""The migration as Dagster sees it. Bodies are thin: call a step, record, return; the steps hold the logic."""

import warnings

import dagster as dg

# Partitioned checks and multi-dimensional partitions are preview and beta API, which is why Dagster's version is pinned
# exactly. A warning at every import of every run would teach people to overlook warnings.
for _category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_category)
