"""How long fitting, choosing and importing take: `python -m benchmarks.speed --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import grid
from benchmarks.tables import RESULTS, ROOT, SHARED_DATA, missing, read_table, table_specs

N_ROUNDS = (36_000, 100_000, 300_000)
N_ROUNDS_FULL = (*N_ROUNDS, 1_000_000)
N_ARMS, N_FEATURES, N_DIRECTIONS = 11, 256, 24
N_LABELS, GOLD_SHARE = 1_000_000, 0.05
N_THREADS = 2
N_CHOICES = 2_000
N_IMPORTS = 11


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write `speed.md`, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    add = parser.add_argument
    add("--full", action="store_true", help="up to a million rounds, too")
    add("--rounds", nargs="+", type=int, metavar="N", help="sizes of the logs fitted")
    add("--labels", type=int, default=N_LABELS, metavar="N", help="rounds whose labels are fused [1,000,000]")
    add("--fusing-only", action="store_true", help="measure how long fusing labels takes, print it and write nothing")
    add("--method", default="auto")
    add("--threads", type=int, default=N_THREADS, metavar="N", help="BLAS threads a process may use [2]")
    add("--data", type=Path, default=SHARED_DATA, metavar="FOLDER", help="folder of the tables")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the results")
    add("--measure", choices=sorted(_MEASURES), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        json.dump(_MEASURES[args.measure](args), sys.stdout)
        return 0
    # For the processes started below; this one computes nothing.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    try:
        if args.fusing_only:
            print("\n".join(_fusing(args)))
            return 0
        report = _report(args)
    except subprocess.CalledProcessError as failed:
        print(f"error: {' '.join(failed.cmd)} failed:\n{failed.stderr}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "speed.md"
    path.write_text(report, encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)
    return 0


def synthetic_rounds(n_rounds: int, *, seed: int = 0) -> dict[str, Any]:
    """Return the columns of a log: contexts on the unit sphere that mostly lie in few directions, one arm a round.

    Each arm's expected quality is a logistic function of its own line in the context, and dearer arms are better; the
    logger leans to dear arms where the first direction is large.
    """
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((N_DIRECTIONS, N_FEATURES)).astype(np.float32) / np.sqrt(N_FEATURES)
    rank = np.linspace(-1, 1, N_ARMS)
    slopes = 2.0 * rng.standard_normal((N_FEATURES, N_ARMS)).astype(np.float32)
    context = np.empty((n_rounds, N_FEATURES), dtype=np.float32)
    arm = np.empty(n_rounds, dtype=np.int64)
    propensity, quality = np.empty(n_rounds), np.empty(n_rounds)
    for start in range(0, n_rounds, 50_000):
        rows = slice(start, min(start + 50_000, n_rounds))
        size = rows.stop - rows.start
        place = rng.standard_normal((size, N_DIRECTIONS), dtype=np.float32)
        mine = place @ directions + 0.3 / np.sqrt(N_FEATURES) * rng.standard_normal(
            (size, N_FEATURES), dtype=np.float32
        )
        mine /= np.linalg.norm(mine, axis=1, keepdims=True)
        leaning = np.exp((place[:, :1] - 0.5) * rank)
        probabilities = 0.95 * leaning / leaning.sum(axis=1, keepdims=True) + 0.05 / N_ARMS
        drawn = np.minimum(
            (rng.random((size, 1)) * probabilities.sum(axis=1, keepdims=True) >= probabilities.cumsum(axis=1)).sum(
                axis=1
            ),
            N_ARMS - 1,
        )
        each = np.arange(size)
        expected = 1 / (1 + np.exp(-(0.8 * rank + mine @ slopes)[each, drawn]))
        context[rows], arm[rows], propensity[rows] = mine, drawn, probabilities[each, drawn]
        quality[rows] = rng.random(size) < expected
    price = np.logspace(-4.5, -2, N_ARMS)
    return {
        "embedding": context,
        "arm": arm,
        "propensity": propensity,
        "quality": quality,
        "cost_usd": price[arm] * np.exp(0.3 * rng.standard_normal(n_rounds)),
    }


def _measure_fit(args: argparse.Namespace) -> dict[str, float]:
    import pyarrow as pa

    import pointsman as pm

    n_rounds = args.rounds[0]
    columns = synthetic_rounds(n_rounds)
    names = np.array([f"model-{place:02d}" for place in range(N_ARMS)])
    embedding = columns.pop("embedding")
    log = pm.LoggedRounds.from_table(
        pa.table(
            {
                "round_id": [str(place) for place in range(n_rounds)],
                "embedding": pa.FixedSizeListArray.from_arrays(embedding.ravel(), N_FEATURES),
                "model": names[columns.pop("arm")].tolist(),
                **columns,
            }
        )
    )
    del embedding, columns
    before = _peak_mib()
    began, began_cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pm.StatisticalWarning)
        pm.fit(log, method=args.method, seed=0)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "before_mib": before, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 2**10))


def judged_rounds(n_rounds: int, *, seed: int = 0) -> Any:
    """Return `synthetic_rounds` with the labels of two judges, one biased by arm and one noisy, and of gold for 5%."""
    from pointsman.fusion import JudgedRounds

    columns = synthetic_rounds(n_rounds, seed=seed)
    rng = np.random.default_rng([seed, 1])
    arm, quality = columns["arm"], columns["quality"]
    first = 0.2 + 0.6 * quality + np.linspace(-0.2, 0.2, N_ARMS)[arm] + 0.2 * rng.standard_normal(n_rounds)
    second = 0.3 + 0.4 * quality + 0.3 * rng.standard_normal(n_rounds)
    return JudgedRounds(
        context=columns["embedding"],
        arm=arm,
        judged=np.column_stack([np.clip(first, 0, 1), np.clip(second, 0, 1)]),
        gold=np.where(rng.random(n_rounds) < GOLD_SHARE, quality, np.nan),
        group=np.arange(n_rounds),
        arms=[f"model-{place:02d}" for place in range(N_ARMS)],
        judges=["biased", "noisy"],
    )


def _measure_fuse(args: argparse.Namespace) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    import pointsman as pm
    from pointsman.fusion import fuse, make_correction
    from pointsman.fusion.labelling import estimate_labelling

    rounds = judged_rounds(args.labels)
    before = _peak_mib()
    seconds: dict[str, float] = {}
    began_cpu = time.process_time()
    # One thread, as `fuse` has it, for the pieces that are called alone.
    with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="blas"):
        warnings.simplefilter("ignore", pm.StatisticalWarning)
        began = time.perf_counter()
        rounds.expected  # noqa: B018 - the first piece; the others find it made
        seconds["what judges are expected to say"] = time.perf_counter() - began
        began = time.perf_counter()
        fuse(rounds, make_correction())
        rest = time.perf_counter() - began
        peak, cpu_seconds = _peak_mib(), time.process_time() - began_cpu
        # The piece alone, once more: what of the rest it was.
        began = time.perf_counter()
        estimate_labelling(rounds, labelled=np.ones(rounds.n_rounds, dtype=np.bool_))
        seconds["who was given a gold label"] = time.perf_counter() - began
        seconds["corrections, cross-fitted and final"] = rest - seconds["who was given a gold label"]
    total = seconds["what judges are expected to say"] + rest
    return {"pieces": seconds, "seconds": total, "cpu_seconds": cpu_seconds, "before_mib": before, "peak_mib": peak}


def _measure_choose(args: argparse.Namespace) -> dict[str, Any]:
    import pointsman as pm
    from pointsman.encode import default_encoder

    specs = table_specs(["routerbench", "demo"])
    spec = next(each for each in specs if missing(each, args.data) is None)
    table = read_table(spec, folder=args.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pm.StatisticalWarning)
        simulated = pm.simulate(table, logger="uniform", seed=0)
        router = pm.fit(simulated.log, method=args.method, seed=0, encoder=default_encoder())
    quality_per_usd = 0.0 if table.cost_usd is None else 0.1 / float(table.cost_usd.mean(axis=0).max())
    prompts = simulated.rest.prompt[: N_CHOICES + 50]
    seconds = []
    for prompt in prompts:
        began = time.perf_counter()
        router.choose(prompt, quality_per_usd=quality_per_usd)
        seconds.append(time.perf_counter() - began)
    milliseconds = 1000 * np.array(seconds[50:])
    return {
        "table": spec.name,
        "n_choices": milliseconds.size,
        "mean_characters": float(np.mean([len(prompt) for prompt in prompts])),
        "p50_ms": float(np.quantile(milliseconds, 0.5)),
        "p99_ms": float(np.quantile(milliseconds, 0.99)),
    }


_MEASURES = {"fit": _measure_fit, "fuse": _measure_fuse, "choose": _measure_choose}


def _report(args: argparse.Namespace) -> str:
    sizes = args.rounds or (N_ROUNDS_FULL if args.full else N_ROUNDS)
    rows = []
    for n_rounds in sizes:
        _say(f"fitting {args.method} on {n_rounds:,} rounds")
        found = _measured(["--measure", "fit", "--rounds", str(n_rounds), "--method", args.method])
        rows.append(
            [
                f"{n_rounds:,}",
                f"{found['seconds']:.1f}",
                f"{found['cpu_seconds']:.1f}",
                f"{found['seconds'] / n_rounds * 1e5:.1f}",
                f"{found['peak_mib']:,.0f}",
                f"{found['before_mib']:,.0f}",
            ]
        )
    fusing = _fusing(args)
    _say("choosing")
    choice = _measured(["--measure", "choose", "--method", args.method, "--data", str(args.data)])
    _say("importing")
    bare, imported = _import_seconds("pass"), _import_seconds("import pointsman")
    _say("running the demo")
    demo = _demo_seconds(args.method)
    lines = [
        "# Speed",
        "",
        f"{_machine()}; BLAS threads at most: {args.threads}; each figure in a fresh process.",
        "",
        f"## Fitting `{args.method}`",
        "",
        f"`pointsman.fit` on a log of embeddings: {N_ARMS} models, {N_FEATURES} features, synthetic, on the unit "
        f"sphere, mostly in {N_DIRECTIONS} directions, confounded logging. Nuisances are part of it. Wanted: 36,000 "
        "rounds in at most 20 s and 1,024 MiB, growing about linearly to a million.",
        "",
        *grid(["rounds", "seconds", "CPU seconds", "seconds per 100,000", "peak MiB", "peak MiB before fitting"], rows),
        *fusing,
        "## Choosing",
        "",
        f"`Router.choose` for one prompt with the default encoder, {choice['n_choices']:,} prompts of table "
        f"{choice['table']} ({choice['mean_characters']:.0f} characters on average): "
        f"p50 **{choice['p50_ms']:.2f} ms**, "
        f"p99 {choice['p99_ms']:.2f} ms. Wanted: p50 at most 1 ms.",
        "",
        "## Importing",
        "",
        f"`import pointsman` takes **{1000 * (imported - bare):.0f} ms** (median of {N_IMPORTS} processes, "
        f"{1000 * imported:.0f} ms with the interpreter's own start). Wanted: under 500 ms.",
        "",
        "## The demo",
        "",
        f"`pointsman demo` takes **{demo:.0f} s**. Wanted: at most 60 s.",
    ]
    return "\n".join(lines) + "\n"


def _fusing(args: argparse.Namespace) -> list[str]:
    _say(f"fusing labels of {args.labels:,} rounds")
    found = _measured(["--measure", "fuse", "--labels", str(args.labels)])
    return [
        "## Fusing labels",
        "",
        f"`fusion.fuse` with `hierarchical` on {args.labels:,} of the rounds above, {N_FEATURES} features in float32, "
        f"two judges on every round and gold labels of {GOLD_SHARE:.0%}, nothing known of who was given one: "
        f"**{found['seconds']:.0f} s** ({found['cpu_seconds']:.0f} CPU seconds), at most {found['peak_mib']:,.0f} MiB, "
        f"of which {found['before_mib']:,.0f} MiB before, features and labels. Wanted: a million in at most 60 s.",
        "",
        *grid(["piece", "seconds"], [[name, f"{each:.1f}"] for name, each in found["pieces"].items()]),
    ]


def _run(command: Sequence[str]) -> str:
    finished = subprocess.run(  # noqa: S603 - our own modules
        command, cwd=ROOT, check=True, capture_output=True, text=True
    )
    return finished.stdout


def _measured(options: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run([sys.executable, "-m", "benchmarks.speed", *options]))
    return found


def _import_seconds(statement: str) -> float:
    seconds = []
    for _ in range(N_IMPORTS):
        began = time.perf_counter()
        _run([sys.executable, "-c", statement])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def _demo_seconds(method: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _run([sys.executable, "-m", "pointsman.cli", "demo", "--method", method, "--out", folder])
        return time.perf_counter() - began


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        names = [line.split(":", 1)[1].strip() for line in described.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
