"""The commands of `migration-assets`: each parses, calls a step, prints, and sets the exit code."""
