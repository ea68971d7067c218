"""Logged rounds: every rule of the format, and what the arrays promise."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pointsman.arms import Arm, ArmSet
from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import LoggedRounds


def columns(**changed: Any) -> dict[str, Any]:
    """Three valid rounds; a column given as None is left out."""
    valid = {
        "round_id": ["a", "b", "c"],
        "prompt": ["one", "two", ""],
        "model": ["small", "large", "small"],
        "propensity": [0.5, None, 1.0],
        "quality": [1.0, None, 0.25],
        "cost_usd": [0.0, 1e-4, None],
        "task": ["maths", "code", "maths"],
    }
    return {name: values for name, values in (valid | changed).items() if values is not None}


def build(**changed: Any) -> LoggedRounds:
    """The log of `columns`."""
    return LoggedRounds.from_columns(source="log.csv", **columns(**changed))


def test_arrays_say_what_the_table_says_and_nan_is_unknown():
    """Nulls are NaN, an unknown propensity among them; a missing source is gold; arms are sorted by name."""
    log = build()

    assert len(log) == log.n_rounds == 3
    assert log.round_id == ["a", "b", "c"]
    assert log.prompt == ["one", "two", ""]
    assert log.embedding is None
    assert log.arms.names == ("large", "small")
    np.testing.assert_array_equal(log.arm, [1, 0, 1])
    np.testing.assert_array_equal(log.propensity, [0.5, np.nan, 1.0])
    np.testing.assert_array_equal(log.quality, [1.0, np.nan, 0.25])
    np.testing.assert_array_equal(log.cost_usd, [0.0, 1e-4, np.nan])
    assert log.eligible.all()
    assert log.eligible.shape == (3, 2)
    assert log.quality_source == ["gold"] * 3
    assert not log.fallback.any()
    assert log.table["task"].to_pylist() == ["maths", "code", "maths"]


def test_optional_columns_are_normalised():
    """Whole-number floats become counts, ISO text and naive times UTC stamps, a null fallback false."""
    log = build(
        round_id=[1, 2, 3],
        tokens_in=[12.0, np.nan, 3.0],
        timestamp=["2026-01-02T03:04:05Z", None, "2026-01-02T04:04:05+01:00"],
        fallback=[True, None, False],
        quality=[True, None, False],
        quality_source=["judge", None, "gold"],
        eligible_models=[["small"], None, ["small", "huge"]],
    )

    assert log.round_id == ["1", "2", "3"]
    assert log.table["tokens_in"].to_pylist() == [12, None, 3]
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [time and time.timestamp() for time in log.table["timestamp"].to_pylist()] == [
        moment.timestamp(),
        None,
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp(),
    ]
    np.testing.assert_array_equal(log.fallback, [True, False, False])
    np.testing.assert_array_equal(log.quality, [1, np.nan, 0])
    assert log.quality_source == ["judge", "gold", "gold"]
    assert log.arms.names == ("huge", "large", "small")
    np.testing.assert_array_equal(log.eligible, [[0, 0, 1], [1, 1, 1], [1, 0, 1]])


def test_naive_and_foreign_time_stamps_are_the_same_instant():
    """A naive stamp is UTC; a stamp of another zone or unit keeps its instant."""
    naive = pa.array([0, 1, None], pa.timestamp("ms"))
    zoned = pa.array([0, 1_000_000, None], pa.timestamp("ns", tz="Asia/Tokyo"))

    assert build(timestamp=naive).table["timestamp"].equals(build(timestamp=zoned).table["timestamp"])


@pytest.mark.parametrize(
    ("changed", "column", "row", "rule", "got"),
    [
        ({"round_id": ["a", None, "c"]}, "round_id", 2, "must not be null or empty", "null"),
        ({"round_id": ["a", "b", ""]}, "round_id", 3, "must not be null or empty", "''"),
        ({"round_id": ["a", "b", "a"]}, "round_id", 3, "must be unique (row 1 has it too)", "'a'"),
        ({"round_id": [0.5, 1.5, 2.5]}, "round_id", 1, "must be text", "0.5"),
        ({"model": ["small", None, "small"]}, "model", 2, "must not be null or empty", "null"),
        ({"model": ["small", "large", ""]}, "model", 3, "must not be null or empty", "''"),
        ({"model": [1, 2, 3]}, "model", 1, "must be text", "1"),
        ({"prompt": ["one", None, "three"]}, "prompt", 2, "every round must have a prompt", "null"),
        ({"propensity": [None, 0.0, 0.5]}, "propensity", 2, "must be in (0, 1]", "0.0"),
        ({"propensity": [0.5, 0.5, 1.5]}, "propensity", 3, "must be in (0, 1]", "1.5"),
        ({"propensity": [0.5, 0.5, np.inf]}, "propensity", 3, "must be in (0, 1]", "inf"),
        ({"propensity": ["a", "b", "c"]}, "propensity", 1, "must be a number", "'a'"),
        ({"propensity": [None, True, True]}, "propensity", 2, "must be a number", "True"),
        ({"quality": [-0.1, None, 1.0]}, "quality", 1, "must be in [0, 1]", "-0.1"),
        ({"quality": [0, 1, 7]}, "quality", 3, "must be in [0, 1]", "7.0"),
        ({"cost_usd": [0.1, -0.1, 0.1]}, "cost_usd", 2, "must be finite and not negative", "-0.1"),
        ({"cost_usd": [0.1, 0.1, np.inf]}, "cost_usd", 3, "must be finite and not negative", "inf"),
        ({"latency_s": [-1.0, 0.1, 0.1]}, "latency_s", 1, "must be finite and not negative", "-1.0"),
        ({"tokens_in": [1, -2, 3]}, "tokens_in", 2, "must be finite and not negative", "-2"),
        ({"tokens_out": [1.0, 2.5, 3.0]}, "tokens_out", 2, "must be a whole number", "2.5"),
        ({"timestamp": ["2026-01-01", "soon", None]}, "timestamp", 2, "must be a timestamp", "'soon'"),
        ({"timestamp": [1, 2, 3]}, "timestamp", 1, "must be a timestamp", "1"),
        ({"fallback": ["yes", "no", "no"]}, "fallback", 1, "must be true or false", "'yes'"),
        ({"eligible_models": ["small", "large", "small"]}, "eligible_models", 1, "must be a list of text", "'small'"),
        (
            {"eligible_models": [None, ["large", "small"], ["large"]]},
            "eligible_models",
            3,
            "must hold the model that served, 'small'",
            "['large']",
        ),
        ({"eligible_models": [None, [], None]}, "eligible_models", 2, "must hold the model that served", "[]"),
        (
            {"eligible_models": [None, ["large", None], None]},
            "eligible_models",
            2,
            "must hold names of models only",
            "['large', None]",
        ),
        ({"embedding": [[1.0], [1.0, 2.0], [1.0]]}, "embedding", 2, "must hold as many numbers as the first (1)", "["),
        ({"embedding": [[], [], []]}, "embedding", 1, "must hold as many numbers as the first (1)", "[]"),
        ({"embedding": [[1.0], None, [np.nan]]}, "embedding", 3, "must hold finite numbers only", "[nan]"),
        ({"embedding": [[1.0], [None], [2.0]]}, "embedding", 2, "must hold finite numbers only", "[None]"),
        ({"embedding": [[1.0], [1e300], [2.0]]}, "embedding", 2, "must hold finite numbers only", "[inf]"),
        ({"embedding": ["x", "y", "z"]}, "embedding", 1, "must be a list of numbers", "'x'"),
    ],
)
def test_each_rule_names_source_column_row_rule_and_value(changed, column, row, rule, got):
    """A cell that breaks a rule gets one message with all that is needed to mend it."""
    with pytest.raises(InvalidLogError) as broken:
        build(**changed)

    message = str(broken.value)
    assert message.startswith(f"log.csv: column {column!r}, row {row}: ")
    assert rule in message
    assert f"got {got}" in message
    assert len(message.split("; ")) >= 3  # rule, value, advice


@pytest.mark.parametrize("name", ["round_id", "model", "quality", "prompt"])
def test_a_missing_column_is_named(name):
    """The message names the column that is not there and the columns that are."""
    with pytest.raises(InvalidLogError, match=f"log.csv: column '{name}' is missing") as broken:
        build(**{name: None, "score": [1, 2, 3]})
    assert "'score'" in str(broken.value)


def test_an_empty_log_is_refused():
    """No round, no log."""
    with pytest.raises(InvalidLogError, match=r"log\.csv: a log must hold at least one round"):
        build(**{name: [] for name in columns()})


def test_a_nameless_or_doubled_column_is_refused():
    """A column name stands for one column."""
    table = build().table
    with pytest.raises(InvalidLogError, match=r"more than once"):
        LoggedRounds.from_table(table.append_column("task", table["task"]))
    with pytest.raises(InvalidLogError, match="must have a name"):
        LoggedRounds.from_table(table.append_column("", table["task"]))


def test_columns_of_two_lengths_or_kinds_are_refused():
    """Lists that make no column get our error, not Arrow's."""
    with pytest.raises(InvalidLogError, match="must be of one length"):
        build(task=["a"])
    with pytest.raises(InvalidLogError, match="'task' must hold values of one type"):
        build(task=["a", 1, None])
    with pytest.raises(InvalidLogError, match="'prompt' must hold values of one type"):
        build(prompt=["\ud800", "b", "c"])


