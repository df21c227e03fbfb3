"""Weeks that leave for Parquet and come back: PostgreSQL, files and ledger together."""
