"""The `pointsman` command: parse, call, print."""

from pointsman.cli import commands, evaluation, fusion, gateway, learn, registry, replay, whole
from pointsman.cli.app import app

__all__ = ["app", "commands", "evaluation", "fusion", "gateway", "learn", "main", "registry", "replay", "whole"]


def main() -> None:
    """Run the command line."""
    app()
