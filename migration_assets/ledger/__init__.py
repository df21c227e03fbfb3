"""The ledger: the one shared memory, in the base; one module a group of tables, and who is in charge."""
