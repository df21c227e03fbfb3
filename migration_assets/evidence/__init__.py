"""Evidence packs: facts of the ledger as one HTML file that needs nothing but a reader. Plain Python, no I/O."""
