"""`python -m pointsman.gateway.learn --config pointsman.yaml`: the learner as a process."""

from __future__ import annotations

import argparse
import logging
import sys

from pointsman.errors import PointsmanError
from pointsman.gateway.learn.worker import run_until_told
from pointsman.gateway.settings import InvalidSettingsError, SettingsFile


def main() -> int:
    """Learn until told to stop, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.gateway.learn", description=__doc__)
    parser.add_argument("--config", default="pointsman.yaml", help="the gateway's settings")
    parser.add_argument("--once", action="store_true", help="learn what is there, and stop")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run_until_told(SettingsFile(given.config), once=given.once)
    except InvalidSettingsError as error:
        sys.stderr.writelines(f"error: {line}\n" for line in error.lines())
        return 2
    except PointsmanError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
