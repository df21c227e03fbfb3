"""Tells people what happened besides the stream's own alerts."""

from migration_assets.runtime import Migration
from migration_assets.watch.notify import Delivery, send


def send_failure(migration: Migration, title: str, body: str) -> tuple[Delivery, ...]:
    """To every channel; empty where MIGRATION_ALERT_URLS is not set."""
    return send(tuple(url.get_secret_value() for url in migration.settings.alert_urls), title, body, "failure")
