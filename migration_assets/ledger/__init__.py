"""The ledger: the migration's record in the base. One module for each group of tables, and which side is in charge."""
