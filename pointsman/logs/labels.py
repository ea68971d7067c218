"""Labels: what judges, and now and then a gold source, said of logged rounds; a round may have many."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs.columns import (
    FLOAT,
    LABEL_COLUMNS,
    as_table,
    check_cells,
    check_filled,
    check_unit,
    normalised,
    one_chunk,
    read_only,
    typed,
)
from pointsman.logs.files import FilePath, read_table, write_table
from pointsman.logs.rounds import LoggedRounds
from pointsman.types import PerRound

SAME_NUMBER = 1e-6
"""Two numbers this close are one number, that went through single precision once."""

_REQUIRED: Mapping[str, str] = {
    "round_id": "the round that was judged",
    "quality": "the label, in [0, 1]",
    "quality_source": "who judged: gold, or a judge's name",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMatrix:
    """Every source's labels of the rounds of a log, in the log's order; the arrays are read-only.

    Attributes:
        judged: (n_rounds, n_judges) each judge's label, in [0, 1]; NaN where the judge said nothing.
        gold: (n_rounds,) the gold source's label; NaN where there is none.
        judges: Name of every judge, sorted: all sources but the gold one.
        gold_propensity: (n_rounds,) probability with which a round was asked for a gold label, in (0, 1]; NaN where
            unknown.
        n_unmatched: Labels in the file whose round is not in the log.
    """

    judged: NDArray[np.float64]
    gold: PerRound
    judges: tuple[str, ...]
    gold_propensity: PerRound
    n_unmatched: int

    @property
    def n_gold(self) -> int:
        """Number of rounds with a gold label; zero also where the gold source occurs nowhere."""
        return int(np.count_nonzero(~np.isnan(self.gold)))

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """(n_rounds,) whether anybody judged the round."""
        return np.asarray(~np.isnan(self.gold) | (~np.isnan(self.judged)).any(axis=1))

    @property
    def content_hash(self) -> str:
        """SHA-256 of all labels, in hexadecimal: the same for the same labels in any file and order."""
        digest = hashlib.sha256("\0".join(self.judges).encode())
        for labels in (self.judged, self.gold, self.gold_propensity):
            digest.update(np.ascontiguousarray(labels, dtype="<f8").tobytes())
        return digest.hexdigest()

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> LabelMatrix:
        """Return the labels of these rounds, or of those where this mask holds."""
        return replace(
            self,
            judged=read_only(self.judged[indices]),
            gold=read_only(self.gold[indices]),
            gold_propensity=read_only(self.gold_propensity[indices]),
        )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Labels:
    """Labels of rounds, one row a label: `round_id`, `quality` in [0, 1] and `quality_source`, who judged.

    Immutable. Several labels of one source on one round are repeated measurements; `matrix` averages them. Where it is
    known, `gold_propensity`, in (0, 1], is the probability with which the round was asked for a gold label; since a
    round that was not asked has one as well, any label of the round, or a column of the log, may carry it.

    Attributes:
        table: The labels with normalised column types: the format's columns in its order, then any others.
        source: Where the labels came from, as errors name it.
    """

    table: pa.Table
    source: str

    def __init__(self, table: pa.Table, *, source: str = "labels") -> None:
        checked = normalised(table, LABEL_COLUMNS, required=_REQUIRED, source=source)
        for name, advice in (("round_id", "name the round"), ("quality_source", "name who judged")):
            check_filled(one_chunk(checked[name]), name=name, source=source, advice=advice)
        check_unit(
            one_chunk(checked["quality"]),
            name="quality",
            source=source,
            advice="rescale the label, or drop the row where there is none",
        )
        if "gold_propensity" in checked.column_names:
            _check_gold_propensity(one_chunk(checked["gold_propensity"]), source=source)
        object.__setattr__(self, "table", checked)
        object.__setattr__(self, "source", source)

    @classmethod
    def from_table(cls, table: pa.Table, *, source: str = "labels") -> Self:
        """Return the labels of an Arrow table, validated.

        Args:
            table: Columns `round_id`, `quality`, `quality_source` and, where known, `gold_propensity`.
            source: What errors call this table: a file's path, mostly.

        Raises:
            InvalidLogError: The table breaks the format; the message names source, column, row, rule and value.
        """
        return cls(table, source=source)

    @classmethod
    def from_columns(cls, *, source: str = "labels", **columns: object) -> Self:
        """Return the labels of these columns, given as lists or arrays; otherwise as `from_table`."""
        return cls(as_table(columns, source=source), source=source)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Labels({len(self)} labels of {', '.join(self.sources)}, from {self.source!r})"

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all who judged, sorted."""
        return tuple(sorted(pc.unique(self.table["quality_source"]).to_pylist()))

    def matrix(self, log: LoggedRounds, *, gold: str = "gold") -> LabelMatrix:
        """Return these labels and the log's own by round and source, as `label_matrix`."""
        return label_matrix(log, self, gold=gold)


def read_labels(path: FilePath) -> Labels:
    """Return the labels in a .parquet, .jsonl, .ndjson or .csv file, validated.

    Raises:
        InvalidLogError: The file cannot be read or breaks the format; the message names the file and the place.
    """
    return Labels.from_table(read_table(path, types=LABEL_COLUMNS), source=os.fspath(path))


def write_labels(labels: Labels, path: FilePath) -> None:
    """Write labels in the format the suffix names, whole or not at all; `read_labels` returns them bit for bit.

    Raises:
        InvalidLogError: The suffix names no format, or the folder does not exist.
    """
    write_table(labels.table, path, types=LABEL_COLUMNS)