def test_text_that_is_not_utf8_is_refused():
    """Parquet does not check its text; the log does."""
    broken = pa.array([b"fine", b"\xff\xfe", b"fine"]).view(pa.string())
    for name in ("prompt", "task"):
        with pytest.raises(InvalidLogError, match=f"log.csv: column '{name}', row 2: text must be UTF-8"):
            build(**{name: broken})


def test_given_arms_are_kept_and_bound_the_log():
    """Arms given are the columns, seen or not; a model that is not among them is refused."""
    arms = ArmSet((Arm(name="small"), Arm(name="huge"), Arm(name="large", cost_factor=2.0)))
    log = build(arms=arms)

    assert log.arms is arms
    np.testing.assert_array_equal(log.arm, [0, 2, 0])
    assert log.eligible.shape == (3, 3)
    with pytest.raises(InvalidLogError, match=r"models must be among the arms \['small'\]; got \['large'\]"):
        build(arms=ArmSet.named(["small"]))


def test_embeddings_stand_in_for_prompts():
    """A log without prompts works; where both are incomplete it is refused; a partly known prompt is not offered."""
    vectors = np.arange(6, dtype=np.float64).reshape(3, 2)
    log = build(prompt=None, embedding=vectors)
    assert log.prompt is None
    assert log.embedding is not None
    assert log.embedding.dtype == np.float32
    np.testing.assert_array_equal(log.embedding, vectors)

    partly = build(prompt=["one", None, "three"], embedding=vectors.tolist())
    assert partly.prompt is None
    np.testing.assert_array_equal(partly.embedding, vectors)
    with pytest.raises(InvalidLogError, match="every round must have a prompt, or every round an embedding"):
        build(prompt=["one", None, "three"], embedding=[[1.0], [2.0], None])


