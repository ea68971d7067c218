"""Labels: each rule of their table, and the matrix of what every source said of every round."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import Labels, LoggedRounds, label_matrix, read_labels, write_labels

NAN = np.nan


def small_log(**changed: Any) -> LoggedRounds:
    """Four rounds: two that a judge scored, one that gold did, one nobody."""
    columns = {
        "round_id": ["a", "b", "c", "d"],
        "prompt": ["1", "2", "3", "4"],
        "model": ["m", "n", "m", "n"],
        "quality": [0.25, 0.5, 1.0, None],
        "quality_source": ["judge", "judge", "gold", None],
    }
    return LoggedRounds.from_columns(source="log.csv", **(columns | changed))


def columns(**changed: Any) -> dict[str, Any]:
    """Four valid labels; a column given as None is left out."""
    valid = {
        "round_id": ["a", "a", "d", "z"],
        "quality": [1.0, 0.75, 0.5, 0.5],
        "quality_source": ["gold", "other", "other", "gold"],
    }
    return {name: values for name, values in (valid | changed).items() if values is not None}


def build(**changed: Any) -> Labels:
    """The labels of `columns`."""
    return Labels.from_columns(source="labels.csv", **columns(**changed))


def test_the_matrix_joins_the_log_and_the_file():
    """Rows are the log's, columns the judges sorted, gold apart; what nobody said is NaN, what fits nowhere counted."""
    matrix = build().matrix(small_log())

    assert matrix.judges == ("judge", "other")
    np.testing.assert_array_equal(matrix.judged, [[0.25, 0.75], [0.5, NAN], [NAN, NAN], [NAN, 0.5]])
    np.testing.assert_array_equal(matrix.gold, [1.0, NAN, 1.0, NAN])
    np.testing.assert_array_equal(matrix.gold_propensity, [NAN] * 4)
    assert matrix.n_unmatched == 1
    assert matrix.n_gold == 2
    assert not any(array.flags.writeable for array in (matrix.judged, matrix.gold, matrix.gold_propensity))


def test_a_log_alone_has_a_matrix_too():
    """Without a file the log's own labels are all; a source that is null is gold, and no label is no label."""
    matrix = label_matrix(small_log())

    assert matrix.judges == ("judge",)
    np.testing.assert_array_equal(matrix.judged, [[0.25], [0.5], [NAN], [NAN]])
    np.testing.assert_array_equal(matrix.gold, [NAN, NAN, 1.0, NAN])
    assert matrix.n_unmatched == 0


def test_any_source_can_be_gold():
    """The source named gold leaves the judges; one that occurs nowhere is reported as no gold label at all."""
    expert = build().matrix(small_log(), gold="other")
    nobody = build().matrix(small_log(), gold="expert")

    assert expert.judges == ("gold", "judge")
    np.testing.assert_array_equal(expert.gold, [0.75, NAN, NAN, 0.5])
    assert nobody.judges == ("gold", "judge", "other")
    assert nobody.n_gold == 0
    np.testing.assert_array_equal(nobody.gold, [NAN] * 4)
    with pytest.raises(InvalidParameterError, match="gold must name a source"):
        label_matrix(small_log(), gold="")


def test_a_log_without_any_label_has_an_empty_matrix():
    """No label anywhere is no error: there is no judge, and no gold."""
    matrix = label_matrix(small_log(quality=[None] * 4))

    assert matrix.judged.shape == (4, 0)
    assert matrix.n_gold == 0


def test_labels_of_one_source_on_one_round_are_averaged():
    """Repeated measurements count once, as their mean; equal ones stay what they are."""
    labels = build(round_id=["b", "b", "b", "b"], quality=[0.0, 1.0, 0.25, 0.25], quality_source=["x", "x", "y", "y"])

    np.testing.assert_array_equal(labels.matrix(small_log()).judged[1], [0.5, 0.5, 0.25])


