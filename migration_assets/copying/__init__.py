"""Copies one week from the legacy into its leaf: load, proof, swap and ledger entry."""
