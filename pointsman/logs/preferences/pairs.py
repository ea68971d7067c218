"""The table of pairwise votes, validated once, and what is left of it when both orders of a pair are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pointsman.arms import ArmSet
from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs.columns import (
    COUNT,
    FLOAT,
    PREFERENCE_COLUMNS,
    as_table,
    check_cells,
    check_filled,
    check_unit,
    normalised,
    one_chunk,
    read_only,
)
from pointsman.logs.rounds import arm_indices
from pointsman.types import ArmIndex, PerRound

_REQUIRED: Mapping[str, str] = {
    "prompt": "what both models answered",
    "model_a": "the model shown first",
    "model_b": "the model shown second",
    "preference": "in [0, 1]: 1 where model_a is preferred, 0.5 for a tie",
    "source": "who voted",
}


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """How much one source favours the answer it is shown first, from pairs that it judged in both orders.

    Attributes:
        source: Who voted.
        n_pairs: Pairs judged in both orders.
        n_contradicted: Of these, pairs for which the two orders name different winners.
        bias: Mean preference for the first place minus 0.5: the pairs' merits cancel. 0.5 always takes the first.
        standard_error: Of `bias`; NaN for a single pair.
    """

    source: str
    n_pairs: int
    n_contradicted: int
    bias: float
    standard_error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedPreferences:
    """Preferences with one row a pair and source, and what the merging showed.

    Attributes:
        preferences: One row a pair and source, in canonical order.
        position_bias: Of every source that judged some pair in both orders, by name.
    """

    preferences: Preferences
    position_bias: tuple[PositionBias, ...]

    @property
    def n_both_orders(self) -> int:
        """Number of pairs that some source judged in both orders, once for each source."""
        return sum(each.n_pairs for each in self.position_bias)

    @property
    def n_contradicted(self) -> int:
        """Number of these for which the two orders name different winners."""
        return sum(each.n_contradicted for each in self.position_bias)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Preferences:
    """Votes on pairs of answers to one prompt, one row a vote.

    Columns: `prompt`, `model_a` (shown first), `model_b`, `preference` in [0, 1] (1 where a is preferred, 0.5 for a
    tie), `source` (who voted); where known `pair_id`, `response_a`, `response_b` and `n_votes`, of which the row is the
    mean. Other columns are kept. Immutable, and the arrays are read-only.

    Attributes:
        table: The votes with normalised column types: the format's columns in its order, then any others.
        arms: The models, as arms.
        origin: Where the votes came from, as errors name it.
    """

    table: pa.Table
    arms: ArmSet
    origin: str

    def __init__(self, table: pa.Table, *, origin: str = "preferences", arms: ArmSet | None = None) -> None:
        checked = normalised(table, PREFERENCE_COLUMNS, required=_REQUIRED, source=origin)
        _check(checked, origin)
        seen = set(pc.unique(checked["model_a"]).to_pylist()) | set(pc.unique(checked["model_b"]).to_pylist())
        if arms is None:
            arms = ArmSet.named(seen)
        elif unknown := sorted(seen - set(arms.names)):
            raise InvalidLogError(
                f"{origin}: models must be among the arms {list(arms.names)}; got {unknown}; "
                "keep the votes on these arms only (`among`), or add the arms"
            )
        self._fill(checked, arms=arms, origin=origin)

    @classmethod
    def from_table(cls, table: pa.Table, *, origin: str = "preferences", arms: ArmSet | None = None) -> Self:
        """Return the preferences of an Arrow table, validated.

        Args:
            table: Columns as the class names them.
            origin: What errors call this table: a file's path, mostly.
            arms: The arms; by default every model that occurs.

        Raises:
            InvalidLogError: The table breaks the format; the message names origin, column, row, rule and value.
        """
        return cls(table, origin=origin, arms=arms)

    @classmethod
    def from_columns(cls, *, origin: str = "preferences", arms: ArmSet | None = None, **columns: object) -> Self:
        """Return the preferences of these columns, given as lists or arrays; otherwise as `from_table`."""
        return cls(as_table(columns, source=origin), origin=origin, arms=arms)

    def filter(self, mask: ArrayLike) -> Self:
        """Return the votes where the mask holds, over the same arms.

        Raises:
            InvalidParameterError: The mask is not one boolean a vote, or holds nowhere.
        """
        kept = np.asarray(mask)
        if kept.dtype != np.bool_ or kept.shape != (len(self),) or not kept.any():
            raise InvalidParameterError(
                f"mask must be {len(self)} booleans, one a vote, true at least once; got {kept.dtype} of shape "
                f"{kept.shape}, {np.count_nonzero(kept)} true"
            )
        return self._subset(kept, arms=self.arms)

    def among(self, arms: ArmSet) -> Self:
        """Return the votes on two of these arms, over these arms.

        Raises:
            InvalidLogError: There is no such vote.
        """
        names = pa.array(arms.names, self.table.schema.field("model_a").type)
        both = pc.and_(pc.is_in(self.table["model_a"], names), pc.is_in(self.table["model_b"], names))
        kept = one_chunk(both).to_numpy(zero_copy_only=False)
        if not kept.any():
            raise InvalidLogError(
                f"{self.origin}: at least one vote must be on two of the arms {list(arms.names)}; got votes on "
                f"{list(self.arms.names)}; rename the models, or add the arms"
            )
        return self._subset(kept, arms=arms)

    def merged(self) -> MergedPreferences:
        """Return one row a pair and source, both orders averaged, with what the orders say of position bias.

        Votes are on one pair if source, prompt, models and, where both are given, responses are the same, in either
        order: models swapped, responses swapped with them, and the preference mirrored. Votes in one order are
        averaged, then the two orders, each counting the same, so that a bias for the first place cancels. The row names
        the model that comes first in the alphabet as `model_a`, and of one model's two answers the first response;
        `n_votes` counts its votes, and other columns are those of its first vote.
        """
        group, swapped = _groups(self.table)
        names, first, pair = np.unique(group, return_index=True, return_inverse=True)
        votes = self.n_votes.astype(np.float64)
        preference = np.where(swapped, 1 - self.preference, self.preference)
        by_order = np.full((2, names.size), np.nan)
        for order, shown in enumerate((~swapped, swapped)):
            total = np.bincount(pair, weights=votes * shown)
            weighted = np.bincount(pair, weights=votes * shown * preference)
            np.divide(weighted, total, out=by_order[order], where=total > 0)
        both = ~np.isnan(by_order).any(axis=0)
        merged = np.where(both, by_order.mean(axis=0), np.where(np.isnan(by_order[0]), by_order[1], by_order[0]))

        row_order = np.argsort(first)
        rows = first[row_order]
        table = self.table.take(pa.array(rows))
        turned = pa.array(swapped[rows])
        for a, b in (("model_a", "model_b"), ("response_a", "response_b")):
            if a in table.column_names and b in table.column_names:
                table = _with(
                    table,
                    **{
                        a: pc.if_else(turned, table[b], table[a]),
                        b: pc.if_else(turned, table[a], table[b]),
                    },
                )
        n_votes = np.bincount(pair, weights=votes)[row_order].astype(np.int64)
        table = _with(table, preference=pa.array(merged[row_order], FLOAT), n_votes=pa.array(n_votes, COUNT))
        source = one_chunk(self.table["source"]).take(pa.array(first[both]))
        return MergedPreferences(
            preferences=type(self)(table, origin=self.origin, arms=self.arms),
            position_bias=_position_bias(source, by_order[:, both]),
        )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Preferences({len(self)} votes, {len(self.arms)} arms, from {self.origin!r})"

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all who voted, sorted."""
        return tuple(sorted(pc.unique(self.table["source"]).to_pylist()))

    @cached_property
    def source(self) -> list[str]:
        """Who voted."""
        return self.table["source"].to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def prompt(self) -> list[str]:
        """What both models answered."""
        return self.table["prompt"].to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def arm_a(self) -> ArmIndex:
        """Arm shown first."""
        return read_only(arm_indices(one_chunk(self.table["model_a"]), self.arms))

    @cached_property
    def arm_b(self) -> ArmIndex:
        """Arm shown second."""
        return read_only(arm_indices(one_chunk(self.table["model_b"]), self.arms))

    @cached_property
    def preference(self) -> PerRound:
        """How far arm a is preferred, in [0, 1]; 0.5 is a tie."""
        return read_only(one_chunk(self.table["preference"]).to_numpy(zero_copy_only=False))

    @cached_property
    def n_votes(self) -> NDArray[np.int64]:
        """(n_rows,) votes that a row is the mean of: one where the table does not say."""
        if "n_votes" not in self.table.column_names:
            return read_only(np.ones(len(self), dtype=np.int64))
        return read_only(pc.fill_null(one_chunk(self.table["n_votes"]), 1).to_numpy(zero_copy_only=False))

    def _fill(self, table: pa.Table, *, arms: ArmSet, origin: str) -> None:
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "arms", arms)
        object.__setattr__(self, "origin", origin)

    def _subset(self, kept: NDArray[np.bool_], *, arms: ArmSet) -> Self:
        subset = object.__new__(type(self))
        subset._fill(self.table.filter(pa.array(kept)).combine_chunks(), arms=arms, origin=self.origin)
        return subset


