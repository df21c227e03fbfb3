"""Preflight: examines both databases before anything is moved, and changes nothing in either except the ledger."""
