"""The servers that are measured, each a process, on a core of its own where there are two."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.gateway.install import BIN, ROOT
from pointsman.demo import example_table
from pointsman.pipeline import fit, simulate, warm_start
from pointsman.registry import save_router

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
N_LOGGED = 1500
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PROBE = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Are you there?"}]}).encode()


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        name: Of what it is.
        port: Where it listens.
        pid: Of its process.
    """

    name: str
    port: int
    pid: int

    @property
    def resident_mib(self) -> float:
        """Memory that it holds, in MiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 2**10

    @property
    def cpu_s(self) -> float:
        """Time that it has computed for, in s."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def cores() -> tuple[set[int], set[int]] | None:
    """Return the core of the server that is measured, and those of upstream and client; None where there is one."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    here = sorted(os.sched_getaffinity(0))
    return None if len(here) < 2 else ({here[0]}, set(here[1:]))


def n_lost(server: Server) -> int:
    """Return how many rounds a gateway could not write, by its own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("pointsman_store_lost ")).split()[1]))


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    is_measured: bool = True,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """Run a server while the block runs, from its first answer on."""
    split = cores()
    said = tempfile.TemporaryFile()  # noqa: SIM115 - the block below closes it; a pipe that no one reads would fill
    process = subprocess.Popen(  # noqa: S603 - our own commands
        command,
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD, **environment},
        stdout=subprocess.DEVNULL,
        stderr=said,
    )
    try:
        if split is not None:
            os.sched_setaffinity(process.pid, split[0 if is_measured else 1])
        try:
            _wait_for(process, f"http://127.0.0.1:{port}/v1/chat/completions")
        except RuntimeError:
            said.seek(0)
            raise RuntimeError(said.read().decode("utf-8", "replace")[-2000:]) from None
        yield Server(name, port, process.pid)
    finally:
        process.kill()
        process.wait()
        said.close()


def load(server: Server, **asked: Any) -> dict[str, Any]:
    """Return what a client of its own process measures at a server, and `cpu_ms`, the server's own time a request.

    See `benchmarks.gateway.load`.
    """
    split, before = cores(), server.cpu_s
    what = {"port": server.port, "seconds": 1e9, "n_requests": 10**9, "is_stream": False, **asked}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gateway.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if split is not None:
        os.sched_setaffinity(process.pid, split[1])
    told, _ = process.communicate(json.dumps(what))
    if process.returncode:
        raise RuntimeError(f"the client of {server.name} failed")
    found: dict[str, Any] = json.loads(told)
    return {**found, "cpu_ms": 1e3 * (server.cpu_s - before) / found["n"]}


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """Run the mock upstream; its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.gateway.upstream", str(port)]
    with running("upstream", command, port=port, is_measured=False):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def relay(upstream_url: str) -> Iterator[Server]:
    """Run the bare relay."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.gateway.relay", str(port), upstream_url]
    with running("bare relay", command, port=port) as server:
        yield server


@contextlib.contextmanager
def gateway(upstream_url: str, folder: Path) -> Iterator[Server]:
    """Run the gateway with a router that was fitted on real outcomes and learns, its store on disk in the folder."""
    port = free_port()
    table = example_table()
    router = folder / "router"
    if not router.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log = simulate(table, logger="confounded", seed=0).log
            some = log.take(np.sort(np.random.default_rng(0).permutation(log.n_rounds)[:N_LOGGED]))
            save_router(warm_start(fit(some, seed=0), some), router)
    settings = {
        "server": {"port": port},
        "upstreams": {"mock": {"base_url": upstream_url}},
        "models": [
            {"name": name, "upstream": "mock", "upstream_model": "mock", "price": PRICE} for name in table.arms.names
        ],
        "router": {"path": str(router)},
        "store": {"url": f"sqlite:///{folder / f'rounds-{port}.db'}"},
    }
    path = folder / f"pointsman-{port}.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.gateway.served", str(path)]
    with running("Pointsman", command, port=port) as server:
        yield server


@contextlib.contextmanager
def litellm(upstream_url: str, folder: Path) -> Iterator[Server]:
    """Run litellm's proxy, one worker, before the same upstream; it logs nothing.

    Raises:
        FileNotFoundError: Its environment is not there.
    """
    binary = BIN / "litellm"
    if not binary.exists():
        raise FileNotFoundError(f"{binary} is not there: run `python -m benchmarks.gateway.install`")
    port = free_port()
    model = {"model": "openai/mock", "api_base": upstream_url, "api_key": "sk-none"}
    path = folder / "litellm.yaml"
    path.write_text(json.dumps({"model_list": [{"model_name": "auto", "litellm_params": model}]}), encoding="utf-8")
    command = [str(binary), "--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with running("litellm", command, port=port, environment=environment) as server:
        yield server


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + 120
    request = urllib.request.Request(url, data=PROBE, headers={"content-type": "application/json"})  # noqa: S310
    while True:
        if process.poll() is not None:
            raise RuntimeError("the server stopped")
        if time.monotonic() > until:
            raise TimeoutError(f"{url} does not answer")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=20):  # noqa: S310 - our own server
            return
        time.sleep(0.1)