def _check(table: pa.Table, origin: str) -> None:
    prompt = one_chunk(table["prompt"])
    check_cells(
        prompt,
        prompt.is_valid(),
        name="prompt",
        source=origin,
        rule="must not be null",
        advice="fill it in, or drop the vote",
    )
    for name, advice in (
        ("model_a", "name the model"),
        ("model_b", "name the model"),
        ("source", "name who voted"),
    ):
        check_filled(one_chunk(table[name]), name=name, source=origin, advice=advice)
    check_unit(
        one_chunk(table["preference"]),
        name="preference",
        source=origin,
        advice="write 1 where model_a is preferred, 0 where model_b is, 0.5 for a tie",
    )
    if "n_votes" in table.column_names:
        n_votes = one_chunk(table["n_votes"])
        check_cells(
            n_votes,
            pc.greater(n_votes, 0),
            name="n_votes",
            source=origin,
            rule="must be at least 1, or null for one vote",
            advice="drop the row where there is none",
        )


def _groups(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the pair and source of each vote as a number, and whether the pair is shown in the other order."""
    model_a, model_b, _ = _ranks(one_chunk(table["model_a"]), one_chunk(table["model_b"]))
    sides = np.stack([model_a, model_b])
    if {"response_a", "response_b"} <= set(table.column_names):
        response_a, response_b = one_chunk(table["response_a"]), one_chunk(table["response_b"])
        given = pc.and_(response_a.is_valid(), response_b.is_valid())
        texts = [pc.if_else(given, response, None) for response in (response_a, response_b)]
        rank_a, rank_b, n_responses = _ranks(*texts)
        sides = sides * n_responses + np.stack([rank_a, rank_b])
    swapped = sides[0] > sides[1]
    group = np.zeros(table.num_rows, dtype=np.int64)
    for code in (_code(table["prompt"]), _code(table["source"]), sides.min(axis=0), sides.max(axis=0)):
        # Numbered anew each time, so that the product of two sizes stays far below 2^63.
        code = np.unique(code, return_inverse=True)[1]
        group = np.unique(group * (code.max() + 1) + code, return_inverse=True)[1]
    return group, swapped


def _ranks(a: pa.Array, b: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the alphabetical ranks of two columns of text among the values of both, null lowest, and their number."""
    texts = pa.concat_arrays([a, b]).dictionary_encode()
    rank = np.empty(len(texts.dictionary), dtype=np.int64)
    rank[pc.sort_indices(texts.dictionary).to_numpy()] = np.arange(1, rank.size + 1)
    place = pc.fill_null(texts.indices, -1).to_numpy()
    ranks = np.append(rank, 0)[place]  # place -1 is the last, rank 0
    return ranks[: len(a)], ranks[len(a) :], rank.size + 1


def _code(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(one_chunk(column).dictionary_encode().indices.to_numpy(), dtype=np.int64)


def _with(table: pa.Table, **columns: pa.Array | pa.ChunkedArray) -> pa.Table:
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return table


def _position_bias(source: pa.Array, by_order: NDArray[np.float64]) -> tuple[PositionBias, ...]:
    """Return each source's bias from its pairs' preferences in canonical order and in the other, (2, n_pairs)."""
    encoded = source.dictionary_encode()
    code = encoded.indices.to_numpy()
    # In the other order the canonical first stood second: its merit cancels from the difference.
    for_first = (by_order[0] - by_order[1]) / 2
    contradicted = (by_order[0] - 0.5) * (by_order[1] - 0.5) < 0
    biases = []
    for j, name in enumerate(encoded.dictionary.to_pylist()):
        mine = for_first[code == j]
        error = float(mine.std(ddof=1) / np.sqrt(mine.size)) if mine.size > 1 else float("nan")
        biases.append(
            PositionBias(
                source=name,
                n_pairs=mine.size,
                n_contradicted=int(np.count_nonzero(contradicted[code == j])),
                bias=float(mine.mean()),
                standard_error=error,
            )
        )
    return tuple(sorted(biases, key=lambda each: each.source))
