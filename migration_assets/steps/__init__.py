"""The steps of a migration behind their gates: what Dagster's runs, the command line and tests all call."""
