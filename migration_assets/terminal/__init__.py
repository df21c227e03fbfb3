"""The commands and what they print: tables, progress, the dashboard. Nothing is measured here."""
