"""An evaluation with the shape and the size of a real one, drawn from a seed: what the report is tried on."""

from __future__ import annotations

from typing import Any

import numpy as np

N_ROUNDS = 6_240
LEVEL = 0.95
NEW, BEST, TODAY = "auto", "always gpt-4", "logging"
TRADE_OFFS = (0.0, 2.5, 12.3, 40.0, 160.0)
HEADLINE = 12.3

MODELS = {  # mean quality, mean cost in USD per request
    "gpt-4": (0.812, 0.00331),
    "claude-v2": (0.738, 0.00241),
    "claude-v1": (0.741, 0.00206),
    "Yi-34B-Chat": (0.703, 0.00018),
    "gpt-3.5-turbo": (0.697, 0.00024),
    "mixtral-8x7b-instruct": (0.692, 0.00014),
    "claude-instant-v1": (0.684, 0.00037),
    "llama-2-70b-chat": (0.619, 0.00020),
    "code-llama-34b-instruct": (0.583, 0.00016),
    "WizardLM-13B-V1.2": (0.561, 0.00007),
    "mistral-7b-instruct": (0.548, 0.00005),
}

TASKS = (
    "grade-school-math", "hellaswag", "mbpp", "mtbench-writing", "mtbench-reasoning", "winogrande", "arc-challenge",
    "mmlu-professional-law", "mmlu-moral-scenarios", "mmlu-high-school-statistics", "mmlu-college-medicine",
    "chinese-riddles", "abstract-to-title", "customer-support",
)  # fmt: skip

PROMPTS = (
    "A train leaves Utrecht at 09:10 and travels at 120 km/h; a second one leaves Zwolle, 90 km away, at 09:25 and "
    "travels towards it at 140 km/h. At what time do they meet? Answer with the time only.",
    "Write a Python function that returns the longest palindromic substring of a string. It must run in less than "
    "quadratic time; explain in a comment why it does.",
    "Translate into formal Dutch: 'We regret to tell you that your request can not be granted.'",
    "You are the support agent of an online shop. A customer writes:\n\n" + "My parcel was to come on Tuesday. " * 60,
    "Which of the following is a valid defence to a claim of negligence in most common-law jurisdictions? "
    "A. contributory negligence B. strict liability C. res ipsa loquitur D. vicarious liability",
    "Summarise the following meeting notes in three bullet points.\n" + "- The team discussed the migration. " * 40,
    "What is 17 * 23?",
    "Is the following review positive or negative? 'I wanted to like it, and for the first hour I did.'",
)


