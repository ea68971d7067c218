"""What every store promises, SQLite and PostgreSQL alike."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import numpy as np
import pytest
from stored import a_round, said

from pointsman.errors import InvalidLogError, InvalidParameterError, StatisticalWarning
from pointsman.logs import label_matrix, read_log
from pointsman.logs.store import Round, StoreError, open_store
from pointsman.logs.store.records import FEEDBACK_COLUMNS, ROUND_COLUMNS
from pointsman.logs.store.schema import MIGRATIONS


def told(rounds: Round) -> dict[str, Any]:
    """All of a round, comparable: NaN and arrays as text and bytes."""
    values = {name: getattr(rounds, name) for name in ROUND_COLUMNS}
    context = values["context"]
    values["context"] = None if context is None else (context.dtype, context.tobytes())
    return {name: repr(value) if isinstance(value, float) else value for name, value in values.items()}


def statuses(store, *feedback):
    """What became of feedback."""
    return [result.status for result in store.add_feedback(feedback)]


def test_a_round_comes_back_bit_for_bit(store):
    """Every column is kept exactly: doubles, single-precision contexts, any Unicode, and what is not known."""
    full = a_round()
    bare = Round(round_id="b", decided_at=0.0, model="m")
    store.add_rounds([full, bare])

    assert told(store.get_round("a")) == told(full)
    assert told(store.get_round("b")) == told(bare)
    assert store.get_round("c") is None
    assert store.n_rounds() == 2
    with store.snapshot() as snapshot:  # whoever reads the tables finds null, not NaN
        unknown = "SELECT round_id FROM rounds WHERE cost_usd IS NULL AND propensity IS NULL AND ttft_s IS NULL"
        assert [row[0] for row in snapshot.fetch(unknown)] == ["b"]


def test_what_was_written_survives_reopening(reopen):
    """A store opened a second time, migrations and all, holds what was written before."""
    reopen().add_rounds([a_round()])

    assert told(reopen().get_round("a")) == told(a_round())


def test_a_round_written_twice_is_one_row(store):
    """The decision stays as first logged, in one batch or two; an end is filled in once, and never taken back."""
    decided = a_round(outcome=None, cost_usd=math.nan, tokens_out=None)
    store.add_rounds([decided, decided])
    assert told(store.get_round("a")) == told(decided)

    ended = a_round(propensity=0.9, model="grün", cost_usd=2.0)
    store.add_rounds([ended])
    expected = dataclasses.replace(ended, propensity=decided.propensity, model=decided.model)
    assert told(store.get_round("a")) == told(expected)

    store.add_rounds([decided, a_round(cost_usd=3.0)])
    assert told(store.get_round("a")) == told(expected)
    assert store.n_rounds() == 1


def test_a_decision_and_its_end_may_come_in_one_batch(store):
    """The end wins, whichever stands first."""
    for name, batch in {"a": (None, "ok"), "b": ("ok", None)}.items():
        store.add_rounds([a_round(name, outcome=outcome) for outcome in batch])
        assert store.get_round(name).outcome == "ok"


def test_text_that_no_database_holds_is_mended(store):
    """Half a surrogate pair and NUL are replaced wherever a client can send them, and feedback finds the round."""
    odd = "a\0\ud800"
    store.add_rounds([a_round(odd, prompt=odd, session_id=odd, eligible=("large", odd), probabilities={odd: 1.0})])

    assert statuses(store, said(odd, comment=odd, source=odd, feedback_id=odd)) == ["accepted"]
    assert statuses(store, said(odd, feedback_id=odd)) == ["duplicate"]
    assert store.get_round(odd).prompt == "a\ufffd?"
    assert store.feedback_after()[0].feedback.comment == "a\ufffd?"


def test_feedback_is_accepted_once(store):
    """The same feedback_id counts once, within a batch and across; feedback on no round is unknown and not kept."""
    store.add_rounds([a_round("a"), a_round("b")])
    first, other = said("a"), said("b", None, other_round_id="a", preference=1.0, kind="preference")

    results = store.add_feedback(
        [first, said("nowhere"), first, other, said("a", None, other_round_id="x", preference=0)]
    )
    again = store.add_feedback([other, said("nowhere"), said("b", comment="late")])

    assert [r.status for r in results] == ["accepted", "unknown", "duplicate", "accepted", "unknown"]
    assert [r.status for r in again] == ["duplicate", "unknown", "accepted"]
    assert results[0].seq == results[2].seq < results[3].seq == again[0].seq < again[2].seq
    assert results[1].seq is None
    assert [(r.feedback_id, r.round_id) for r in results[:1]] == [(first.feedback_id, "a")]
    assert [judged.seq for judged in store.feedback_after()] == [results[0].seq, results[3].seq, again[2].seq]


def test_who_gives_feedback_learns_when_its_round_was_decided(store):
    """Accepted or sent again, within a batch and across; never of a round that the store does not know."""
    store.add_rounds([a_round("a", decided_at=1.5), a_round("b", decided_at=2.5)])
    first = said("a")

    results = store.add_feedback([first, said("b"), said("nowhere"), first])

    assert [r.decided_at for r in results] == [1.5, 2.5, None, 1.5]
    assert [r.decided_at for r in store.add_feedback([first])] == [1.5]


def test_the_rounds_of_another_key_are_not_known(store):
    """Not alone, not compared with an own one, not by the name of what their key has said; those of no key are."""
    store.add_rounds([a_round("own", key_id="us"), a_round("theirs", key_id="them"), a_round("free", key_id=None)])

    def told(key_id: str | None, round_id: str, **more: Any) -> tuple[str, int | None, float | None]:
        (result,) = store.add_feedback([said(round_id, key_id=key_id, **more)])
        return result.status, result.seq, result.decided_at

    unknown = told("us", "nowhere")
    assert unknown == ("unknown", None, None)
    assert told("them", "theirs", feedback_id="f-theirs")[0] == "accepted"
    assert told("us", "theirs") == told("us", "theirs", feedback_id="f-theirs") == unknown
    assert told("us", "own", other_round_id="theirs", preference=1.0) == unknown
    assert told("us", "theirs", other_round_id="own", preference=1.0) == unknown
    assert told("us", "own", other_round_id="free", preference=1.0)[0] == "accepted"
    assert told("us", "free")[0] == told(None, "theirs")[0] == "accepted"
    assert told("them", "theirs", feedback_id="f-theirs")[0] == "duplicate"
    of_one_name = [said(name, feedback_id="f-both", key_id="them") for name in ("own", "theirs")]
    assert statuses(store, *of_one_name[:1], said("own", feedback_id="f-both", key_id="us")) == ["unknown", "accepted"]
    assert statuses(store, *of_one_name) == ["unknown", "unknown"]
    assert [(each.round.round_id, each.feedback.key_id) for each in store.feedback_after()] == [
        ("theirs", "them"),
        ("own", "us"),
        ("free", "us"),
        ("theirs", None),
        ("own", "us"),
    ]


def test_feedback_comes_with_its_round_and_what_it_corrects(store):
    """A learner gets feedback in order, each with the whole round and the same source's label before it."""
    store.add_rounds([a_round("a"), a_round("b", decided_at=1.0)])
    given = [
        said("a", 0.25, source="judge"),
        said("a", 0.5, source="gold"),
        said("b", 0.75, source="judge"),
        said("a", None, source="judge", comment="why?"),
        said("a", 1.0, source="judge"),
    ]
    store.add_feedback(given)

    judged = store.feedback_after()
    assert [each.feedback for each in judged] == given
    assert [told(each.round) for each in judged[:3]] == [told(a_round("a"))] * 2 + [told(a_round("b", decided_at=1.0))]
    assert [each.previous_quality for each in judged] == [None, None, None, 0.25, 0.25]
    assert store.last_seq() == judged[-1].seq
    page = store.feedback_after(judged[1].seq, limit=2)
    assert [each.seq for each in page] == [each.seq for each in judged[2:4]]


