"""A fusion with the shape of a real one, drawn from a seed: what its page is tried on."""

from __future__ import annotations

from typing import Any

import numpy as np

MODELS = ("gpt-4", "claude-v2", "mixtral-8x7b-instruct", "llama-2-70b-chat", "mistral-7b-instruct")
TASKS = ("code", "law", "riddles", "chat")
JUDGES = ("gpt-judge", "thumbs")


def make_fusion(seed: int = 0) -> dict[str, Any]:
    """Return a fusion of two judges, the first of which mistral games."""
    rng = np.random.default_rng(seed)
    bias = []
    for judge in JUDGES:
        bias.append(_bias(judge, "overall", "", 0.06, 300, differs=False))
        for model in MODELS:
            gamed = judge == JUDGES[0] and model == MODELS[-1]
            value = 0.55 if gamed else 0.06 + 0.05 * rng.normal()
            bias.append(_bias(judge, "arm", model, value, 60, differs=gamed, gamed=gamed))
        bias += [_bias(judge, "task", task, 0.06 + 0.03 * rng.normal(), 75 if k else 4) for k, task in enumerate(TASKS)]
    return {
        "title": "Labels of gpt-judge, thumbs",
        "created": "2026-11-22",
        "pointsman_version": "0.1.0",
        "log": "log.parquet",
        "level": 0.95,
        "gold": "expert",
        "correction": "hierarchical",
        "judges": list(JUDGES),
        "headline": {
            "kind": "gamed",
            "sentence": "mistral-7b-instruct games gpt-judge: it is scored 55 points above gold.",
        },
        "bias": bias,
        "agreement": [
            {
                "judge": judge,
                "n_pairs": 300,
                "correlation": 0.6,
                "rank_correlation": 0.55,
                "absolute_difference": 0.2,
                "constant_absolute_difference": 0.31,
                "rmse": 0.3,
                "constant_rmse": 0.42,
                "auc": 0.83,
            }
            for judge in JUDGES
        ],
        "calibration": [
            {
                "judge": judge,
                "low": k / 10,
                "high": k / 10 + 0.09,
                "judged": k / 10 + 0.05,
                "gold": 0.08 * k,
                "ci_low": max(0.08 * k - 0.06, 0),
                "ci_high": 0.08 * k + 0.06,
                "n_pairs": 30,
            }
            for judge in JUDGES
            for k in range(10)
        ],
        "worth": [
            _worth(JUDGES[0], 270.0, 0.05, True),
            _worth(JUDGES[1], 0.0, "inf", False),
        ],
        "coverage": {
            "n_rounds": 3164,
            "n_gold": 300,
            "n_judged": {"gpt-judge": 3164, "thumbs": 1500},
            "by_model": [
                {"model": model, "n_rounds": 630, "n_gold": 60, "mean_gold": 0.7, "mean_in_gold_units": 0.69}
                for model in MODELS
            ],
            "labelling": {
                "kind": "estimated",
                "share": 0.095,
                "covered": 1.01,
                "trimmed_share": 0.02,
                "smallest": 0.02,
            },
            "judges_used": list(JUDGES),
        },
        "next_rounds": [
            {
                "rank": k + 1,
                "round_id": f"r{k}",
                "model": MODELS[k % 5],
                "prompt": "Which clause of the contract governs liability for late delivery? " * 4,
                "gain": 1e-4,
                "expected": 0.6,
                "error": 0.1,
                "between": ["gpt-4", "claude-v2"],
                "reason": "helps to decide between gpt-4 and claude-v2",
            }
            for k in range(6)
        ],
        "more": {
            "n_more": 100,
            "n_chosen": 100,
            "regret_reduction": 0.0021,
            "random_regret_reduction": 0.0008,
            "rows": [
                {"by": by, "cell": cell, "value": 0.69, "half_width": 0.05, "later_half_width": 0.043}
                for by, cell in [("overall", ""), *(("arm", model) for model in MODELS)]
            ],
        },
        "gain": {
            "weak": "mixtral-8x7b-instruct",
            "strong": "gpt-4",
            "largest": 0.021,
            "area": 0.011,
            "area_ci_low": 0.002,
            "area_ci_high": 0.02,
            "n_prompts": 3164,
            "rows": [
                {"share": s, "gain": 0.08 * s * (1 - s), "ci_low": 0.05 * s * (1 - s), "ci_high": 0.11 * s * (1 - s)}
                for s in np.linspace(0, 1, 41).tolist()
            ],
        },
        "warnings": ["2.0% of rounds had next to no chance of a gold label (under 0.0095)."],
        "n_labels": 3164,
        "mean_quality": 0.69,
    }


def _bias(
    judge: str, by: str, cell: str, value: float, n_gold: int, *, differs: bool = False, gamed: bool = False
) -> dict[str, Any]:
    half = 0.7 / np.sqrt(n_gold)
    return {
        "judge": judge,
        "by": by,
        "cell": cell,
        "value": float(value),
        "standard_error": float(half / 2),
        "ci_low": float(value - half),
        "ci_high": float(value + half),
        "n_gold": n_gold,
        "n_judged": 10 * n_gold,
        "basis": "paired",
        "p_value": None if by == "overall" else 0.001 if differs else 0.4,
        "differs": differs,
        "gamed": gamed,
    }


def _worth(judge: str, replaced: float, usd: float | str, worth_its_price: bool) -> dict[str, Any]:
    return {
        "judge": judge,
        "n_judged": 3164,
        "n_gold": 300,
        "standard_error": 0.02,
        "gold_only_standard_error": 0.026,
        "replaced": replaced,
        "ci_low": 0.7 * replaced,
        "ci_high": 1.4 * replaced,
        "per_thousand": replaced / 3.164,
        "usd_per_gold_label": usd,
        "worth_its_price": worth_its_price,
    }
