"""Everything that speaks SQL to the legacy and the base. Knows the domain, knows nothing of Dagster."""
