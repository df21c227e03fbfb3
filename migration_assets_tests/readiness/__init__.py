"""Readiness for the cutover."""
