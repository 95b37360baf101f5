"""The command line: one file per command, thin over the library."""

from tmask.cli.app import app, main

__all__ = ["app", "main"]
