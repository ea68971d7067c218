"""Votes as one more judge."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pointsman.encode import default_encoder
from pointsman.errors import InvalidLogError, InvalidParameterError
from pointsman.logs import LoggedRounds, Preferences, label_matrix
from pointsman.pipeline.votes import with_votes
from tests.pipeline.judged_logs import judged_log, votes


def _with(log, preferences, **options):
    encoder = default_encoder()
    return with_votes(label_matrix(log), log, encoder.encode(log.prompt), preferences, encoder, **options)


def test_every_source_becomes_a_judge():
    """Columns are added, in [0, 1], the arm that wins has the higher rate, and the other labels stay."""
    log, _ = judged_log(n_prompts=200)
    both = Preferences.from_table(pa.concat_tables([votes(source="users").table, votes(source="panel").table]))

    found = _with(log, both)

    assert found.judges == ("judge", "panel (votes)", "users (votes)")
    rate = found.judged[:, 1:]
    assert ((rate >= 0) & (rate <= 1)).all()
    np.testing.assert_array_equal(found.judged[:, 0], log.quality)
    dear = log.arm == list(log.arms.names).index("dear")
    assert rate[dear].min() > 0.5 > rate[~dear].max()


def test_no_vote_judges_its_own_prompt():
    """Turning every vote on a round's prompt around leaves that round's label as it is, and moves others."""
    log, _ = judged_log(n_prompts=60)
    first = log.prompt[0]
    own = Preferences.from_columns(
        prompt=[first] * 40, model_a=["dear"] * 40, model_b=["cheap"] * 40, preference=[1.0] * 40, source=["users"] * 40
    )
    against = Preferences.from_table(own.table.set_column(3, "preference", pa.array([0.0] * 40)))
    others = votes(n_votes=60)

    before, after = (
        _with(log, Preferences.from_table(pa.concat_tables([others.table, each.table]))).judged[:, -1]
        for each in (own, against)
    )

    assert after[0] == before[0]
    assert (after != before).any()


def test_an_arm_without_votes_is_not_judged():
    """NaN, not the mean of the others; and a single prompt leaves nothing to judge by."""
    log, _ = judged_log(n_prompts=100)
    some = votes()
    kept = some.filter([{a, b} == {"cheap", "dear"} for a, b in zip(*_models(some), strict=True)])

    rate = _with(log, kept).judged[:, -1]

    coder = log.arm == list(log.arms.names).index("coder")
    assert np.isnan(rate[coder]).all()
    assert not np.isnan(rate[~coder]).any()


def test_what_cannot_be_voted_on_is_refused():
    """Votes on other models, or a log of embeddings only."""
    log, _ = judged_log(n_prompts=50)
    foreign = Preferences.from_columns(prompt=["p"], model_a=["x"], model_b=["y"], preference=[1.0], source=["users"])
    with pytest.raises(InvalidLogError, match="at least one vote must be on two of the arms"):
        _with(log, foreign)
    bare = LoggedRounds.from_columns(
        round_id=["a", "b"], model=["cheap", "dear"], embedding=[[0.0, 1.0], [1.0, 0.0]], quality=[0.5, 0.5]
    )
    with pytest.raises(InvalidParameterError, match="has embeddings only"):
        with_votes(label_matrix(bare), bare, bare.embedding, votes(), None)


def _models(preferences):
    return preferences.table["model_a"].to_pylist(), preferences.table["model_b"].to_pylist()
