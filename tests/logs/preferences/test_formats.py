"""Files of preferences: each layout says what its publishers mean by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import read_preferences

OWN = {
    "prompt": ["p", "q"],
    "model_a": ["x", "x"],
    "model_b": ["y", "y"],
    "preference": [1, 0.5],
    "source": ["judge", "judge"],
}
ARENA = {
    "question_id": ["1", "2", "3", "4"],
    "model_a": ["x"] * 4,
    "model_b": ["y"] * 4,
    "winner": ["model_a", "model_b", "tie", "tie (bothbad)"],
    "judge": ["arena_user_12", "expert_3", "author_0", "gpt4_pair"],
}
LLMBAR = {
    "pair_id": ["1", "1", "2"],
    "subset": ["Natural"] * 3,
    "prompt": ["p", "p", "q"],
    "response_1": ["good", "good", "bad"],
    "response_2": ["bad", "bad", "good"],
    "gold": [1, 1, 2],
    "judge": ["J", "J", "J"],
    "strategy": ["CoT", "Vanilla", "CoT"],
    "winner_order12": [1, 1, 0],
    "winner_order21": [1, 2, 2],
}
PANDALM = {
    "pair_id": ["1", "2"],
    "prompt": ["p", "q"],
    "model_1": ["x", "y"],
    "model_2": ["y", "z"],
    "response_1": ["a", "b"],
    "response_2": ["c", "d"],
    "human_1": [1, 0],
    "human_majority": [1, 2],
    "judge_big": [None, 1.0],
}


def messages(*turns: str) -> list[dict[str, Any]]:
    """Turns of a user and a model, in turn."""
    return [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    """Write columns as a file."""
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def votes(path: Path, **options: Any) -> list[tuple[Any, ...]]:
    """Return each vote of a file: models, source, preference."""
    table = read_preferences(path, **options).table
    names = ("model_a", "model_b", "source", "preference")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_pointsman_s_own_table_is_read(tmp_path, suffix):
    """Every format holds the same table; errors and the object name the file."""
    path = write(tmp_path / f"votes{suffix}", OWN | {"n_votes": [1, 2]})

    assert votes(path) == [("x", "y", "judge", 1.0), ("x", "y", "judge", 0.5)]
    assert read_preferences(path, format="pointsman").n_votes.tolist() == [1, 2]
    assert read_preferences(path).origin == str(path)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_chatbot_arena_s_votes_are_read(tmp_path, suffix):
    """Winners become preferences, numbered voters one source, what the user said the prompt; nested extras go."""
    path = tmp_path / f"arena{suffix}"
    write(
        path,
        ARENA
        | {
            "conversation_a": [messages("hi", "A")] * 3 + [messages("hi", "A", "more", "A2")],
            "conversation_b": [messages("hi", "B")] * 3 + [messages("hi", "B", "more", "B2")],
            "turn": [1, 1, 1, 2],
            "moderation": [{"flagged": False}] * 4,
        },
    )
    assert votes(path) == [
        ("x", "y", "arena_user", 1.0),
        ("x", "y", "expert", 0.0),
        ("x", "y", "author", 0.5),
        ("x", "y", "gpt4_pair", 0.5),
    ]
    table = read_preferences(path).table
    assert table["prompt"].to_pylist() == ["hi", "hi", "hi", "hi\n\nmore"]
    assert table["response_a"].to_pylist() == ["A", "A", "A", "A2"]
    assert table["response_b"].to_pylist() == ["B", "B", "B", "B2"]
    assert table["question_id"].to_pylist() == ["1", "2", "3", "4"]
    assert "moderation" not in table.column_names


def test_the_turn_that_was_judged_ends_the_prompt(tmp_path):
    """A vote on the first turn of two knows nothing of the second."""
    both = messages("hi", "A", "more", "A2")
    columns = {name: values[:2] for name, values in ARENA.items()}
    path = write(
        tmp_path / "bench.parquet",
        columns | {"conversation_a": [both] * 2, "conversation_b": [both] * 2, "turn": [1, 2]},
    )

    table = read_preferences(path).table
    assert table["prompt"].to_pylist() == ["hi", "hi\n\nmore"]
    assert table["response_a"].to_pylist() == ["A", "A2"]


def test_messages_may_be_parts_or_json(tmp_path):
    """Newer releases give a message as a list of parts, some the conversation as JSON text, and name no judge."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image", "text": None}]}]
    columns = {"model_a": ["x"], "model_b": ["y"], "winner": ["both_bad"]}
    in_parts = write(tmp_path / "parts.parquet", columns | {"conversation_a": [parts], "conversation_b": [parts]})
    text = json.dumps(parts)
    in_json = write(tmp_path / "text.csv", columns | {"conversation_a": [text], "conversation_b": [text]})

    for path in (in_parts, in_json):
        assert votes(path) == [("x", "y", "arena_user", 0.5)]
        table = read_preferences(path).table
        assert table["prompt"].to_pylist() == ["hi"]
        assert table["response_a"].to_pylist() == [None]


