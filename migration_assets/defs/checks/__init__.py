"""Checks of the assets: what is judged, and what gates a sign-off or a cutover."""
