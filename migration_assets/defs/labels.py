"""What all assets have in common in the UI."""

OWNERS = ["team:data-platform"]
KINDS = {"postgres"}
PREPARE = "1_prepare"
MIGRATE = "2_migrate"
FOLLOW = "3_follow"
APPROVE = "4_approve"
LEGACY_READ_POOL = "legacy_read"
# One at a time: each works on as many weeks at once as the other pool has places.
MANY_WEEKS_POOL = "many_weeks"
ARCHIVE = "5_archive"
ARCHIVE_POOL = "archive"
CUT_OVER = "6_cut_over"