def test_feedback_on_a_round_of_the_same_batch_finds_it(store):
    """Rounds of a batch are written before its feedback."""
    assert [result.status for result in store.write([a_round()], [said()])] == ["accepted"]


def test_a_batch_is_written_whole_or_not_at_all(store):
    """Where one round cannot be kept, its batch leaves nothing behind, and the store goes on."""
    with pytest.raises((StoreError, OverflowError)):
        store.add_rounds([a_round("a"), a_round("b", tokens_in=2**70)])
    assert store.n_rounds() == 0

    store.add_rounds([a_round("c")])
    assert store.n_rounds() == 1


def test_positions_are_kept_by_name(store):
    """A learner's place can be moved on, and back."""
    assert store.position("bandit") == 0
    store.set_position("bandit", 7)
    store.set_position("other", 9)
    store.set_position("bandit", 3)
    assert (store.position("bandit"), store.position("other")) == (3, 9)


def test_the_log_is_in_the_fixed_format(store, tmp_path):
    """Rounds in a range of time, oldest first, with prompts, propensities and labels as the format has them."""
    store.add_rounds(
        [
            a_round("late", decided_at=30.0, prompt="3"),
            a_round("early", decided_at=10.0, prompt="1", outcome=None, cost_usd=math.nan),
            a_round("before", decided_at=9.999, prompt="0"),
            a_round("middle", decided_at=20.0, prompt="2", served_model="spare", fallback=True),
            a_round("after", decided_at=40.0, prompt="4"),
        ]
    )
    store.add_feedback([said("late", 0.5, source="judge")])

    log = store.log(10.0, 40.0)

    assert log.round_id == ["early", "middle", "late"]
    assert log.prompt == ["1", "2", "3"]
    assert log.table["model"].to_pylist() == ["large", "spare", "large"]
    assert log.table["chosen_model"].to_pylist() == ["large"] * 3
    np.testing.assert_array_equal(log.propensity, [0.1 + 0.2, np.nan, 0.1 + 0.2])
    np.testing.assert_array_equal(log.fallback, [False, True, False])
    np.testing.assert_array_equal(log.quality, [np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(log.cost_usd, [np.nan, 1e-7, 1e-7])
    assert log.quality_source[2] == "judge"
    assert log.table["eligible_models"].to_pylist() == [
        ["large", "grün"],
        ["large", "grün", "spare"],
        ["large", "grün"],
    ]
    assert [moment.timestamp() for moment in log.table["timestamp"].to_pylist()] == [10.0, 20.0, 30.0]
    assert log.table["outcome"].to_pylist() == [None, "ok", "ok"]
    assert log.table["policy"].to_pylist() == ["canary"] * 3

    assert store.export_log(tmp_path / "log.parquet", 10.0, 40.0) == 3
    assert read_log(tmp_path / "log.parquet").content_hash == log.content_hash
    with pytest.raises(InvalidLogError, match="parquet"):
        store.export_log(tmp_path / "log.csv")


def test_gold_wins_over_judges_and_late_labels_over_early_ones(store):
    """A log's label is gold's latest, else anyone's latest; the labels are each source's latest, and agree with it."""
    store.add_rounds([a_round(name, decided_at=place) for place, name in enumerate("abcd")])
    labels = [
        said("a", 0.1, source="gold"),
        said("a", 0.2, source="gold"),
        said("a", 0.3, source="judge"),
        said("b", 0.4, source="judge"),
        said("b", 0.5, source="other"),
        said("b", 0.6, source="other"),
        said("b", None, source="other", comment="no label"),
        said("c", 1.0, source="thumbs", kind="thumbs"),
        said("d", None, other_round_id="c", preference=0.5, kind="preference"),
    ]
    store.add_feedback(labels)

    log = store.log()
    np.testing.assert_array_equal(log.quality, [0.2, 0.6, 1.0, np.nan])
    assert log.quality_source[:3] == ["gold", "other", "thumbs"]
    matrix = label_matrix(log, store.labels())
    assert matrix.judges == ("judge", "other", "thumbs")
    np.testing.assert_array_equal(matrix.gold, [0.2, np.nan, np.nan, np.nan])
    nan = np.nan
    np.testing.assert_array_equal(matrix.judged, [[0.3, nan, nan], [0.4, 0.6, nan], [nan, nan, 1.0], [nan, nan, nan]])
    assert len(store.labels(1.0, 2.0)) == 2


def test_contexts_stand_in_for_prompts_that_are_not_kept(store):
    """Without prompts a log has embeddings; rounds with neither are left out with a warning, mixed sizes refused."""
    rng = np.random.default_rng(0)
    contexts = rng.normal(size=(9000, 3)).astype(np.float32)
    store.add_rounds(
        [a_round(f"{i:04}", decided_at=i, prompt=None, context=row) for i, row in enumerate(contexts)]
        + [a_round("none", decided_at=9000, prompt=None, context=None)]
    )

    np.testing.assert_array_equal(store.log(0, 9000).embedding, contexts)
    with pytest.warns(StatisticalWarning, match="1 of 9001 rounds have no context"):
        assert store.log().n_rounds == 9000
    store.add_rounds([a_round("wide", decided_at=9001, prompt=None, context=np.ones(4, np.float32))])
    with pytest.raises(InvalidLogError, match="3 and 4 numbers"):
        store.log(0, 8999.5) and store.log(1, 9002)
    with pytest.raises(InvalidLogError, match="prompt or a context"):
        store.log(9000, 9001)


def test_what_was_left_open_is_truncated(store):
    """Once it is old enough; all else of it stays, and rounds that are over or younger are as they were."""
    left = a_round("left", decided_at=1.0, outcome=None, cost_usd=math.nan, status=None)
    store.add_rounds([left, a_round("over", decided_at=1.0), a_round("young", decided_at=2.0, outcome=None)])
    assert [store.end_left_open(before=2.0) for _ in range(2)] == [1, 0]
    assert told(store.get_round("left")) == told(dataclasses.replace(left, outcome="truncated"))
    assert [store.get_round(name).outcome for name in ("over", "young")] == ["ok", None]


def test_no_more_rounds_are_deleted_than_asked(store):
    """The first of those that are too old; asked again, the rest."""
    store.add_rounds([a_round(str(i), decided_at=i) for i in range(5)])
    assert [store.delete(before=4.0, most=3) for _ in range(3)] == [3, 1, 0]
    assert store.get_round("4") is not None
    with pytest.raises(InvalidParameterError, match="most must be at least 1; got 0"):
        store.delete(before=9.0, most=0)


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"round_id": "a"}, ["b", "c", "d"]),
        ({"session_id": "s1"}, ["c", "d"]),
        ({"key_id": "k2"}, ["a", "b", "d"]),
        ({"before": 3.0}, ["d"]),
        ({"session_id": "nobody"}, ["a", "b", "c", "d"]),
    ],
)
def test_rounds_are_deleted_with_their_feedback(store, chosen, left):
    """By round, session, key or age; feedback goes with either of the rounds it is on, the rest stays."""
    sessions, keys = ["s1", "s1", "s2", None], ["k1", "k1", "k2", None]
    rounds = zip("abcd", sessions, keys, strict=True)
    store.add_rounds([a_round(name, decided_at=i, session_id=s, key_id=k) for i, (name, s, k) in enumerate(rounds)])
    store.add_feedback([said(name) for name in "abcd"] + [said("d", None, other_round_id="a", preference=1.0)])

    assert store.delete(**chosen) == 4 - len(left)

    assert [name for name in "abcd" if store.get_round(name)] == left
    kept = [(each.feedback.round_id, each.feedback.other_round_id) for each in store.feedback_after()]
    assert kept == [(name, None) for name in left] + ([("d", "a")] if "a" in left else [])


