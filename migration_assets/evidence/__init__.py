"""Evidence packs: what the ledger proves, as one HTML file for auditors; and the sign-off of a quarter by a person."""
