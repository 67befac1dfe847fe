"""Turns mappings into frozen dataclasses and back. Knows no setting by name."""
