"""Make the environment of the gateway's peers: `python -m benchmarks.gateway.install`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-gateway"
BIN = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def main() -> int:
    """Make or complete the environment, and return the exit code."""
    if not (BIN / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)  # noqa: S603 - our own arguments
    install = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)]
    subprocess.run(install, check=True)  # noqa: S603 - our own arguments
    return 0


if __name__ == "__main__":
    sys.exit(main())