def test_a_label_in_both_must_agree():
    """The same number, even if it once was in single precision, counts once; another is an error naming the round."""
    same = build(round_id=["b"], quality=[float(np.float32(0.1))], quality_source=["judge"])
    matrix = same.matrix(small_log(quality=[0.25, 0.1, 1.0, None]))
    np.testing.assert_array_equal(matrix.judged[:, 0], [0.25, 0.1, NAN, NAN])

    other = build(round_id=["a", "b"], quality=[0.25, 0.75], quality_source=["judge", "judge"])
    with pytest.raises(InvalidLogError) as broken:
        other.matrix(small_log())
    message = str(broken.value)
    assert message.startswith("labels.csv: round 'b': the label of 'judge' must be the one in log.csv, 0.5; got 0.75")


def test_labels_of_no_round_of_the_log_are_an_error_with_examples():
    """Where nothing matches, the message shows the names of both sides."""
    with pytest.raises(InvalidLogError) as broken:
        build(round_id=["r1", "r2", "r3", "r4"]).matrix(small_log())

    assert "labels.csv" in str(broken.value)
    assert "['r1', 'r2', 'r3']" in str(broken.value)
    assert "['a', 'b', 'c']" in str(broken.value)


def test_gold_propensities_come_from_the_log_and_from_any_label():
    """A round's probability of being asked is known where any of its labels, or the log, knows it."""
    labels = build(gold_propensity=[None, 0.5, 0.25, 0.1])

    np.testing.assert_array_equal(labels.matrix(small_log()).gold_propensity, [0.5, NAN, NAN, 0.25])
    logged = small_log(gold_propensity=[0.5, 1, None, None])
    np.testing.assert_array_equal(labels.matrix(logged).gold_propensity, [0.5, 1.0, NAN, 0.25])
    np.testing.assert_array_equal(label_matrix(logged).gold_propensity, [0.5, 1.0, NAN, NAN])
    unknown = small_log(gold_propensity=[None] * 4)
    np.testing.assert_array_equal(label_matrix(unknown).gold_propensity, [NAN] * 4)


def test_a_round_has_one_gold_propensity():
    """Two values for one round are an error naming it, wherever they stand."""
    twice = build(gold_propensity=[0.25, 0.5, None, None])
    with pytest.raises(InvalidLogError, match=r"labels.csv: round 'a': gold_propensity must be one number a round"):
        twice.matrix(small_log())

    once = build(gold_propensity=[None, None, 0.5, None])
    with pytest.raises(InvalidLogError, match=r"round 'd': gold_propensity .* got 0.1 and 0.5"):
        once.matrix(small_log(gold_propensity=[None, None, None, 0.1]))
    with pytest.raises(
        InvalidLogError, match=r"log.csv: column 'gold_propensity', row 2: must be in \(0, 1\].*got 2.0"
    ):
        label_matrix(small_log(gold_propensity=[0.5, 2.0, None, None]))


@pytest.mark.parametrize(
    ("changed", "column", "row", "rule", "got"),
    [
        ({"round_id": ["a", None, "c", "d"]}, "round_id", 2, "must not be null or empty", "null"),
        ({"round_id": ["a", "b", "", "d"]}, "round_id", 3, "must not be null or empty", "''"),
        ({"quality": [0.5, None, 0.5, 0.5]}, "quality", 2, "must be in [0, 1]", "null"),
        ({"quality": [0.5, NAN, 0.5, 0.5]}, "quality", 2, "must be in [0, 1]", "null"),
        ({"quality": [0.5, 0.5, 0.5, 4]}, "quality", 4, "must be in [0, 1]", "4.0"),
        ({"quality": [-0.5, 0.5, 0.5, 0.5]}, "quality", 1, "must be in [0, 1]", "-0.5"),
        ({"quality": ["a", "b", "c", "d"]}, "quality", 1, "must be a number", "'a'"),
        ({"quality_source": ["a", None, "c", "d"]}, "quality_source", 2, "must not be null or empty", "null"),
        ({"quality_source": ["a", "b", "c", ""]}, "quality_source", 4, "must not be null or empty", "''"),
        ({"gold_propensity": [0.5, None, 0.0, 1]}, "gold_propensity", 3, "must be in (0, 1]", "0.0"),
        ({"gold_propensity": [1.5, None, 0.5, 1]}, "gold_propensity", 1, "must be in (0, 1]", "1.5"),
    ],
)
def test_each_rule_names_source_column_row_rule_and_value(changed, column, row, rule, got):
    """A cell that breaks a rule gets one message with all that is needed to mend it."""
    with pytest.raises(InvalidLogError) as broken:
        build(**changed)

    message = str(broken.value)
    assert message.startswith(f"labels.csv: column {column!r}, row {row}: ")
    assert rule in message
    assert f"got {got};" in message


