"""What people see in a terminal: tables, progress, the demo. Measures nothing itself; it asks the ledger."""
