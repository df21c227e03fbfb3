"""The guard before the page, without Dagster behind it."""
