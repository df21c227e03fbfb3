"""A signed-off quarter for every module here, and the chain of its evidence."""

from migration_assets_tests.archiving.conftest import signed
from migration_assets_tests.postgres.conftest import ground

__all__ = ["ground", "signed"]
