"""Does the same seed give the same bits on one thread: a log, a router, an evaluation?"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from benchmarks.markdown import grid
from benchmarks.studies.table import Options, Report, command
from pointsman import pipeline
from pointsman.demo import example_table
from pointsman.encode import default_encoder
from pointsman.encode.cache import CachedEncoder
from pointsman.errors import StatisticalWarning
from pointsman.registry import save_router

SHARE = 0.2
METHODS = ("auto", "direct", "rm-softmax")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ONLY = "--digests"


def main() -> int:
    """Run the study; with `--digests SEED METHOD`, print the digests of one run."""
    if sys.argv[1:2] == [ONLY]:
        for name, digest in digests(int(sys.argv[2]), sys.argv[3]).items():
            print(name, digest)
        return 0
    return command(study, __doc__)


def study(options: Options) -> Report:
    """Return whether two fresh processes, and two runs in one, give the same bytes."""
    methods = METHODS[1:2] if options.quick else METHODS
    rows, same, differ = [], True, True
    for method in methods:
        first, second, other_hashes, other_seed = (
            _in_a_process(seed, method, hash_seed=hash_seed)
            for seed, hash_seed in ((0, "0"), (0, "0"), (0, "1"), (1, "0"))
        )
        for name in first:
            alike = first[name] == second[name] == other_hashes[name]
            moved = first[name] != other_seed[name]
            same, differ = same and alike, differ and moved
            rows.append([method, name, "yes" if alike else "NO", "yes" if moved else "NO"])
    return Report(
        name="reproducibility",
        asked="Does the same seed give the same bits on one thread?",
        found=f"{'All' if same else 'Not all'} of {len(rows)} logs, routers and evaluations are byte for byte the "
        "same in three fresh processes, hashes of strings randomised in "
        f"one{'' if differ else ', but another seed is too'}.",
        holds=same and differ,
        body=[
            "A fifth of the table that ships with `paretobandit`, logged by the confounded policy and cut in halves: "
            "one teaches a router, saved as a folder, the other evaluates it (all estimators, comparisons, bands, "
            "diagnostics, sensitivity), written as JSON. SHA-256 of the log's outcomes and propensities, of the "
            "router's files, and of the JSON; each in a process of its own with one BLAS thread, twice with "
            "PYTHONHASHSEED 0 and once with 1. The last column says that another seed gives other bits: the "
            "comparison can fail.",
            "",
            *grid(["method", "bytes of", "same seed: same", "another seed: another"], rows),
            "That other programs come to the same figures is in `../peers.md`: values of obp to 1e-10, and scores of "
            "econml and doubleml to 1e-8 on the same folds.",
        ],
    )


def digests(seed: int, method: str) -> dict[str, str]:
    """Return digests of a log, of a router learned from half of it, and of its evaluation on the other."""
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", StatisticalWarning)
        encoder = CachedEncoder(default_encoder(), Path(folder) / "vectors.sqlite")
        drawn = pipeline.simulate(example_table(), logger="confounded", share=SHARE, seed=seed, encoder=encoder)
        half = drawn.log.n_rounds // 2
        learned_from = drawn.log.take(range(half))
        held_out = drawn.log.take(range(half, drawn.log.n_rounds))
        router = pipeline.fit(learned_from, method=method, seed=seed, encoder=encoder)
        save_router(router, Path(folder) / "router")
        evaluation = pipeline.evaluate(router, held_out, seed=seed)
        files = hashlib.sha256()
        for path in sorted((Path(folder) / "router").rglob("*")):
            if path.is_file():
                files.update(path.name.encode() + path.read_bytes())
        return {
            "log": _sha256(drawn.log.table),
            "router": files.hexdigest(),
            "evaluation": hashlib.sha256(evaluation.to_json().encode()).hexdigest(),
        }


def _sha256(table: pa.Table) -> str:
    return hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()


def _in_a_process(seed: int, method: str, *, hash_seed: str) -> dict[str, str]:
    said = subprocess.run(  # noqa: S603  # this very module
        [sys.executable, "-m", "benchmarks.studies.reproducibility", ONLY, str(seed), method],
        env={**os.environ, **ONE_THREAD, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split() for line in said.splitlines())


if __name__ == "__main__":
    sys.exit(main())
