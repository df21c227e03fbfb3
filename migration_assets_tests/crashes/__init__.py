"""A crash anywhere ends in equality after a plain re-run: processes killed at every statement, frozen, servers too."""
