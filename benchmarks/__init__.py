"""Speed against named peers, each measured in the same run on the same rows; see README.md."""
