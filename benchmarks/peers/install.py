"""Make the environment of the comparison with peers: `python -m benchmarks.peers.install`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-peers"
PYTHON = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin") / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

OBP = "obp==0.5.7"
"""Its metadata asks for versions of Python and of its dependencies that are long gone. It runs with those of
`requirements.txt`, torch among them, which it imports whether or not it is used."""


def main() -> int:
    """Make or complete the environment, import every peer once, and return the exit code."""
    if not PYTHON.exists():
        _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    install = [str(PYTHON), "-m", "pip", "install", "--quiet"]
    _run([*install, "--requirement", str(REQUIREMENTS)])
    _run([*install, "--no-deps", "--ignore-requires-python", OBP])
    _run([*install, "--editable", str(ROOT)])
    _run([str(PYTHON), "-c", "import doubleml, duckdb, econml.dr, estimators.bandits, obp.ope, pointsman"])
    return 0


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - our own arguments


if __name__ == "__main__":
    sys.exit(main())
