"""Examines whether the applications may move to the base; changes nothing on either side."""