@pytest.mark.parametrize("missing", ["round_id", "quality", "quality_source"])
def test_a_missing_column_is_named(missing):
    """All three columns are needed: a label without a source would be taken for gold."""
    with pytest.raises(InvalidLogError, match=f"labels.csv: column '{missing}' is missing"):
        build(**{missing: None})


def test_no_labels_are_an_error():
    """An empty table is a mistake, not nothing to say."""
    with pytest.raises(InvalidLogError, match="at least one row"):
        build(round_id=[], quality=[], quality_source=[])


def test_thumbs_and_numbered_rounds_are_read():
    """True is 1, and whole numbers name rounds."""
    labels = build(round_id=[1, 2, 3, 4], quality=[True, False, True, True])

    np.testing.assert_array_equal(labels.table["quality"].to_numpy(), [1, 0, 1, 1])
    assert labels.table["round_id"].to_pylist() == ["1", "2", "3", "4"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_labels_come_back_bit_for_bit(tmp_path, suffix):
    """Every column, others among them, survives each format."""
    labels = build(
        round_id=["1", "2", "3", "4"], gold_propensity=[0.1 + 0.2, None, 1.0, None], why=["", "b", None, "d"]
    )
    write_labels(labels, tmp_path / f"labels{suffix}")
    back = read_labels(tmp_path / f"labels{suffix}")

    assert back.table.equals(labels.table)
    assert back.sources == ("gold", "other")
    assert repr(back) == f"Labels(4 labels of gold, other, from {str(tmp_path / f'labels{suffix}')!r})"


def test_the_order_of_labels_does_not_matter(rng):
    """Shuffled rows give the same matrix: sums of dyadic numbers are exact."""
    n = 500
    table = pa.table(
        {
            "round_id": rng.choice(["a", "b", "c", "d", "e"], n),
            "quality": rng.integers(0, 9, n) / 8,
            "quality_source": rng.choice(["gold", "x", "y"], n),
        }
    )
    log = small_log(quality=[None] * 4)
    first = Labels(table).matrix(log)
    second = Labels(table.take(pa.array(rng.permutation(n)))).matrix(log)

    np.testing.assert_array_equal(first.judged, second.judged)
    np.testing.assert_array_equal(first.gold, second.gold)
    assert first.n_unmatched == second.n_unmatched == int(np.count_nonzero(table["round_id"].to_numpy() == "e"))


def test_memory_grows_with_labels_and_cells_alone(rng):
    """A label costs a few numbers, never an object of its own: 25 numbers for a label or a round bound it."""
    n = 50_000
    log = LoggedRounds.from_columns(
        round_id=np.arange(n), prompt=np.repeat("p", n), model=np.repeat("m", n), quality=np.repeat(0.5, n)
    )
    labels = Labels.from_columns(
        round_id=rng.permutation(2 * n), quality=rng.random(2 * n), quality_source=rng.choice(["x", "y"], 2 * n)
    )
    tracemalloc.start()
    matrix = labels.matrix(log)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert matrix.n_unmatched == n
    assert peak < 200 * (n + 2 * n)