def make_example(seed: int = 0) -> dict[str, Any]:
    """Return the evaluation of a router that is cheaper and a little worse than always gpt-4."""
    rng = np.random.default_rng(seed)
    policies = [NEW, BEST, TODAY]
    quality = {NEW: [0.823, 0.818, 0.809, 0.772, 0.704], BEST: [0.812] * 5, TODAY: [0.707] * 5}
    cost = {NEW: [0.00274, 0.00213, 0.00129, 0.00041, 0.00012], BEST: [0.00331] * 5, TODAY: [0.00103] * 5}
    half = {NEW: 0.0087, BEST: 0.0121, TODAY: 0.0049}
    ess = {NEW: [2140, 2260, 2410, 1890, 1320], BEST: [1180] * 5, TODAY: [N_ROUNDS] * 5}
    return {
        "title": "auto against always gpt-4",
        "created": "2026-11-22",
        "pointsman_version": "0.1.0",
        "log": "held_out.parquet",
        "level": LEVEL,
        "estimator": "dr",
        "policies": [
            {"name": NEW, "kind": "router", "note": "method auto, fitted on 1,890 rounds"},
            {"name": BEST, "kind": "always", "note": "the single model with the highest quality"},
            {"name": TODAY, "kind": "logging", "note": "whatever chose the models in this log"},
        ],
        "headline": {
            "policy": NEW,
            "against": BEST,
            "quality_per_usd": HEADLINE,
            "verdict": "better",
            "sentence": "At 12.3 quality points per USD, auto earns 2.2 points more than always gpt-4 (95% interval "
            "0.8 to 3.6), with quality down 0.3 and cost down 61%.",
            "value": 0.0218,
            "ci_low": 0.0079,
            "ci_high": 0.0357,
        },
        "rows": [
            _row(policy, k, estimator, quality[policy][k], cost[policy][k], half[policy], ess[policy][k], rng)
            for policy in policies
            for k in range(len(TRADE_OFFS))
            for estimator in ("dr", "snips", "ips", "dm")
        ],
        "frontier": _frontier(quality[NEW], cost[NEW], rng),
        "comparisons": [
            _comparison(against, k, outcome, quality, cost, rng)
            for against in (BEST, TODAY)
            for k in range(len(TRADE_OFFS))
            for outcome in ("utility", "quality", "cost_usd")
        ],
        "savings": _savings(),
        "slices": _slices(rng),
        "examples": _examples(rng),
        "models": _models(rng),
        "overlap": [_overlap(policy, k, ess[policy][k], rng) for policy in (NEW, BEST) for k in range(len(TRADE_OFFS))],
        "calibration": _calibration(rng),
        "balance": _balance(rng),
        "missing": {
            "share": 0.021,
            "p_value": 0.34,
            "sentence": "131 of 6,240 rounds (2.1%) have no outcome and were left out; whether one is missing does not "
            "visibly depend on the prompt.",
        },
        "sensitivity": [_sensitivity(against, k) for against in (BEST, TODAY) for k in range(len(TRADE_OFFS))],
        "warnings": [
            "At trade-off 160, always gpt-4 rests on an effective 1,180 of 6,240 rounds; its intervals hold for any "
            "sample size and are wide.",
            "The propensities of this log are estimated, not recorded: see whether they are right before acting on it.",
        ],
        "limits": [
            "The log never tried code-llama-34b-instruct on chinese-riddles: nothing is known of it there.",
            "Quality was judged by one grader; another grader might rank the models otherwise.",
            "Latency was not logged, so nothing here says how long anyone waits.",
            "The log ends on 14 November 2026: prompts, prices and models may have changed since.",
        ],
    }


def _row(
    policy: str, k: int, estimator: str, quality: float, cost: float, half: float, ess: float, rng: np.random.Generator
) -> dict[str, Any]:
    wider = {"dr": 1.0, "snips": 1.5, "ips": 2.1, "dm": 0.7}[estimator]
    quality = quality + (0.0 if estimator == "dr" else rng.normal(0, half / 2))
    value = quality - TRADE_OFFS[k] * cost
    known = estimator != "dm"
    return {
        "policy": policy,
        "quality_per_usd": TRADE_OFFS[k],
        "estimator": estimator,
        "value": value,
        "ci_low": value - wider * half * 1.1 if known else None,
        "ci_high": value + wider * half * 1.1 if known else None,
        "interval": ("finite-sample" if ess < 1200 else "normal") if known else "none",
        "bias_bound": 0.0 if known else "inf",
        "quality": quality,
        "quality_ci_low": quality - wider * half if known else None,
        "quality_ci_high": quality + wider * half if known else None,
        "cost_usd": cost,
        "cost_usd_ci_low": cost * (1 - 0.04 * wider) if known else None,
        "cost_usd_ci_high": cost * (1 + 0.04 * wider) if known else None,
        "ess": float(ess),
        "n_rounds": N_ROUNDS,
    }


def _point(policy: str, at: float | None, quality: float, cost: float, half: float, spread: float) -> dict[str, Any]:
    return {
        "policy": policy,
        "quality_per_usd": at,
        "quality": quality,
        "quality_low": quality - half,
        "quality_high": quality + half,
        "cost_usd": cost,
        "cost_usd_low": cost * (1 - spread),
        "cost_usd_high": cost * (1 + spread),
    }


