"""Logged rounds: the one table every estimator reads, validated once, when it is built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pointsman.arms import Arm, ArmSet
from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs.columns import (
    LOG_COLUMNS,
    TEXT,
    as_array,
    as_table,
    check_cells,
    check_filled,
    check_names,
    check_present,
    invalid,
    one_chunk,
    plain,
    read_only,
    typed,
)
from pointsman.types import ArmIndex, Eligible, PerRound

_ALWAYS = ("propensity", "quality", "cost_usd", "quality_source")
_REQUIRED: Mapping[str, str] = {
    "round_id": "a unique name for each round",
    "model": "the model that served",
    "quality": "in [0, 1], null until known",
}
_NOT_NEGATIVE = ("cost_usd", "latency_s", "tokens_in", "tokens_out")


@dataclass(frozen=True, init=False, repr=False, eq=False)
class LoggedRounds:
    """Rounds in which one arm served each prompt, in the log format.

    Immutable: every method returns a new object, and the arrays are read-only. Numbers that are not known are null in
    `table` and NaN in the arrays; an unknown propensity is never taken as 1.

    Attributes:
        table: The rounds with normalised column types: the format's columns in its order, then any other columns
            (`task`, ...), kept so that reports can slice by them.
        arms: The arms a router could choose among; an arm's place is its column in `eligible`.
        source: Where the rounds came from, as errors name it.
    """

    table: pa.Table
    arms: ArmSet
    source: str

    def __init__(self, table: pa.Table, *, source: str = "log", arms: ArmSet | None = None) -> None:
        normalised = _normalised(table, source=source)
        for check in (_check_keys, _check_numbers, _check_prompts):
            check(normalised, source)
        self._fill(table=normalised, arms=_checked_arms(normalised, arms, source=source), source=source)

    @classmethod
    def from_table(cls, table: pa.Table, *, source: str = "log", arms: ArmSet | None = None) -> Self:
        """Return the rounds of an Arrow table, validated.

        Args:
            table: Columns of the log format; `propensity`, `cost_usd` and `quality_source` may be absent, which means
                unknown, unknown and `gold`.
            source: What errors call this table: a file's path, mostly.
            arms: Arms the log chose among; by default every model seen in `model` and `eligible_models`.

        Raises:
            InvalidLogError: The table breaks the format; the message names source, column, row, rule and value.
        """
        return cls(table, source=source, arms=arms)

    @classmethod
    def from_columns(cls, *, source: str = "log", arms: ArmSet | None = None, **columns: object) -> Self:
        """Return the rounds of these columns, given as lists or arrays; otherwise as `from_table`."""
        return cls(as_table(columns, source=source), source=source, arms=arms)

    @classmethod
    def concat(cls, parts: Sequence[LoggedRounds]) -> Self:
        """Return the rounds of all parts, in order, over the arms of all parts.

        A column that only some parts have is null in the others.

        Raises:
            InvalidParameterError: There are no parts, or they disagree on an arm's cost factor.
            InvalidLogError: A round stands in two parts, or a column is of one type here and another there.
        """
        if not parts:
            raise InvalidParameterError("parts must hold at least one log; got none")
        source = " + ".join(dict.fromkeys(part.source for part in parts))
        try:
            table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
        except pa.ArrowTypeError as mixed:
            raise InvalidLogError(f"{source}: a column must have one type in every part; got {mixed}") from None
        return cls(table, source=source, arms=_union([part.arms for part in parts]))

    def take(self, indices: ArrayLike) -> Self:
        """Return the rounds at these indices, in this order, over the same arms.

        Raises:
            InvalidParameterError: An index is out of range or repeated (a round is unique in a log: resample with
                weights instead), or there is none.
        """
        rows = np.asarray(indices)
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or rows.size == 0:
            raise InvalidParameterError(
                f"indices must be a non-empty list of integers; got {rows.dtype} of shape {rows.shape}"
            )
        if rows.min() < 0 or rows.max() >= self.n_rounds:
            raise InvalidParameterError(f"indices must be in [0, {self.n_rounds}); got {rows.min()} to {rows.max()}")
        if (np.bincount(rows, minlength=self.n_rounds) > 1).any():
            raise InvalidParameterError("indices must not repeat: a round is unique in a log; resample with weights")
        return self._subset(self.table.take(pa.array(rows)))

    def filter(self, mask: ArrayLike) -> Self:
        """Return the rounds where the mask holds, over the same arms.

        Raises:
            InvalidParameterError: The mask is not one boolean a round, or holds nowhere.
        """
        kept = np.asarray(mask)
        if kept.dtype != np.bool_ or kept.shape != (self.n_rounds,):
            raise InvalidParameterError(
                f"mask must be {self.n_rounds} booleans, one a round; got {kept.dtype} of shape {kept.shape}"
            )
        if not kept.any():
            raise InvalidParameterError(f"mask must keep at least one of {self.n_rounds} rounds; got none")
        return self._subset(self.table.filter(pa.array(kept)))

    def with_columns(self, **columns: object) -> Self:
        """Return the rounds with these columns added or replaced, validated again, over the same arms."""
        table = self.table
        for name, values in columns.items():
            array = as_array(values, name=name, source=self.source)
            if len(array) != self.n_rounds:
                raise InvalidLogError(
                    f"{self.source}: column {name!r} must have {self.n_rounds} rows; got {len(array)}"
                )
            place = table.schema.get_field_index(name)
            table = table.append_column(name, array) if place < 0 else table.set_column(place, name, array)
        return type(self)(table, source=self.source, arms=self.arms)

    @property
    def n_rounds(self) -> int:
        """Number of rounds."""
        return int(self.table.num_rows)

    def __len__(self) -> int:
        return self.n_rounds

    def __repr__(self) -> str:
        return f"LoggedRounds({self.n_rounds} rounds, {len(self.arms)} arms, from {self.source!r})"

    @cached_property
    def round_id(self) -> list[str]:
        """Each round's name."""
        return self._texts("round_id")

    @cached_property
    def prompt(self) -> list[str] | None:
        """Each round's prompt; None where the log has none for some round, and so an embedding for each."""
        return self._texts("prompt") if self._is_complete("prompt") else None

    @cached_property
    def embedding(self) -> NDArray[np.float32] | None:
        """(n_rounds, n_features) each round's embedding; None where the log has none for some round."""
        if not self._is_complete("embedding"):
            return None
        values = pc.list_flatten(self.table["embedding"]).to_numpy()
        return read_only(values.reshape(self.n_rounds, -1))

    @cached_property
    def arm(self) -> ArmIndex:
        """Arm that served."""
        return read_only(arm_indices(one_chunk(self.table["model"]), self.arms))

    @cached_property
    def propensity(self) -> PerRound:
        """Probability with which the logging policy chose the arm, in (0, 1]; NaN where unknown."""
        return self._numbers("propensity")

    @cached_property
    def quality(self) -> PerRound:
        """Quality of the answer, in [0, 1]; NaN until known."""
        return self._numbers("quality")

    @cached_property
    def cost_usd(self) -> PerRound:
        """Cost of the call, in USD; NaN where unknown."""
        return self._numbers("cost_usd")

    @cached_property
    def eligible(self) -> Eligible:
        """Arms that could have been chosen: all of them where the log does not say."""
        if "eligible_models" not in self.table.column_names:
            return read_only(np.ones((self.n_rounds, len(self.arms)), dtype=np.bool_))
        return read_only(_eligible(one_chunk(self.table["eligible_models"]), self.arms))

    @cached_property
    def quality_source(self) -> list[str]:
        """Who judged each round's quality: `gold`, or a judge's name."""
        return self._texts("quality_source")

    @cached_property
    def fallback(self) -> NDArray[np.bool_]:
        """(n_rounds,) whether the arm stood in for a chosen one that failed."""
        if "fallback" not in self.table.column_names:
            return read_only(np.zeros(self.n_rounds, dtype=np.bool_))
        return read_only(self.table["fallback"].to_numpy())

    @cached_property
    def identity(self) -> NDArray[np.uint64]:
        """(n_rounds,) 64-bit BLAKE2b hash of each round's name and prompt (embedding, where it has no prompt).

        The same round has the same identity in any file, in any order, on any machine: it tells whether a round was
        already used for fitting.
        """
        seen: Sequence[bytes]
        if self.prompt is not None:
            seen = [text.encode() for text in self.prompt]
        else:
            assert self.embedding is not None  # noqa: S101 - one of the two is complete, by validation
            seen = [row.tobytes() for row in self.embedding.astype("<f4")]
        digests = bytearray()
        for name, content in zip(self.round_id, seen, strict=True):
            key = name.encode()
            # The length keeps ("ab", "c") and ("a", "bc") apart.
            digests += hashlib.blake2b(b"%d:%b%b" % (len(key), key, content), digest_size=8).digest()
        return read_only(np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the normalised rounds, in hexadecimal: the same for the same log in any file format."""
        digest = hashlib.sha256()
        for name in sorted(self.table.column_names):
            digest.update(f"{name}:{self.table.schema.field(name).type}:{self.n_rounds}\n".encode())
            _update(digest.update, one_chunk(self.table[name]))
        return digest.hexdigest()

    def _fill(self, *, table: pa.Table, arms: ArmSet, source: str) -> None:
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "arms", arms)
        object.__setattr__(self, "source", source)

    def _subset(self, table: pa.Table) -> Self:
        # Rows of a valid log are a valid log: nothing is checked twice.
        subset = object.__new__(type(self))
        subset._fill(table=table.combine_chunks(), arms=self.arms, source=self.source)
        return subset

    def _is_complete(self, name: str) -> bool:
        return name in self.table.column_names and self.table[name].null_count == 0

    def _texts(self, name: str) -> list[str]:
        return self.table[name].to_pylist()  # type: ignore[no-any-return]

    def _numbers(self, name: str) -> PerRound:
        return read_only(pc.fill_null(self.table[name], np.nan).to_numpy())


def _normalised(table: pa.Table, *, source: str) -> pa.Table:
    check_names(table, source=source)
    names = table.column_names
    check_present(table, _REQUIRED, source=source)
    if not {"prompt", "embedding"} & set(names):
        raise InvalidLogError(
            f"{source}: column 'prompt' is missing, and 'embedding' with it; got columns {names}; add one of the two"
        )
    if table.num_rows == 0:
        raise InvalidLogError(f"{source}: a log must hold at least one round; got none; log some first")
    columns: dict[str, pa.Array] = {}
    for name, dtype in LOG_COLUMNS.items():
        if name in names:
            columns[name] = typed(table[name], name=name, dtype=dtype, source=source)
        elif name in _ALWAYS:
            columns[name] = pa.nulls(table.num_rows, dtype)
    columns["quality_source"] = pc.fill_null(columns["quality_source"], "gold")
    if "fallback" in columns:
        columns["fallback"] = pc.fill_null(columns["fallback"], False)
    columns |= {name: plain(table[name], name=name, source=source) for name in names if name not in LOG_COLUMNS}
    return pa.table(columns)


def _check_keys(table: pa.Table, source: str) -> None:
    for name, advice in (("round_id", "give each round a name of its own"), ("model", "name the model that served")):
        check_filled(one_chunk(table[name]), name=name, source=source, advice=advice)
    names = one_chunk(table["round_id"])
    if pc.count_distinct(names).as_py() < len(names):
        code = names.dictionary_encode().indices.to_numpy()
        first = np.full(code.max() + 1, len(code))
        np.minimum.at(first, code, np.arange(len(code)))
        row = int(np.argmax(first[code] != np.arange(len(code))))
        raise invalid(
            source=source,
            column="round_id",
            row=row,
            rule=f"must be unique (row {first[code[row]] + 1} has it too)",
            got=names[row].as_py(),
            advice="keep one of the rounds, or rename one",
        )


def _check_numbers(table: pa.Table, source: str) -> None:
    propensity = one_chunk(table["propensity"])
    check_cells(
        propensity,
        pc.and_(pc.greater(propensity, 0.0), pc.less_equal(propensity, 1.0)),
        name="propensity",
        source=source,
        rule="must be in (0, 1], or null where unknown",
        advice="log the probability of the model that served, or leave it null to have it estimated",
    )
    quality = one_chunk(table["quality"])
    check_cells(
        quality,
        pc.and_(pc.greater_equal(quality, 0.0), pc.less_equal(quality, 1.0)),
        name="quality",
        source=source,
        rule="must be in [0, 1], or null until known",
        advice="rescale the score to [0, 1]",
    )
    for name in _NOT_NEGATIVE:
        if name in table.column_names:
            column = one_chunk(table[name])
            check_cells(
                column,
                pc.and_(pc.greater_equal(column, 0), pc.is_finite(column)),
                name=name,
                source=source,
                rule="must be finite and not negative, or null where unknown",
                advice="correct it, or leave it null",
            )


def _check_prompts(table: pa.Table, source: str) -> None:
    if "embedding" in table.column_names:
        _check_embedding(one_chunk(table["embedding"]), source)
    seen = [name for name in ("prompt", "embedding") if name in table.column_names]
    if all(table[name].null_count for name in seen):
        raise invalid(
            source=source,
            column=seen[0],
            row=int(np.argmax(one_chunk(table[seen[0]]).is_null())),
            rule="every round must have a prompt, or every round an embedding",
            got=None,
            advice="fill it in, or drop the round",
        )


def _check_embedding(column: pa.Array, source: str) -> None:
    lengths = pc.list_value_length(column)
    width = next((length for length in lengths.to_pylist() if length is not None), None)
    if width is None:
        return
    broken = pc.fill_null(pc.not_equal(lengths, max(width, 1)), False)
    rule = f"must hold as many numbers as the first ({max(width, 1)})"
    if not pc.any(broken).as_py():
        values = pc.list_flatten(column)
        finite = pc.fill_null(pc.is_finite(values), False).to_numpy(zero_copy_only=False)
        if finite.all():
            return
        broken = np.zeros(len(column), dtype=np.bool_)
        broken[pc.list_parent_indices(column).to_numpy()[~finite]] = True
        rule = "must hold finite numbers only"
    row = int(np.argmax(broken))
    raise invalid(
        source=source,
        column="embedding",
        row=row,
        rule=rule,
        got=column[row].as_py(),
        advice="embed every prompt with one encoder",
    )


def _checked_arms(table: pa.Table, arms: ArmSet | None, *, source: str) -> ArmSet:
    model = one_chunk(table["model"])
    seen = set(pc.unique(model).to_pylist())
    lists = one_chunk(table["eligible_models"]) if "eligible_models" in table.column_names else None
    if lists is not None:
        flat = pc.list_flatten(lists)
        seen |= set(pc.unique(flat).to_pylist())
        if None in seen or "" in seen:
            row = pc.list_parent_indices(lists)[int(np.argmax(pc.fill_null(pc.equal(flat, ""), True)))].as_py()
            raise _not_eligible(lists, row, rule="must hold names of models only", source=source)
    if arms is None:
        arms = ArmSet.named(seen)
    elif unknown := sorted(seen - set(arms.names)):
        raise InvalidLogError(
            f"{source}: models must be among the arms {list(arms.names)}; got {unknown}; "
            "drop those rounds or add the arms"
        )
    if lists is not None:
        served = _eligible(lists, arms)[np.arange(len(model)), arm_indices(model, arms)]
        if not served.all():
            row = int(np.argmax(~served))
            rule = f"must hold the model that served, {model[row].as_py()!r}"
            raise _not_eligible(lists, row, rule=rule, source=source)
    return arms


def _not_eligible(lists: pa.Array, row: int, *, rule: str, source: str) -> InvalidLogError:
    return invalid(
        source=source,
        column="eligible_models",
        row=row,
        rule=rule,
        got=lists[row].as_py(),
        advice="list every model that could have been chosen, or null for all",
    )


def arm_indices(names: pa.Array, arms: ArmSet) -> ArmIndex:
    """Return the place of each row's model among the arms."""
    encoded = names.dictionary_encode()
    columns: ArmIndex = arms.indices(encoded.dictionary.to_pylist()).take(encoded.indices.to_numpy())
    return columns


def _eligible(lists: pa.Array, arms: ArmSet) -> Eligible:
    eligible = np.zeros((len(lists), len(arms)), dtype=np.bool_)
    eligible[lists.is_null().to_numpy(zero_copy_only=False)] = True
    flat = pc.list_flatten(lists)
    if len(flat):
        eligible[pc.list_parent_indices(lists).to_numpy(), arm_indices(flat, arms)] = True
    return eligible


def _union(sets: Sequence[ArmSet]) -> ArmSet:
    if all(arms == sets[0] for arms in sets):
        return sets[0]
    by_name: dict[str, Arm] = {}
    for arm in (arm for arms in sets for arm in arms):
        if by_name.setdefault(arm.name, arm) != arm:
            raise InvalidParameterError(
                f"cost_factor of {arm.name!r} must be the same in every part; "
                f"got {by_name[arm.name].cost_factor} and {arm.cost_factor}"
            )
    return ArmSet(tuple(by_name[name] for name in sorted(by_name)))


def _update(update: Callable[[bytes | memoryview], object], array: pa.Array) -> None:
    """Feed an array to a hash by value alone, whatever its offset, chunks and the bytes under its nulls."""
    if pa.types.is_large_list(array.type):
        update(pc.fill_null(pc.list_value_length(array), -1).to_numpy().astype("<i8").tobytes())
        _update(update, pc.list_flatten(array))
    elif array.type.equals(TEXT):
        update(pc.fill_null(pc.binary_length(array), -1).to_numpy().astype("<i8").tobytes())
        if len(array):
            filled = pc.fill_null(array, "")
            _, offsets, content = filled.buffers()
            ends = np.frombuffer(offsets, dtype=np.int64)[[filled.offset, filled.offset + len(filled)]]
            if content is not None:
                update(memoryview(content)[ends[0] : ends[1]])
    else:
        update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes())
        numbers = array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array
        values = pc.fill_null(numbers, False if pa.types.is_boolean(numbers.type) else 0)
        plain_values = values.to_numpy(zero_copy_only=False)
        update(plain_values.astype(plain_values.dtype.newbyteorder("<")).tobytes())
