"""The command `xgenmm`: a file per kind of verb. Nothing heavy is imported before a verb runs."""

from xgenmm.cli.command import main

__all__ = ["main"]
