"""Examines both databases before anything is moved; changes nothing in either."""
