"""Giving a migration up."""
