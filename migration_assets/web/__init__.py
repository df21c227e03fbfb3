"""Dagster's web server and the guard in front of it, since the page can start steps that cannot be undone."""
