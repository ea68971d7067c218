"""The `pointsman` command: parse, call, print."""

from pointsman.cli import commands, whole
from pointsman.cli.app import app

__all__ = ["app", "commands", "main", "whole"]


def main() -> None:
    """Run the command line."""
    app()
