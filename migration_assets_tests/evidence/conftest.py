"""A signed-off quarter for every module here, and the chain of its evidence."""

from migration_assets_tests.archive.conftest import signed

__all__ = ["signed"]