def _frontier(quality: list[float], cost: list[float], rng: np.random.Generator) -> list[dict[str, Any]]:
    moving = [_point(NEW, at, a, c, 0.0138, 0.08) for at, a, c in zip(TRADE_OFFS, quality, cost, strict=True)]
    fixed = [
        _point(f"always {name}", None, a, c, float(rng.uniform(0.014, 0.034)), 0.06) for name, (a, c) in MODELS.items()
    ]
    return [*moving, *fixed, _point(TODAY, None, 0.707, 0.00103, 0.0072, 0.04)]


def _comparison(
    against: str, k: int, outcome: str, quality: dict[str, list[float]], cost: dict[str, list[float]],
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    gain, spent = quality[NEW][k] - quality[against][k], cost[NEW][k] - cost[against][k]
    value = {"utility": gain - TRADE_OFFS[k] * spent, "quality": gain, "cost_usd": spent}[outcome]
    half = {"utility": 0.0139, "quality": 0.0127, "cost_usd": 0.00011}[outcome] * float(rng.uniform(0.85, 1.25))
    return {
        "policy": NEW,
        "against": against,
        "quality_per_usd": TRADE_OFFS[k],
        "outcome": outcome,
        "value": value,
        "ci_low": value - half,
        "ci_high": value + half,
        "interval": "finite-sample" if k == 4 else "normal",
        "flip_gamma": "inf" if k == 4 else 1.0 + 14 * abs(value) if outcome == "utility" else None,
    }


def _savings() -> list[dict[str, Any]]:
    def saving(against: str, kind: str, value: float | None, half: float, of: float, reason: str | None = None) -> Any:
        ends = (None, None) if value is None else (value - half, value + half)
        return {
            "policy": NEW, "against": against, "kind": kind, "value": value, "ci_low": ends[0], "ci_high": ends[1],
            "share": None if value is None else value / of,
            "share_low": None if ends[0] is None else ends[0] / of,
            "share_high": None if ends[1] is None else ends[1] / of,
            "reason": reason,
        }  # fmt: skip

    return [
        saving(BEST, "cost at equal quality", 0.00183, 0.00042, 0.00331),
        saving(TODAY, "cost at equal quality", 0.00090, 0.00008, 0.00103),
        saving(BEST, "quality at equal cost", None, 0, 1, "auto never costs as much as always gpt-4, at any trade-off"),
        saving(TODAY, "quality at equal cost", 0.0964, 0.0122, 0.707),
    ]


def _slices(rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for against, centre in ((BEST, 0.022), (TODAY, 0.095)):
        for at in (HEADLINE, 40.0):
            for task in TASKS:
                n_rounds = int(rng.integers(90, 900))
                value, half = float(rng.normal(centre, 0.028)), 0.62 / np.sqrt(n_rounds)
                found.append(_slice("task", task, against, at, n_rounds, value, half))
    by_language = [
        _slice("language", language, BEST, HEADLINE, 700, float(rng.normal(0.02, 0.03)), 0.025)
        for language in ("English", "Chinese", "code")
    ]
    return found + by_language


def _slice(column: str, name: str, against: str, at: float, n_rounds: int, value: float, half: float) -> dict[str, Any]:
    return {
        "column": column, "slice": name, "policy": NEW, "against": against, "quality_per_usd": at, "n_rounds": n_rounds,
        "ess": 0.38 * n_rounds, "value": value, "ci_low": value - float(half), "ci_high": value + float(half),
    }  # fmt: skip


def _examples(rng: np.random.Generator) -> list[dict[str, Any]]:
    names = list(MODELS)
    found = []
    for k, prompt in enumerate(PROMPTS):
        model = names[int(rng.integers(3, len(names)))]
        cost = MODELS[model][1] - MODELS["gpt-4"][1]
        quality = float(rng.normal(0.0, 0.06))
        logged = names[int(rng.integers(len(names)))]
        found.append(
            {
                "prompt": prompt,
                "policy": NEW,
                "against": BEST,
                "model": model,
                "against_model": "gpt-4",
                "quality_per_usd": HEADLINE,
                "gain": quality - HEADLINE * cost,
                "quality_gain": quality,
                "cost_usd_change": cost,
                "logged_model": logged,
                "logged_quality": float(k % 3 > 0),
            }
        )
    return sorted(found, key=lambda row: -float(str(row["gain"])))


def _models(rng: np.random.Generator) -> list[dict[str, Any]]:
    logged, chosen = rng.dirichlet(np.full(len(MODELS), 3.0)), rng.dirichlet(np.full(len(MODELS), 0.6))
    return [
        {
            "model": name,
            "n_rounds": round(N_ROUNDS * logged[k]),
            "share": float(logged[k]),
            "mean_quality": quality,
            "mean_cost_usd": cost,
            "smallest_propensity": float(logged[k] * rng.uniform(0.02, 0.3)),
            "share_under_policy": {NEW: float(chosen[k]), BEST: float(name == "gpt-4"), TODAY: float(logged[k])},
        }
        for k, (name, (quality, cost)) in enumerate(MODELS.items())
    ]


def _overlap(policy: str, k: int, ess: float, rng: np.random.Generator) -> dict[str, Any]:
    edges = np.logspace(-2, 2, 25)
    weights = rng.lognormal(-0.7, 1.1, N_ROUNDS)
    counts, _ = np.histogram(weights, bins=edges)
    small = ess < 1200
    return {
        "policy": policy, "quality_per_usd": TRADE_OFFS[k], "effective_sample_size": float(ess), "n_rounds": N_ROUNDS,
        "smallest_propensity": 0.0041, "largest_weight": float(weights.max()), "mean_weight": float(weights.mean()),
        "top_weight_share": 0.31 if small else 0.12, "pareto_k": 0.74 if small else 0.41,
        "unsupported_share": 0.018 if small else 0.0, "gate": "finite-sample" if small else "normal",
        "reasons": ["Pareto k 0.74 is above 0.7: averages of such weights settle slowly."] if small else [],
        "weights": {"edges": edges.tolist(), "counts": counts.tolist()},
    }  # fmt: skip


def _calibration(rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for name in MODELS:
        for claimed in (0.03, 0.08, 0.15, 0.3):
            n_rounds = int(rng.integers(200, 1600))
            at = claimed * float(rng.uniform(0.8, 1.2))
            half = 1.96 * float(np.sqrt(at * (1 - at) / n_rounds))
            observed = max(at + float(rng.normal(0, half / 1.9)), 0.0)
            found.append(
                {
                    "model": name,
                    "claimed": at,
                    "observed": observed,
                    "low": max(observed - half, 0.0),
                    "high": observed + half,
                    "n_rounds": n_rounds,
                }
            )
    return found


def _balance(rng: np.random.Generator) -> list[dict[str, Any]]:
    features = ("prompt length", "has code", "is a question", "component 1", "component 2", "component 3")
    found = []
    for name in MODELS:
        for feature in features:
            before = float(rng.normal(0, 0.28))
            found.append({"feature": feature, "model": name, "before": before, "after": before * 0.12})
    return found


def _sensitivity(against: str, k: int) -> dict[str, Any]:
    value, rate = (0.0218, 0.06) if against == BEST else (0.095, 0.08)
    gammas = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)
    return {
        "policy": NEW,
        "against": against,
        "quality_per_usd": TRADE_OFFS[k],
        "flip_gamma": float(np.exp((value - 0.0139) / rate)),
        "rows": [
            {
                "gamma": gamma,
                "low": value - 0.0139 - rate * float(np.log(gamma)),
                "high": value + 0.0139 + rate * float(np.log(gamma)),
            }
            for gamma in gammas
        ],
    }
