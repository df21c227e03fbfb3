"""Retirement: a week leaves the base through quarantine and the drop, and comes back from there or its archive."""
