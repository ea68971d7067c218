"""Every study, one after the other: `python -m benchmarks.studies [--quick] [--jobs N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.studies.table import FOLDER, Options, write

NAMES = ("identities", "unbiasedness", "double_robustness", "rates", "efficiency", "classes", "coverage")
"""Modules of the studies, the longest last."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run every study and return 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small slice of each, printed and not written")
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="processes of the studies that use several [2]"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="where reports are written")
    args = parser.parse_args(argv)
    options = Options(quick=args.quick, n_processes=args.jobs)
    return max(write(import_module(f"benchmarks.studies.{name}").study, options, folder=args.out) for name in NAMES)


if __name__ == "__main__":
    sys.exit(main())
