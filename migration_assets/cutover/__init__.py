"""The cutover and the rollback: one machine that moves the writes to the other side, or leaves them where they are."""
