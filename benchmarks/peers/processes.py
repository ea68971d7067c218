"""Measurements in fresh processes of the peers' environment."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.install import PYTHON, ROOT

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def medians(module: str, options: Sequence[str], *, n_runs: int) -> dict[str, float]:
    """Run a module that prints numbers as JSON, several times with one BLAS thread, and return their medians."""
    runs = [
        json.loads(
            subprocess.run(  # noqa: S603 - our own modules
                [str(PYTHON), "-m", module, *options],
                cwd=ROOT,
                env={**os.environ, **dict.fromkeys(_THREADS, "1")},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
        )
        for _ in range(n_runs)
    ]
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}


def cpu_seconds() -> float:
    """Return the CPU seconds this process and its finished children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_mib() -> float:
    """Return the most memory this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage reports begins with the size of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
