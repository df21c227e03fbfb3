"""A week leaves the base, and comes back: quarantine, the drop, the return from its archive."""
