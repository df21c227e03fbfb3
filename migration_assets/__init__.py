"""Moves one huge, never partitioned PostgreSQL table into a partitioned base, and proves it equal."""
