"""Every study, one after the other: `python -m benchmarks.studies [--quick] [--jobs N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from benchmarks import studies
from benchmarks.studies.table import FOLDER, Options, write
from pointsman.errors import PointsmanError


def main(argv: Sequence[str] | None = None) -> int:
    """Run every study and return 1 where one does not hold, or cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small slice of each, printed and not written")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes, where a study can use several [2]")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="where reports are written")
    args = parser.parse_args(argv)
    options = Options(quick=args.quick, n_processes=args.jobs)
    failed = 0
    for name in names():
        try:
            failed |= write(import_module(f"{studies.__name__}.{name}").study, options, folder=args.out)
        except (PointsmanError, FileNotFoundError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed = 1
    return failed


def names() -> list[str]:
    """Return the modules that hold a study."""
    found = [module.name for module in iter_modules(studies.__path__) if module.name != "__main__"]
    return [name for name in found if hasattr(import_module(f"{studies.__name__}.{name}"), "study")]


if __name__ == "__main__":
    sys.exit(main())
