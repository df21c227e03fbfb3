"""Real limits are reached: full disks, no connection left, a full lock table. Each ends readably; a re-run mends it."""
