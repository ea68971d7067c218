"""Preferences: each rule of their table, and one row for a pair whichever way round it was shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import synthetic

from pointsman.arms import ArmSet
from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import Preferences


def columns(**changed: Any) -> dict[str, Any]:
    """Three valid votes; a column given as None is left out."""
    valid = {
        "prompt": ["p", "p", "q"],
        "model_a": ["x", "y", "x"],
        "model_b": ["y", "x", "z"],
        "preference": [1.0, 0.5, 0.0],
        "source": ["judge", "judge", "human"],
    }
    return {name: values for name, values in (valid | changed).items() if values is not None}


def build(**changed: Any) -> Preferences:
    """The preferences of `columns`."""
    return Preferences.from_columns(origin="votes.csv", **columns(**changed))


def test_arrays_say_what_the_table_says():
    """Arms are sorted by name, a missing count of votes is one, other columns are kept."""
    votes = build(n_votes=[2, None, 3], task=["maths", "maths", "code"])

    assert len(votes) == 3
    assert votes.arms.names == ("x", "y", "z")
    np.testing.assert_array_equal(votes.arm_a, [0, 1, 0])
    np.testing.assert_array_equal(votes.arm_b, [1, 0, 2])
    np.testing.assert_array_equal(votes.preference, [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(votes.n_votes, [2, 1, 3])
    np.testing.assert_array_equal(build().n_votes, [1, 1, 1])
    assert votes.prompt == ["p", "p", "q"]
    assert votes.source == ["judge", "judge", "human"]
    assert votes.sources == ("human", "judge")
    assert votes.table["task"].to_pylist() == ["maths", "maths", "code"]
    assert repr(votes) == "Preferences(3 votes, 3 arms, from 'votes.csv')"
    assert not any(array.flags.writeable for array in (votes.arm_a, votes.arm_b, votes.preference, votes.n_votes))


@pytest.mark.parametrize(
    ("changed", "column", "row", "rule", "got"),
    [
        ({"prompt": ["p", None, "q"]}, "prompt", 2, "must not be null", "null"),
        ({"model_a": ["x", "", "z"]}, "model_a", 2, "must not be null or empty", "''"),
        ({"model_b": ["x", "y", None]}, "model_b", 3, "must not be null or empty", "null"),
        ({"model_b": [1, 2, 3]}, "model_b", 1, "must be text", "1"),
        ({"preference": [0.5, None, 1]}, "preference", 2, "must be in [0, 1]", "null"),
        ({"preference": [0.5, 1, 2]}, "preference", 3, "must be in [0, 1]", "2.0"),
        ({"preference": [-1, 0, 1]}, "preference", 1, "must be in [0, 1]", "-1.0"),
        ({"preference": ["a", "b", "tie"]}, "preference", 1, "must be a number", "'a'"),
        ({"source": ["judge", "", "judge"]}, "source", 2, "must not be null or empty", "''"),
        ({"n_votes": [1, 0, 1]}, "n_votes", 2, "must be at least 1", "0"),
        ({"n_votes": [1, 1.5, 1]}, "n_votes", 2, "must be a whole number", "1.5"),
    ],
)
def test_each_rule_names_origin_column_row_rule_and_value(changed, column, row, rule, got):
    """A cell that breaks a rule gets one message with all that is needed to mend it."""
    with pytest.raises(InvalidLogError) as broken:
        build(**changed)

    message = str(broken.value)
    assert message.startswith(f"votes.csv: column {column!r}, row {row}: ")
    assert rule in message
    assert f"got {got};" in message


@pytest.mark.parametrize("missing", ["prompt", "model_a", "model_b", "preference", "source"])
def test_a_missing_column_is_named(missing):
    """All five columns are needed."""
    with pytest.raises(InvalidLogError, match=f"votes.csv: column '{missing}' is missing"):
        build(**{missing: None})


def test_votes_are_kept_by_mask_and_by_arms():
    """A mask keeps the arms; `among` keeps the votes on two of the given arms, over these arms."""
    votes = build()

    assert votes.filter([False, True, True]).prompt == ["p", "q"]
    assert votes.filter([False, True, True]).arms == votes.arms
    some = votes.among(ArmSet.named(["w", "x", "z"]))
    assert some.arms.names == ("w", "x", "z")
    np.testing.assert_array_equal(some.arm_b, [2])
    with pytest.raises(InvalidLogError, match="at least one vote must be on two of the arms"):
        votes.among(ArmSet.named(["x", "w"]))
    with pytest.raises(InvalidLogError, match=r"models must be among the arms \['x', 'y'\]; got \['z'\]"):
        Preferences.from_columns(arms=ArmSet.named(["x", "y"]), **columns())
    for mask in ([True], [1, 1, 1], [False] * 3):
        with pytest.raises(InvalidParameterError, match="mask must be 3 booleans"):
            votes.filter(mask)


def test_both_orders_become_one_row():
    """Swapped models with the preference mirrored are one pair; another source, prompt or opponent is another."""
    votes = build(
        prompt=["p", "p", "p", "q", "p"],
        model_a=["y", "x", "x", "x", "x"],
        model_b=["x", "y", "y", "y", "z"],
        preference=[0.25, 0.25, 1.0, 0.0, 0.5],
        source=["judge", "judge", "other", "judge", "judge"],
        task=["first", "second", "third", "fourth", "fifth"],
    )
    merged = votes.merged()

    table = merged.preferences.table
    assert table["model_a"].to_pylist() == ["x", "x", "x", "x"]
    assert table["model_b"].to_pylist() == ["y", "y", "y", "z"]
    assert table["preference"].to_pylist() == [0.5, 1.0, 0.0, 0.5]
    assert table["source"].to_pylist() == ["judge", "other", "judge", "judge"]
    assert table["n_votes"].to_pylist() == [2, 1, 1, 1]
    assert table["task"].to_pylist() == ["first", "third", "fourth", "fifth"]
    assert merged.n_both_orders == 1
    assert merged.n_contradicted == 1
    (judge,) = merged.position_bias
    # y first: 0.25 for y; x first: 0.25 for x: the first place gets 0.25 on average.
    assert (judge.source, judge.n_pairs, judge.n_contradicted, judge.bias) == ("judge", 1, 1, -0.25)
    assert np.isnan(judge.standard_error)


def test_responses_tell_pairs_apart_and_turn_with_their_models():
    """The same models with other answers are another pair; one model's two answers are a pair of their own."""
    votes = build(
        prompt=["p"] * 5,
        model_a=["x", "y", "x", "m", "m"],
        model_b=["y", "x", "y", "m", "m"],
        response_a=["1", "2", "3", "u", "v"],
        response_b=["2", "1", "2", "v", "u"],
        preference=[1.0, 0.0, 0.0, 1.0, 0.5],
        source=["judge"] * 5,
    )
    merged = votes.merged()

    table = merged.preferences.table
    rows = zip(
        *(table[name].to_pylist() for name in ("model_a", "response_a", "response_b", "preference")), strict=True
    )
    assert list(rows) == [("x", "1", "2", 1.0), ("x", "3", "2", 0.0), ("m", "u", "v", 0.75)]
    assert merged.n_both_orders == 2
    assert merged.n_contradicted == 0


