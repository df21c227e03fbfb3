"""Parquet and DuckDB: archives of slices, written, proven, read, queried. Knows no PostgreSQL and no Dagster."""