def test_many_rounds_are_deleted_in_steps(store):
    """More rounds than one step takes are all gone, and places in the order of feedback are not given twice."""
    store.add_rounds([a_round(str(i), decided_at=i) for i in range(2500)])
    seq = store.add_feedback([said("0")])[0].seq

    assert store.delete(before=2400.0) == 2400
    assert store.n_rounds() == 100
    assert store.add_feedback([said("2400")])[0].seq > seq


@pytest.mark.parametrize("chosen", [{}, {"round_id": "a", "key_id": "k"}])
def test_what_to_delete_must_be_said_in_one_way(store, chosen):
    """Nothing said never means everything."""
    with pytest.raises(InvalidParameterError, match="exactly one"):
        store.delete(**chosen)


def test_an_empty_store_has_no_log(store):
    """Asking for a log or labels that are not there is one clear error."""
    with pytest.raises(InvalidLogError, match="0 rounds"):
        store.log()
    with pytest.raises(InvalidLogError, match="at least one row"):
        store.labels()
    assert (store.n_rounds(), store.last_seq(), store.n_lost()) == (0, 0, 0)


def test_an_older_store_is_brought_up_and_a_newer_one_refused(reopen):
    """Migrations are applied once each, keep what there is, and a version that is not known is left alone."""
    reopen().add_rounds([a_round()])
    later = (*MIGRATIONS, ("ALTER TABLE rounds ADD COLUMN note TEXT", "UPDATE rounds SET note = 'new'"))

    for _ in range(2):
        upgraded = reopen(migrations=later)
        with upgraded.snapshot() as snapshot:
            assert [tuple(row) for row in snapshot.fetch("SELECT round_id, note FROM rounds")] == [("a", "new")]
    with pytest.raises(StoreError, match="upgrade"):
        reopen()


