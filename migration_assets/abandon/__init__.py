"""The way out before a cutover: nothing of ours is left on the legacy."""
