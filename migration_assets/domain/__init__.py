"""The words of the migration as pure values: no I/O, no clock, no environment."""