def label_matrix(log: LoggedRounds, labels: Labels | None = None, *, gold: str = "gold") -> LabelMatrix:
    """Return what every source said of every round: the log's `quality`, by its `quality_source`, and a file's labels.

    Labels of one source on one round are averaged. Where the log has that source's label too, it is the same label
    seen twice, and counts once.

    Args:
        log: The rounds.
        labels: More labels of them; None where the log's own are all there are.
        gold: The source whose labels are the truth asked for. A source that occurs nowhere leaves `gold` all NaN.

    Raises:
        InvalidLogError: No label is of a round of the log, the log and the file disagree on one source's label of a
            round, or a round's gold propensity takes two values; the message names the round.
        InvalidParameterError: `gold` is empty.
    """
    if not gold:
        raise InvalidParameterError("gold must name a source of labels; got ''")
    known = np.flatnonzero(~np.isnan(log.quality))
    row, quality = known, log.quality[known]
    source = one_chunk(log.table["quality_source"]).take(pa.array(known))
    place, is_of_log = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
    if labels is not None:
        place, is_of_log = _places(log, labels)
        row = np.concatenate([row, place[is_of_log]])
        quality = np.concatenate([quality, one_chunk(labels.table["quality"]).to_numpy()[is_of_log]])
        told = one_chunk(labels.table["quality_source"]).filter(pa.array(is_of_log))
        source = pa.concat_arrays([source, told])

    encoded = source.dictionary_encode()
    seen = encoded.dictionary.to_pylist()
    judges = sorted(set(seen) - {gold})
    column = {name: j for j, name in enumerate([*judges, gold])}  # gold last, so that the judges' block is a view
    code = np.array([column[name] for name in seen], dtype=np.int64)[encoded.indices.to_numpy()]
    cell = row * len(column) + code

    flat = np.full(log.n_rounds * len(column), np.nan)
    own, others = cell[: known.size], cell[known.size :]
    cells, member = np.unique(others, return_inverse=True)
    flat[cells] = np.bincount(member, weights=quality[known.size :]) / np.bincount(member)
    differs = abs(flat[own] - quality[: known.size]) > SAME_NUMBER  # false for NaN
    if labels is not None and differs.any():
        at = int(np.argmax(differs))
        raise InvalidLogError(
            f"{labels.source}: round {log.table['round_id'][int(row[at])].as_py()!r}: the label of "
            f"{source[at].as_py()!r} must be the one in {log.source}, {quality[at]:g}; got {flat[own[at]]:g}; "
            "drop one of the two, or give one another quality_source"
        )
    flat[own] = quality[: known.size]
    matrix = flat.reshape(log.n_rounds, len(column))
    return LabelMatrix(
        judged=read_only(matrix[:, :-1]),
        gold=read_only(matrix[:, -1].copy()),
        judges=tuple(judges),
        gold_propensity=read_only(_gold_propensities(log, labels, place=place, is_of_log=is_of_log)),
        n_unmatched=int(np.count_nonzero(~is_of_log)),
    )


def _places(log: LoggedRounds, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each label's round as its row in the log, and whether the log has it at all."""
    named, rounds = one_chunk(labels.table["round_id"]), one_chunk(log.table["round_id"])
    place = pc.index_in(named, value_set=rounds)
    if place.null_count == len(place):
        raise InvalidLogError(
            f"{labels.source}: at least one label must be of a round of {log.source}; got {len(place)} labels, of "
            f"rounds such as {named[:3].to_pylist()}, where the log's are such as {rounds[:3].to_pylist()}; "
            "use the log's round_id"
        )
    return pc.fill_null(place, 0).to_numpy().astype(np.int64), place.is_valid().to_numpy(zero_copy_only=False)


def _gold_propensities(
    log: LoggedRounds, labels: Labels | None, *, place: NDArray[np.int64], is_of_log: NDArray[np.bool_]
) -> PerRound:
    row, value = [], []
    name = "gold_propensity"
    if name in log.table.column_names:
        column = typed(log.table[name], name=name, dtype=FLOAT, source=log.source)
        _check_gold_propensity(column, source=log.source)
        row.append(np.arange(log.n_rounds))
        value.append(_numbers(column))
    if labels is not None and name in labels.table.column_names:
        row.append(place[is_of_log])
        value.append(_numbers(one_chunk(labels.table[name]))[is_of_log])
    propensity = np.full(log.n_rounds, np.nan)
    for rows, values in zip(row, value, strict=True):
        known = ~np.isnan(values)
        propensity[rows[known]] = values[known]
    for rows, values in zip(row, value, strict=True):
        differs = abs(propensity[rows] - values) > SAME_NUMBER  # false for NaN
        if differs.any():
            at = int(np.argmax(differs))
            raise InvalidLogError(
                f"{log.source if labels is None else labels.source}: round "
                f"{log.table['round_id'][int(rows[at])].as_py()!r}: gold_propensity must be one number a round; got "
                f"{values[at]:g} and {propensity[rows[at]]:g}; correct it, or leave it null where it is not known"
            )
    return propensity


def _numbers(column: pa.Array) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = pc.fill_null(column, np.nan).to_numpy()
    return numbers


def _check_gold_propensity(column: pa.Array, *, source: str) -> None:
    check_cells(
        column,
        pc.and_(pc.greater(column, 0.0), pc.less_equal(column, 1.0)),
        name="gold_propensity",
        source=source,
        rule="must be in (0, 1], or null where unknown",
        advice="give the probability with which the round was asked for a gold label",
    )
