"""Dagster's web server, and what stands before it: the page can start what cannot be undone."""
