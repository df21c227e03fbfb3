"""What all assets have in common in the UI."""

OWNERS = ["team:data-platform"]
KINDS = {"postgres"}
PREPARE = "1_prepare"
MIGRATE = "2_migrate"
LEGACY_READ_POOL = "legacy_read"