def test_winners_as_numbers_with_prompts_as_lists(tmp_path):
    """A release spells winners as three columns, prompts as JSON lists, some with half a character."""
    columns = {
        "id": [1, 2, 3],
        "model_a": ["x"] * 3,
        "model_b": ["y"] * 3,
        "prompt": ['["hi", "more"]', '["half \\ud83d"]', "[not JSON"],
        "response_a": ['["A", null]', '["A"]', "A"],
        "response_b": ['["B", "B2"]', '["B"]', "B"],
        "winner_model_a": [1, 0, 0],
        "winner_model_b": [0, 1, 0],
        "winner_tie": [0, 0, 1],
    }
    path = write(tmp_path / "kaggle.csv", columns)

    assert votes(path) == [
        ("x", "y", "arena_user", 1.0),
        ("x", "y", "arena_user", 0.0),
        ("x", "y", "arena_user", 0.5),
    ]
    table = read_preferences(path).table
    assert table["prompt"].to_pylist() == ["hi\n\nmore", "half ?", "[not JSON"]
    assert table["response_a"].to_pylist() == ["A", "A", "A"]
    lists = columns | {name: [["one", "two"]] * 3 for name in ("prompt", "response_a", "response_b")}
    assert read_preferences(write(tmp_path / "lists.parquet", lists)).prompt == ["one\n\ntwo"] * 3


def test_a_question_is_a_prompt_and_brackets_stay(tmp_path):
    """Where winners are named, a prompt is text as it stands."""
    path = write(tmp_path / "arena.parquet", ARENA | {"question": ['["a"]', "b", "c", "d"]})

    assert read_preferences(path).prompt == ['["a"]', "b", "c", "d"]


def test_llmbar_s_orders_are_averaged_or_kept_apart(tmp_path):
    """Judges agree with themselves, contradict themselves, or could not be read; gold stands once a pair."""
    path = write(tmp_path / "llmbar.parquet", LLMBAR)
    gold = [("response_1", "response_2", "gold", 1.0), ("response_1", "response_2", "gold", 0.0)]

    assert votes(path) == [
        ("response_1", "response_2", "J/CoT", 1.0),
        ("response_1", "response_2", "J/Vanilla", 0.5),
        ("response_1", "response_2", "J/CoT", 0.0),
        *gold,
    ]
    assert votes(path, average_orders=False) == [
        ("response_1", "response_2", "J/CoT", 1.0),
        ("response_1", "response_2", "J/Vanilla", 1.0),
        ("response_2", "response_1", "J/CoT", 0.0),
        ("response_2", "response_1", "J/Vanilla", 1.0),
        ("response_2", "response_1", "J/CoT", 1.0),
        *gold,
    ]
    table = read_preferences(path, average_orders=False).table
    assert table["response_a"].to_pylist() == ["good", "good", "bad", "bad", "good", "good", "bad"]
    assert table["subset"].to_pylist() == ["Natural"] * 7


