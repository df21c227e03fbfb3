"""The decommissioning of the legacy: who still reads it, what stands in the way, and the deed itself."""