def test_rounds_are_frozen():
    """Neither an attribute nor an array can be changed."""
    log = build()
    with pytest.raises(FrozenInstanceError):
        log.arms = ArmSet.named(["other"])  # type: ignore[misc]
    for array in (log.arm, log.propensity, log.quality, log.cost_usd, log.eligible, log.fallback, log.identity):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_take_filter_and_concat_keep_arms_and_columns():
    """Parts of a log put together are the log again, byte for byte."""
    log = build(eligible_models=[["small"], None, ["small", "huge"]], fallback=[True, False, False])
    first, rest = log.take([0]), log.filter(np.array([False, True, True]))

    assert first.arms == rest.arms == log.arms
    assert rest.round_id == ["b", "c"]
    np.testing.assert_array_equal(rest.eligible, log.eligible[1:])
    np.testing.assert_array_equal(rest.identity, log.identity[1:])
    assert LoggedRounds.concat([first, rest]).content_hash == log.content_hash
    assert log.take([2, 0]).round_id == ["c", "a"]


def test_concat_joins_arms_and_columns():
    """Arms are the union; a column of one part is null in the other; a round in both is refused."""
    other = LoggedRounds.from_columns(round_id=["d"], prompt=["four"], model=["huge"], quality=[1.0], note=["x"])
    joined = LoggedRounds.concat([build(), other])

    assert joined.arms.names == ("huge", "large", "small")
    assert joined.table["note"].to_pylist() == [None, None, None, "x"]
    assert joined.table["task"].to_pylist() == ["maths", "code", "maths", None]
    with pytest.raises(InvalidLogError, match="must be unique"):
        LoggedRounds.concat([build(), build()])
    with pytest.raises(InvalidParameterError, match="cost_factor of 'small'"):
        LoggedRounds.concat([build(), build(arms=ArmSet((Arm(name="large"), Arm(name="small", cost_factor=2.0))))])
    with pytest.raises(InvalidLogError, match="one type in every part"):
        LoggedRounds.concat([other, build(note=[1, 2, 3])])
    with pytest.raises(InvalidParameterError, match="at least one log"):
        LoggedRounds.concat([])


@pytest.mark.parametrize("indices", [[], [3], [-1], [0, 0], [0.5], [[0]]])
def test_take_refuses_what_makes_no_log(indices):
    """Indices are unique, in range, at least one."""
    with pytest.raises(InvalidParameterError, match="indices must"):
        build().take(indices)


