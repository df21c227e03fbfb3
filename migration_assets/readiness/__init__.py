"""Examines whether the applications may move to the base; changes nothing on either side."""

from migration_assets.readiness.run import examine_readiness

__all__ = ["examine_readiness"]
