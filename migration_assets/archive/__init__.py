"""Archives of weeks in Parquet: written, verified, read back and queried with DuckDB."""