@pytest.mark.parametrize("mask", [[True], [0, 1, 1], [False, False, False]])
def test_filter_refuses_what_makes_no_log(mask):
    """A mask is one boolean a round and keeps something."""
    with pytest.raises(InvalidParameterError, match="mask must"):
        build().filter(mask)


def test_with_columns_adds_replaces_and_validates():
    """New columns pass the same rules; the old log is left as it was."""
    log = build()
    changed = log.with_columns(propensity=np.full(3, 0.2), fold=[0, 1, 0])

    np.testing.assert_array_equal(changed.propensity, 0.2)
    assert changed.table["fold"].to_pylist() == [0, 1, 0]
    assert changed.arms == log.arms
    assert "fold" not in log.table.column_names
    with pytest.raises(InvalidLogError, match="column 'propensity', row 1: must be in"):
        log.with_columns(propensity=np.zeros(3))
    with pytest.raises(InvalidLogError, match="must have 3 rows; got 1"):
        log.with_columns(fold=[1])


def test_identity_depends_on_name_and_prompt_alone():
    """The outcome may change, the identity does not; another name, prompt or split of the two has another."""
    identity = build().identity
    np.testing.assert_array_equal(build(quality=[0.0, 0.0, 0.0], model=["x"] * 3).identity, identity)
    assert identity.dtype == np.uint64
    other = build(round_id=["a", "bt", "d"], prompt=["One", "wo", ""])
    assert len(set(identity) | set(other.identity)) == 6


def test_identity_is_the_same_on_every_machine_and_version():
    """Routers on disk carry identities, so their definition is fixed: BLAKE2b-64 of "length:name" and prompt."""
    assert build().identity[0] == int.from_bytes(blake2b(b"1:aone", digest_size=8).digest(), "little")


def test_content_hash_sees_content_and_not_its_layout():
    """Chunks, offsets, string widths, encodings and column order leave the hash alone; any value changes it."""
    log = build()
    table = log.table
    relaid = pa.concat_tables([table.slice(0, 1), table.slice(1)]).select(table.column_names[::-1])
    narrow = relaid.set_column(
        relaid.schema.get_field_index("model"), "model", relaid["model"].cast(pa.string()).dictionary_encode()
    )
    assert LoggedRounds.from_table(narrow).content_hash == log.content_hash
    assert len(log.content_hash) == 64
    changes: list[dict[str, Any]] = [
        {"quality": [1.0, 0.0, 0.25]},
        {"prompt": ["onet", "wo", ""]},
        {"task": ["maths", "code", None]},
        {"task": None},
        {"propensity": [0.5, np.nextafter(0, 1), 1.0]},
        {"eligible_models": [None, None, ["small"]]},
        {"eligible_models": [None, None, ["small", "large"]]},
    ]
    hashes = {build(**change).content_hash for change in changes} | {log.content_hash}
    assert len(hashes) == len(changes) + 1


def test_other_columns_become_types_every_format_can_hold():
    """Times become ISO text, nested values JSON text, NaN null; dictionaries are decoded."""
    log = build(
        when=pa.array([datetime(2026, 1, 2, tzinfo=UTC), None, None], pa.timestamp("us", tz="UTC")),
        note=[{"a": 1}, None, {"a": None}],
        marks=[[1.0, np.nan], None, []],
        big=pa.array([2**63, 1, None], pa.uint64()),
        price=pa.array([0.5, np.nan, 1.5], pa.float32()),
        nothing=[np.nan, None, np.nan],
        kind=pa.array(["x", "y", "x"]).dictionary_encode(),
        deep=[[[1]], None, [[2, 3]]],
    )
    values = {name: log.table[name].to_pylist() for name in log.table.column_names}
    assert values["when"] == ["2026-01-02T00:00:00+00:00", None, None]
    assert values["note"] == ['{"a": 1}', None, '{"a": null}']
    assert values["marks"] == [[1.0, None], None, []]
    assert values["big"] == ["9223372036854775808", "1", None]
    assert values["price"] == [0.5, None, 1.5]
    assert values["nothing"] == [None, None, None]
    assert log.table.schema.field("nothing").type == pa.large_string()
    assert values["kind"] == ["x", "y", "x"]
    assert values["deep"] == ["[[1]]", None, "[[2, 3]]"]
    with pytest.raises(InvalidLogError, match="'span' must hold text, numbers"):
        build(span=pa.array([1, 2, 3], pa.duration("s")))