def test_a_migration_that_fails_leaves_nothing_behind(reopen):
    """Half of a migration is none: the next attempt starts where the last did."""
    with pytest.raises(StoreError):
        reopen(migrations=(*MIGRATIONS, ("CREATE TABLE half (a TEXT)", "no SQL")))
    upgraded = reopen(migrations=(*MIGRATIONS, ("CREATE TABLE half (a TEXT)",)))
    upgraded.add_rounds([a_round()])


def test_a_new_store_is_made_once_however_many_open_it(reopen):
    """Replicas that start together make the tables once, and all of them work."""
    failures, stores = [], []

    def start() -> None:
        try:
            stores.append(reopen())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    for place, each in enumerate(stores):
        each.add_rounds([a_round(str(place))])
    assert stores[0].n_rounds() == 6


def test_a_log_is_of_one_moment(store, tmp_path):
    """What is written or deleted while a log is read does not show in it."""
    store.add_rounds([a_round(str(i), decided_at=i) for i in range(10_000)])

    with store.snapshot() as snapshot:
        rows = snapshot.stream("SELECT round_id FROM rounds ORDER BY decided_at")
        seen = len(next(rows))
        store.delete(before=9_000.0)
        store.add_rounds([a_round("new", decided_at=9_999.5)])
        seen += sum(len(part) for part in rows)
        assert list(map(tuple, snapshot.fetch("SELECT COUNT(*) FROM rounds"))) == [(10_000,)]

    assert seen == 10_000
    assert store.n_rounds() == 1_001


