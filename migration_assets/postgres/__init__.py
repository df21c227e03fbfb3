"""Sessions, catalogue reads, snapshots and fingerprints on the legacy and the base. Imports nothing of Dagster."""