def test_pandalm_s_columns_are_sources(tmp_path):
    """The majority is gold, each person and judge its own source; 0 is a tie, null no vote."""
    path = write(tmp_path / "pandalm.csv", PANDALM)

    assert votes(path) == [
        ("x", "y", "human_1", 1.0),
        ("y", "z", "human_1", 0.5),
        ("x", "y", "gold", 1.0),
        ("y", "z", "gold", 0.0),
        ("y", "z", "judge_big", 1.0),
    ]
    assert read_preferences(path).table["response_b"].to_pylist() == ["c", "d", "c", "d", "d"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (OWN | {"preference": [1, 2]}, "column 'preference', row 2: must be in [0, 1]; got 2.0"),
        (ARENA | {"winner": ["model_a", "x", "tie", "tie"], "prompt": list("pqrs")}, "column 'winner', row 2"),
        (ARENA | {"winner": ["model_a", None, "tie", "tie"], "prompt": list("pqrs")}, "column 'winner', row 2"),
        (ARENA, "column 'question' is missing"),
        (
            ARENA | {"conversation_a": ["?"] * 4, "conversation_b": ["?"] * 4},
            "column 'conversation_a', row 1: must be a",
        ),
        (ARENA | {"conversation_a": [messages("p")] * 4}, "column 'conversation_b' is missing"),
        (LLMBAR | {"winner_order21": [1, 3, 1]}, "column 'winner_order21', row 2: must be one of [0, 1, 2]"),
        (PANDALM | {"judge_big": [1.5, 1.0]}, "column 'judge_big', row 1: must be one of [0, 1, 2]"),
        ({"prompt": ["p"], "winner": ["x"]}, "columns must be of a known layout (pointsman: model_a"),
    ],
)
def test_each_layout_s_rules_name_file_place_and_value(tmp_path, columns, message):
    """A file that breaks its layout is told where."""
    path = write(tmp_path / "votes.parquet", columns)
    with pytest.raises(InvalidLogError) as broken:
        read_preferences(path)

    assert str(broken.value).startswith(f"{path}: ")
    assert message in str(broken.value)


def test_a_layout_asked_for_is_the_one_that_is_read(tmp_path):
    """What the columns would say is overruled; an unknown name and a misfit are errors."""
    path = write(tmp_path / "votes.parquet", OWN | {"winner": ["model_b", "model_b"]})

    assert [vote[-1] for vote in votes(path)] == [1.0, 0.5]
    assert [vote[-1] for vote in votes(path, format="arena")] == [0.0, 0.0]
    with pytest.raises(InvalidParameterError, match=r"format must be one of auto, pointsman, .*; got 'csv'"):
        read_preferences(path, format="csv")
    for name in ("llmbar", "pandalm"):
        with pytest.raises(InvalidLogError, match="is missing"):
            read_preferences(path, format=name)
    with pytest.raises(InvalidLogError, match="column 'winner' is missing"):
        read_preferences(write(tmp_path / "own.parquet", OWN), format="arena")
    nobody = write(tmp_path / "panda.parquet", {name: PANDALM[name] for name in ("prompt", "model_1", "model_2")})
    with pytest.raises(InvalidLogError, match="a column must be named human_"):
        read_preferences(nobody, format="pandalm")


@pytest.mark.data
def test_llmbar_itself(shared_data):
    """419 pairs by 65 judges and strategies; both orders show that judges favour the first place."""
    path = shared_data / "judge_llmbar.parquet"
    averaged = read_preferences(path)
    apart = read_preferences(path, average_orders=False)

    raw = pq.read_table(path)
    winners = np.stack([raw[f"winner_order{each}"].to_numpy() for each in ("12", "21")])
    assert len(averaged) == np.count_nonzero(winners.any(axis=0)) + 419
    assert len(apart) == np.count_nonzero(winners) + 419
    assert len(averaged.sources) == 66
    merged = apart.merged()
    assert len(merged.preferences) == len(averaged)
    key = [("source", "ascending"), ("pair_id", "ascending")]
    np.testing.assert_array_equal(
        merged.preferences.table.sort_by(key)["preference"].to_numpy(),
        averaged.table.sort_by(key)["preference"].to_numpy(),
    )
    assert merged.n_both_orders == np.count_nonzero(winners.all(axis=0))
    assert merged.n_contradicted == np.count_nonzero((winners[0] != winners[1]) & winners.all(axis=0))
    assert np.mean([each.bias for each in merged.position_bias]) > 0.05


@pytest.mark.data
def test_pandalm_itself(shared_data):
    """999 pairs of five models by three people and two judges, 63 judgements missing."""
    preferences = read_preferences(shared_data / "judge_pandalm.parquet")

    assert preferences.sources == ("gold", "human_1", "human_2", "human_3", "judge_gpt35", "judge_pandalm7b")
    assert len(preferences) == 6 * 999 - 63
    assert len(preferences.arms) == 5
    gold = preferences.filter(np.array(preferences.source) == "gold")
    raw = pq.read_table(shared_data / "judge_pandalm.parquet")["human_majority"]
    assert gold.preference.sum() == pc.sum(pc.equal(raw, 1)).as_py() + pc.sum(pc.equal(raw, 0)).as_py() / 2
