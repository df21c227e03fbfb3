"""Telling people: the only place that knows the channels."""