def test_a_closed_store_says_so(store):
    """Closing twice is closing once, and what is asked afterwards is refused."""
    store.close()
    store.close()
    with pytest.raises(StoreError, match="clos"):
        store.add_rounds([a_round()])


def test_a_store_shows_no_password(store):
    """Neither its name nor what it prints as holds the secret of its URL."""
    assert "planted-password" not in repr(store) + store.name


def test_a_url_names_a_store(tmp_path):
    """An absolute file after sqlite:/// is opened; a URL of anything else is refused, without being repeated."""
    with open_store(f"sqlite:///{tmp_path / 'rounds.db'}") as store:
        store.add_rounds([a_round()])
    assert (tmp_path / "rounds.db").exists()
    with pytest.raises(InvalidParameterError, match="'mysql'") as refused:
        open_store("mysql://me:planted-password@host/db")
    assert "planted-password" not in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"round_id": ""},
        {"model": ""},
        {"propensity": 0.0},
        {"propensity": 1.1},
        {"decided_at": math.nan},
        {"cost_usd": -1.0},
        {"latency_s": math.inf},
        {"tokens_in": -1},
    ],
)
def test_a_round_must_keep_its_rules(changed):
    """What could not be learned from, or would break a log, is refused where it is made."""
    with pytest.raises(InvalidParameterError, match=next(iter(changed))):
        a_round(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"quality": 1.1},
        {"quality": math.nan},
        {"source": ""},
        {"preference": 0.5},
        {"other_round_id": "b"},
        {"kind": "stars"},
        {"received_at": math.inf},
    ],
)
def test_feedback_must_keep_its_rules(changed):
    """What is no label, or half a comparison, is refused where it is made."""
    with pytest.raises(InvalidParameterError, match=next(iter(changed))):
        said(**changed)


def test_every_column_has_its_place_in_the_tables(store):
    """The tables hold the records' fields and nothing else: a field without a migration fails here."""
    for table, columns in (("rounds", set(ROUND_COLUMNS)), ("feedback", {"seq", *FEEDBACK_COLUMNS})):
        sql = "SELECT name FROM pragma_table_info(?)"
        if "postgresql" in store.name:
            sql = """
                SELECT column_name FROM information_schema.columns
                WHERE table_name = ? AND table_schema = current_schema()
            """
        with store.snapshot() as snapshot:
            assert {row[0] for row in snapshot.fetch(sql, table)} == columns
