"""The command line: one file a command. It parses, calls the library and prints; heavy imports wait inside commands."""

from hasten.cli.app import app, main

__all__ = ["app", "main"]
