"""A whole run: its settings, what only the whole can know about them, and the stages in their order."""

from xgenmm import libraries as libraries
