"""The gateway beside a bare relay and litellm's proxy: `python -m benchmarks.gateway --help`."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gateway import processes
from benchmarks.gateway.install import REQUIREMENTS, ROOT
from benchmarks.gateway.processes import Server
from benchmarks.markdown import grid

RESULTS = ROOT / "benchmarks" / "results" / "gateway.md"
CLIENTS = (1, 16, 64)
N_CHECKS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=3.0, help="how long each figure is measured, each time [3]")
    add("--runs", type=int, default=3, metavar="N", help="times of which the median counts, taken in turn [3]")
    add("--requests", type=int, default=20_000, metavar="N", help="after which memory is looked at [20000]")
    add("--no-litellm", action="store_true", help="leave litellm out")
    add("--out", type=Path, default=RESULTS, metavar="FILE", help="the report")
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(processes.upstream())
        servers = [stack.enter_context(processes.relay(url)), stack.enter_context(processes.gateway(url, folder))]
        if not args.no_litellm:
            servers.append(stack.enter_context(processes.litellm(url, folder)))
        busy = os.getloadavg()[0]
        for server in servers:
            processes.load(server, n_clients=4, n_requests=200)
            processes.load(server, n_clients=4, n_requests=200, is_stream=True)
        whole = {
            n_clients: _medians(servers, n_runs=args.runs, n_clients=n_clients, seconds=args.seconds)
            for n_clients in CLIENTS
        }
        streams = _medians(servers, n_runs=args.runs, n_clients=1, seconds=args.seconds, is_stream=True)
        memory = _memory(servers[1], n_requests=args.requests)
        n_lost = processes.n_lost(servers[1])
    lines = [*_head(args.seconds, args.runs, busy), *_tables(whole, streams), *_memory_told(memory, n_lost=n_lost)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


def _medians(servers: Sequence[Server], *, n_runs: int, **asked: Any) -> dict[str, dict[str, float]]:
    """Return the median of each figure of each server, measured in turn so that all meet the same noise."""
    runs: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
    for _ in range(n_runs):
        for server in servers:
            runs[server.name].append(processes.load(server, **asked))
    return {
        name: {key: float(np.median([run[key] for run in found])) for key in found[0] if found[0][key] is not None}
        for name, found in runs.items()
    }


def _memory(server: Server, *, n_requests: int) -> list[tuple[int, float]]:
    """Return what the server holds, in MiB, after each of some equal parts of so many requests."""
    held = [(0, server.resident_mib)]
    for part in range(1, N_CHECKS + 1):
        processes.load(server, n_clients=16, n_requests=n_requests // N_CHECKS)
        held.append((part * (n_requests // N_CHECKS), server.resident_mib))
    return held


def _head(seconds: float, n_runs: int, busy: float) -> list[str]:
    pins = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line.startswith("litellm")]
    pinned = "the server on one core, upstream and client on the other" if processes.cores() else "on shared cores"
    return [
        "# Speed of the gateway",
        "",
        f"Medians of {n_runs} runs of {seconds:g} s, the servers in turn; one worker each, {pinned} "
        f"({platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {busy:.1f}). "
        "A closed-loop client asks what was not asked before, and a mock upstream answers at once. Pointsman encodes "
        "each prompt, draws from a router fitted on 1,500 rounds, and writes each round durably to SQLite; the bare "
        f"relay (Starlette, uvicorn, aiohttp) and litellm's proxy ({', '.join(pins)}) pass requests on. "
        "`python -m benchmarks.gateway` repeats this.",
        "",
    ]


def _tables(whole: dict[int, dict[str, dict[str, float]]], streams: dict[str, dict[str, float]]) -> list[str]:
    names = list(streams)
    lines = ["## Requests a second", ""]
    header = ["clients", *names, "Pointsman / relay", *(["Pointsman / litellm"] if "litellm" in names else [])]
    rows = []
    for n_clients, found in whole.items():
        per_s = {name: found[name]["per_s"] for name in names}
        row = [str(n_clients), *(f"{per_s[name]:,.0f}" for name in names)]
        row.append(f"{per_s['Pointsman'] / per_s['bare relay']:.0%}")
        if "litellm" in names:
            row.append(f"{per_s['Pointsman'] / per_s['litellm']:.1f}x")
        rows.append(row)
    lines += grid(header, rows)
    lines += [
        "## CPU time a request",
        "",
        "In ms, of the server's process with all its threads: noise hardly moves it.",
        "",
    ]
    rows = []
    for n_clients, found in whole.items():
        cpu_ms = {name: found[name]["cpu_ms"] for name in names}
        row = [str(n_clients), *(f"{each:.2f}" for each in cpu_ms.values())]
        row.append(f"{cpu_ms['bare relay'] / cpu_ms['Pointsman']:.0%}")
        if "litellm" in names:
            row.append(f"{cpu_ms['litellm'] / cpu_ms['Pointsman']:.1f}x")
        rows.append(row)
    lines += grid(
        ["clients", *names, "relay / Pointsman", *(["litellm / Pointsman"] if "litellm" in names else [])], rows
    )
    lines += ["## Milliseconds", ""]
    rows = []
    for n_clients, found in whole.items():
        for key, what in (("p50_ms", "p50"), ("p99_ms", "p99")):
            rows.append(_times(f"{n_clients} clients, {what}", {name: found[name][key] for name in names}))
    rows.append(_times("stream, first content, p50", {name: streams[name]["first_p50_ms"] for name in names}))
    rows.append(_times("stream, whole, p50", {name: streams[name]["p50_ms"] for name in names}))
    lines += grid(["", *names, "Pointsman - relay"], rows)
    return lines


def _times(what: str, ms: dict[str, float]) -> list[str]:
    return [what, *(f"{each:.2f}" for each in ms.values()), f"{ms['Pointsman'] - ms['bare relay']:+.2f}"]


def _memory_told(held: Sequence[tuple[int, float]], *, n_lost: int) -> list[str]:
    lines = ["## Memory of Pointsman", ""]
    lines += grid(["requests, after all above", "MiB"], [[f"{n:,}", f"{mib:.0f}"] for n, mib in held])
    return [*lines, f"Rounds that were not written, of all of the above: {n_lost}."]


if __name__ == "__main__":
    sys.exit(main())
