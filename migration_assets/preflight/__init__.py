"""Examines both databases before anything is moved; changes nothing in either."""

from migration_assets.preflight.plan import PreflightPlan
from migration_assets.preflight.run import run_preflight

__all__ = ["PreflightPlan", "run_preflight"]
