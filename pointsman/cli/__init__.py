"""The `pointsman` command: parse, call, print."""

from pointsman.cli import commands, evaluation, fusion, gateway, replay, whole
from pointsman.cli.app import app

__all__ = ["app", "commands", "evaluation", "fusion", "gateway", "main", "replay", "whole"]


def main() -> None:
    """Run the command line."""
    app()
