"""What every command begins with."""

from migration_assets.runtime import Migration, open_migration
from migration_assets.settings import load_settings


def opened() -> Migration:
    """The migration of the settings; nothing is connected to yet.

    Raises:
        SettingsError: A setting is missing or wrong.
        EmbeddedServerError: The embedded servers are wanted and were never started.
    """
    return open_migration(load_settings())
