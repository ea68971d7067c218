"""The `pointsman` command: parse, call, print."""

from pointsman.cli import commands, evaluation, fusion, replay, whole
from pointsman.cli.app import app

__all__ = ["app", "commands", "evaluation", "fusion", "main", "replay", "whole"]


def main() -> None:
    """Run the command line."""
    app()