def test_a_row_without_both_responses_is_told_by_its_models():
    """A response that only one side has says nothing about the pair."""
    votes = build(
        prompt=["p"] * 3,
        model_b=["y", "x", "y"],
        response_a=["1", None, "1"],
        response_b=[None, "1", "2"],
        source=["judge"] * 3,
        preference=[1.0, 0.0, 0.5],
    )
    merged = votes.merged().preferences

    assert merged.preference.tolist() == [1.0, 0.5]
    assert merged.table["response_a"].to_pylist() == ["1", "1"]
    assert merged.table["response_b"].to_pylist() == [None, "2"]


def test_orders_count_alike_however_many_votes_they_have():
    """Three votes in one order, one in the other: the mean of the orders' means; merging again changes nothing."""
    votes = build(
        prompt=["p"] * 3,
        model_a=["x", "x", "y"],
        model_b=["y", "y", "x"],
        preference=[1.0, 0.25, 1.0],
        source=["judge"] * 3,
        n_votes=[1, 2, 1],
    )
    merged = votes.merged().preferences

    assert merged.preference.tolist() == [(1.0 + 2 * 0.25) / 3 / 2]
    assert merged.n_votes.tolist() == [4]
    assert merged.merged().preferences.table.equals(merged.table)


def test_merging_knows_no_order_of_rows_and_sides(rng):
    """Any votes, shuffled and turned about at random, merge into the same pairs: dyadic preferences add exactly."""
    n = 400
    table = pa.table(
        {
            "prompt": rng.choice(["p", "q", "r"], n),
            "model_a": rng.choice(["x", "y", "z"], n),
            "model_b": rng.choice(["x", "y", "z"], n),
            "response_a": rng.choice(["1", "2", None], n),
            "response_b": rng.choice(["1", "2", None], n),
            "preference": rng.integers(0, 5, n) / 4,
            "source": rng.choice(["s", "t"], n),
        }
    )
    rows = rng.permutation(n)
    first = Preferences(table).merged()
    second = Preferences(table.take(pa.array(rows))).merged()

    def content(preferences: Preferences) -> list[tuple[Any, ...]]:
        # The responses of a pair that lacks one are those of its first vote.
        names = ("prompt", "source", "model_a", "model_b", "preference", "n_votes")
        return sorted(zip(*(preferences.table[name].to_pylist() for name in names), strict=True))

    assert content(first.preferences) == content(second.preferences)
    assert [(each.source, each.n_pairs, each.n_contradicted) for each in first.position_bias] == [
        (each.source, each.n_pairs, each.n_contradicted) for each in second.position_bias
    ]
    # Sums of thirds and fifths round: a few units in the last place of numbers at most 1.
    np.testing.assert_allclose(
        [each.bias for each in first.position_bias], [each.bias for each in second.position_bias], rtol=0, atol=1e-14
    )
    assert sum(first.preferences.n_votes) == n


def test_position_bias_is_recovered(seed, rng):
    """A judge who adds 0.1 to the first place's chance is found to, within the standard error it claims."""
    n = 2_000
    merit = rng.uniform(0.2, 0.8, n)
    first, second = rng.random(n) < merit + 0.1, rng.random(n) < 1 - merit + 0.1
    votes = Preferences.from_columns(
        prompt=np.tile(np.arange(n).astype(str), 2),
        model_a=np.repeat(["x", "y"], n),
        model_b=np.repeat(["y", "x"], n),
        preference=np.concatenate([first, second]),
        source=["judge"] * (2 * n),
    )
    merged = votes.merged()

    (judge,) = merged.position_bias
    assert judge.n_pairs == n
    assert judge.n_contradicted == np.count_nonzero(first == second)
    assert abs(judge.bias - 0.1) < synthetic.FALSE_FAILURE_Z * judge.standard_error
    # Two Bernoulli votes a pair: the variance of half their sum is at most 1 / 8.
    assert judge.standard_error < np.sqrt(1 / 8 / n)
    # In merged votes it cancels: their mean is the mean merit, with the same variance.
    error = merged.preferences.preference.mean() - merit.mean()
    assert abs(error) < synthetic.FALSE_FAILURE_Z * np.sqrt(1 / 8 / n)
