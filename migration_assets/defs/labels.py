"""What all assets have in common in the UI."""

OWNERS = ["team:data-platform"]
KINDS = {"postgres"}
PREPARE = "1_prepare"
MIGRATE = "2_migrate"
FOLLOW = "3_follow"
APPROVE = "4_approve"
ARCHIVE = "5_archive"
ARCHIVE_POOL = "archive"
CUT_OVER = "6_cut_over"
