"""What a bad day brings, one after the other, on servers of their own: seen, explained, mended as the runbook says."""
