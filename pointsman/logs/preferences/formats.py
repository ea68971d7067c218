"""Files of preferences: Pointsman's own table, and the layouts that public collections of votes come in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs.columns import (
    FLOAT,
    PREFERENCE_COLUMNS,
    TEXT,
    check_cells,
    check_names,
    check_present,
    invalid,
    one_chunk,
    typed,
)
from pointsman.logs.files import FilePath, read_table
from pointsman.logs.preferences.pairs import Preferences

PREFERENCE_FORMATS = ("auto", "pointsman", "arena", "llmbar", "pandalm")
"""What `read_preferences` understands."""

_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pointsman", ("model_a", "model_b", "preference")),
    ("arena", ("model_a", "model_b", "winner")),
    ("arena", ("model_a", "model_b", "winner_model_a", "winner_model_b")),
    ("llmbar", ("response_1", "response_2", "winner_order12", "winner_order21")),
    ("pandalm", ("model_1", "model_2", "human_majority")),
)
_TYPES: Mapping[str, pa.DataType] = {
    **PREFERENCE_COLUMNS,
    **dict.fromkeys(
        ("question", "winner", "judge", "strategy", "model_1", "model_2", "response_1", "response_2"), TEXT
    ),
}
_ROWS_AT_A_TIME = 10_000
_NUMBERED_VOTERS = r"^(arena_user|author|expert)_\d+$"


def read_preferences(path: FilePath, *, format: str = "auto", average_orders: bool = True) -> Preferences:
    """Return the preferences in a .parquet, .jsonl, .ndjson or .csv file, validated.

    - `pointsman`: the columns of `Preferences`.
    - `arena`, as Chatbot Arena and MT-bench publish votes: `model_a`, `model_b` and `winner` (model_a, model_b, any
      tie, both_bad) or `winner_model_a`, `winner_model_b` of 0 and 1. The prompt is `prompt`, `question`, or what the
      user says in `conversation_a` up to the `turn` judged, messages joined by an empty line. The source is `judge`,
      numbered people as one (arena_user_7 is arena_user), and arena_user where there is no such column.
    - `llmbar`: `pair_id, prompt, response_1, response_2, gold, judge, strategy, winner_order12, winner_order21`, a
      winner being the number of a response, whatever the order shown. Sources are judge/strategy, and gold. There are
      no models: `model_a` and `model_b` are called response_1 and response_2, after the columns. A winner of 0, or
      null, could not be told, and is left out.
    - `pandalm`: `prompt, model_1, model_2, human_majority` and columns named human_* and judge_*; 1 and 2 are winners,
      0 is a tie, null is left out. Sources are the columns, and gold for human_majority.

    Columns of single values that a layout has besides are kept.

    Args:
        path: The file.
        format: One of `PREFERENCE_FORMATS`; `auto` goes by the columns.
        average_orders: Of a layout that holds both orders of a pair in one row (llmbar): whether to average them. Else
            each order is a row, for `Preferences.merged` to average, and to say how far they contradict.

    Raises:
        InvalidLogError: The file cannot be read, is of no known layout, or breaks it; the message names the place.
        InvalidParameterError: `format` is none of `PREFERENCE_FORMATS`.
    """
    if format not in PREFERENCE_FORMATS:
        raise InvalidParameterError(f"format must be one of {', '.join(PREFERENCE_FORMATS)}; got {format!r}")
    origin = os.fspath(path)
    table = read_table(path, types=_TYPES)
    check_names(table, source=origin)
    if format == "auto":
        format = _recognised(table, origin)
    if format == "arena":
        table = _arena(table, origin)
    elif format == "llmbar":
        table = _llmbar(table, origin, average_orders=average_orders)
    elif format == "pandalm":
        table = _pandalm(table, origin)
    return Preferences.from_table(table, origin=origin)


def _recognised(table: pa.Table, origin: str) -> str:
    for name, marks in _MARKS:
        if set(marks) <= set(table.column_names):
            return name
    known = "; ".join(f"{name}: {', '.join(marks)}" for name, marks in _MARKS)
    raise InvalidLogError(
        f"{origin}: columns must be of a known layout ({known}); got {table.column_names}; rename them"
    )


def _arena(table: pa.Table, origin: str) -> pa.Table:
    check_present(table, {"model_a": "the model shown first", "model_b": "the model shown second"}, source=origin)
    names = set(table.column_names)
    columns: dict[str, Any] = {"model_a": table["model_a"], "model_b": table["model_b"]}
    if "winner_model_a" in names:
        won = {side: _verdict(table, f"winner_model_{side}", origin, meaning={0: 0.0, 1: 1.0}) for side in "ab"}
        columns["preference"] = pa.array((1 + won["a"] - won["b"]) / 2, FLOAT)
    else:
        check_present(table, {"winner": "model_a, model_b, tie or both_bad"}, source=origin)
        columns["preference"] = _of_winner(typed(table["winner"], name="winner", dtype=TEXT, source=origin), origin)
    if "conversation_a" in names and not {"prompt", "question"} & names:
        columns |= _of_conversations(table, origin)
    else:
        asked = "prompt" if "prompt" in names else "question"
        check_present(table, {asked: "what both models answered"}, source=origin)
        columns["prompt"] = _joined(table, asked, origin)
        for name in ("response_a", "response_b"):
            if name in names:
                columns[name] = _joined(table, name, origin)
    if "judge" in names:
        judge = typed(table["judge"], name="judge", dtype=TEXT, source=origin)
        columns["source"] = pc.replace_substring_regex(judge, _NUMBERED_VOTERS, r"\1")
    else:
        columns["source"] = pa.array(["arena_user"] * table.num_rows, TEXT)
    used = {"winner", "winner_model_a", "winner_model_b", "winner_tie", "judge", "question"}
    return pa.table(columns | _others(table, used=used))


def _of_winner(winner: pa.Array, origin: str) -> pa.Array:
    name = pc.utf8_trim_whitespace(winner)
    tie = pc.or_(pc.starts_with(name, "tie"), pc.is_in(name, pa.array(["both_bad", "bothbad"], TEXT)))
    a, b = pc.equal(name, "model_a"), pc.equal(name, "model_b")
    check_cells(
        winner,
        pc.fill_null(pc.or_(tie, pc.or_(a, b)), False),
        name="winner",
        source=origin,
        rule="must be model_a, model_b, tie or both_bad",
        advice="correct it, or drop the vote",
    )
    return pc.if_else(tie, 0.5, pc.if_else(a, 1.0, 0.0))


def _of_conversations(table: pa.Table, origin: str) -> dict[str, list[str | None]]:
    columns: dict[str, list[str | None]] = {"prompt": [], "response_a": [], "response_b": []}
    turns = table["turn"].to_pylist() if "turn" in table.column_names else None
    for side in ("a", "b"):
        name = f"conversation_{side}"
        check_present(table, {name: "what was said to the model and by it"}, source=origin)
        for row, conversation in _cells(table[name]):
            try:
                prompt, response = _exchange(conversation, n_turns=None if turns is None else turns[row])
            except (TypeError, KeyError, ValueError, AttributeError):
                raise invalid(
                    source=origin,
                    column=name,
                    row=row,
                    rule="must be a list of messages, each with a role and a content",
                    got=conversation,
                    advice="correct it, or give the columns prompt, response_a and response_b",
                ) from None
            if side == "a":
                columns["prompt"].append(prompt)
            columns[f"response_{side}"].append(response)
    return columns


def _exchange(conversation: Any, *, n_turns: int | None) -> tuple[str | None, str | None]:
    """Return what the user said up to a turn, and what the model answered to it."""
    asked: list[str] = []
    answer: str | None = None
    for message in json.loads(conversation) if isinstance(conversation, str) else conversation:
        said = message["content"]
        if not isinstance(said, str):
            said = "\n\n".join(part["text"] for part in said if part.get("text"))
        if message["role"] == "user":
            if len(asked) == n_turns:
                break
            asked.append(said)
        elif message["role"] == "assistant":
            answer = said
    return ("\n\n".join(asked) if asked else None), answer


def _joined(table: pa.Table, name: str, origin: str) -> pa.Array | list[str | None]:
    """Return a column of text; the messages of a list, or of JSON that spells one, joined by an empty line."""
    column = table[name]
    sample = next((cell for _, cell in _cells(column) if cell is not None), None)
    if isinstance(sample, list):
        return [None if cell is None else _messages(cell) for _, cell in _cells(column)]
    texts = typed(column, name=name, dtype=TEXT, source=origin)
    # Only the layout whose winners are numbers spells lists so; elsewhere a bracket is part of what was said.
    if "winner_model_a" not in table.column_names:
        return texts
    return [None if cell is None else _messages(_parsed(cell)) for _, cell in _cells(texts)]


def _messages(cell: Any) -> str:
    said = [part for part in cell if part is not None] if isinstance(cell, list) else [cell]
    # JSON can spell half a character, which UTF-8 has no bytes for.
    return "\n\n".join(map(str, said)).encode("utf-8", "replace").decode()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text.startswith("[") else text
    except ValueError:
        return text


def _llmbar(table: pa.Table, origin: str, *, average_orders: bool) -> pa.Table:
    check_present(
        table,
        {
            "pair_id": "the pair's name",
            "prompt": "what was answered",
            "response_1": "an answer",
            "response_2": "the other answer",
            "gold": "the number of the better answer",
            "judge": "who judged",
            "strategy": "how the judge was asked",
            "winner_order12": "the winner where response_1 is shown first",
            "winner_order21": "the winner where response_2 is shown first",
        },
        source=origin,
    )
    told = {1: 1.0, 2: 0.0, 0: np.nan}
    order12, order21 = (_verdict(table, f"winner_order{each}", origin, meaning=told) for each in ("12", "21"))
    judge, strategy = (typed(table[name], name=name, dtype=TEXT, source=origin) for name in ("judge", "strategy"))
    source = pc.binary_join_element_wise(judge, strategy, pa.scalar("/", TEXT))
    code = one_chunk(table["pair_id"]).dictionary_encode(null_encoding="encode").indices.to_numpy()
    gold = np.full(table.num_rows, np.nan)
    first = np.unique(code, return_index=True)[1]  # every judgement of a pair repeats its gold label
    gold[first] = _verdict(table, "gold", origin, meaning=told)[first]
    kept = _others(table, used={"gold", "judge", "strategy", "winner_order12", "winner_order21"})

    def rows(preference: NDArray[np.float64], source: pa.Array, *, swapped: bool = False) -> pa.Table:
        return _rows(table, preference, source, kept=kept, models=("response_1", "response_2"), swapped=swapped)

    if average_orders:
        one = np.where(np.isnan(order12), order21, order12)
        votes = [rows(np.where(np.isnan(order21), one, (one + order21) / 2), source)]
    else:
        votes = [rows(order12, source), rows(order21, source, swapped=True)]
    return pa.concat_tables([*votes, rows(gold, pa.array(["gold"] * table.num_rows, TEXT))])


def _pandalm(table: pa.Table, origin: str) -> pa.Table:
    required = {"prompt": "what was answered", "model_1": "a model", "model_2": "the other model"}
    check_present(table, required, source=origin)
    voters = [name for name in table.column_names if name.startswith(("human_", "judge_"))]
    if not voters:
        raise InvalidLogError(f"{origin}: a column must be named human_* or judge_*; got {table.column_names}; add one")
    kept = _others(table, used=set(voters))
    parts = []
    for name in voters:
        source = pa.array(["gold" if name == "human_majority" else name] * table.num_rows, TEXT)
        verdict = _verdict(table, name, origin, meaning={1: 1.0, 2: 0.0, 0: 0.5})
        parts.append(_rows(table, verdict, source, kept=kept, models=None))
    return pa.concat_tables(parts)


def _verdict(table: pa.Table, name: str, origin: str, *, meaning: Mapping[int, float]) -> NDArray[np.float64]:
    """Return what the numbers of a column mean; NaN for null."""
    check_present(table, {name: f"one of {sorted(meaning)}"}, source=origin)
    column = typed(table[name], name=name, dtype=FLOAT, source=origin)
    check_cells(
        column,
        pc.or_(column.is_null(), pc.is_in(column, pa.array(list(meaning), FLOAT))),
        name=name,
        source=origin,
        rule=f"must be one of {sorted(meaning)}, or null",
        advice="correct it, or leave it null",
    )
    given = pc.fill_null(column, np.nan).to_numpy()
    verdict = np.full(given.size, np.nan)
    for number, value in meaning.items():
        verdict[given == number] = value
    return verdict


def _rows(
    table: pa.Table,
    preference: NDArray[np.float64],
    source: pa.Array,
    *,
    kept: Mapping[str, pa.ChunkedArray],
    models: tuple[str, str] | None,
    swapped: bool = False,
) -> pa.Table:
    """Return the votes that could be told, of a layout whose pairs are numbered 1 and 2.

    Args:
        table: The layout's rows.
        preference: For number 1; NaN where the vote could not be told.
        source: Who voted.
        kept: Columns to keep.
        models: What to call the two; as `model_1` and `model_2` say where None.
        swapped: Whether number 2 was shown first.
    """
    columns: dict[str, Any] = {"prompt": table["prompt"]} | dict(kept)
    for number, side in enumerate("ba" if swapped else "ab"):
        for name in ("model", "response"):
            if f"{name}_{number + 1}" in table.column_names:
                columns[f"{name}_{side}"] = table[f"{name}_{number + 1}"]
        if models is not None:
            columns[f"model_{side}"] = pa.array([models[number]] * table.num_rows, TEXT)
    columns["preference"] = pa.array(1 - preference if swapped else preference, FLOAT)
    columns["source"] = source
    return pa.table({name: columns[name] for name in sorted(columns)}).filter(pa.array(~np.isnan(preference)))


def _others(table: pa.Table, *, used: set[str]) -> dict[str, pa.ChunkedArray]:
    """Return the columns of single values that a layout has besides those used, by the names they have."""
    taken = used | {f"{name}_{side}" for name in ("model", "response") for side in "ab12"}
    taken |= {"prompt", "source", "preference"}
    nested: Callable[[pa.DataType], bool] = pa.types.is_nested
    return {name: table[name] for name in table.column_names if name not in taken and not nested(table[name].type)}


def _cells(column: pa.ChunkedArray | pa.Array) -> Iterator[tuple[int, Any]]:
    """Yield each row's number and value, so many at a time that a long table never stands in memory twice."""
    for start in range(0, len(column), _ROWS_AT_A_TIME):
        yield from enumerate(column.slice(start, _ROWS_AT_A_TIME).to_pylist(), start=start)
