"""Quarters and weeks as partitions of the root: made, fenced, opened ahead, looked after."""
