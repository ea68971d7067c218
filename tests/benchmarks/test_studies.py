"""The studies of the evaluation room: what they rest on, and that they can fail."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies.__main__ import names
from benchmarks.studies.coverage import Judged
from benchmarks.studies.identities import ALLOWED, deviations, random_log
from benchmarks.studies.table import MonteCarlo, Options, Report, bonferroni_z, map_logs, write
from benchmarks.studies.worlds import (
    CLASS_LOGGERS,
    LEAST_PROPENSITY,
    OVERLAPS,
    class_world,
    influences,
    overlap_world,
    replications,
    stretch,
)
from pointsman.ope.estimators import ips, sndr


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_a_world_keeps_its_promises(overlap):
    """Probabilities are probabilities, no arm is less likely than stated, and twenty targets differ."""
    world = overlap_world(overlap)

    np.testing.assert_allclose(world.propensities.sum(axis=1), 1)
    np.testing.assert_allclose(world.targets.sum(axis=2), 1)
    assert world.propensities.min() >= LEAST_PROPENSITY[overlap] == world.least_propensity
    assert ((world.mean > 0) & (world.mean < 1)).all()
    assert len({round(world.value(target), 6) for target in world.targets}) == 20


def test_logs_are_drawn_as_the_world_says(rng):
    """Arms, prompts and outcomes come as often as they should: inverse propensities average one, IPS the truth."""
    world = overlap_world("moderate")
    drawn = world.draw(200_000, rng=rng)
    known = {"arm": drawn.arm, "outcome": drawn.outcome, "propensity": world.propensity(drawn)}
    for target in world.targets[::9]:
        estimate = ips(**known, target_probs=target[drawn.prompt])
        weight = ips(**known | {"outcome": np.ones(drawn.arm.size)}, target_probs=target[drawn.prompt])
        assert abs(estimate.value - world.value(target)) < 4.89 * estimate.standard_error
        assert abs(weight.value - 1) < 4.89 * weight.standard_error


@pytest.mark.parametrize("logger", CLASS_LOGGERS)
def test_classes_make_a_world_of_sure_outcomes(rng, logger):
    """An arm's outcome is whether it is the row's class; the target is right more often than it is wrong."""
    label = np.arange(300) % 3
    context = np.eye(3)[label] + 0.3 * rng.normal(size=(300, 3))

    world = class_world(context=context, label=label, logger=logger, rng=rng)

    assert set(np.unique(world.mean)) == {0.0, 1.0}
    np.testing.assert_array_equal(world.mean.sum(axis=1), 1)
    np.testing.assert_allclose(world.propensities.sum(axis=1), 1)
    assert world.value(world.targets[0]) > 0.5
    assert (world.value(world.propensities) > 0.4) == (logger == "friendly")


def test_one_call_serves_many_logs(rng):
    """Values, influences and standard errors of a cut estimate are those of estimates on each part."""
    n_rounds, n_logs, n_arms = 50, 6, 3
    size = n_rounds * n_logs
    estimate = sndr(
        arm=rng.integers(n_arms, size=size),
        outcome=rng.normal(size=size),
        propensity=rng.uniform(0.1, 1, size),
        predicted=rng.normal(size=(size, n_arms)),
        target_probs=rng.dirichlet(np.ones(n_arms), size),
    )

    found = replications(estimate, n_rounds=n_rounds)
    _, influence = influences(estimate, n_rounds=n_rounds)

    for j in range(n_logs):
        alone = stretch(estimate, slice(j * n_rounds, (j + 1) * n_rounds))
        assert found.value[j] == pytest.approx(alone.value, rel=1e-12)
        assert found.standard_error[j] == pytest.approx(alone.standard_error, rel=1e-12)
        np.testing.assert_allclose(influence[j], alone.influence, rtol=1e-9, atol=1e-12)


def test_identities_hold_on_a_few_logs():
    """Every identity, over logs of other seeds than the study's."""
    for seed in range(5_000, 5_010):
        for identity, size in deviations(random_log(seed), rng=np.random.default_rng(seed)):
            assert size <= ALLOWED, identity


def test_coverage_is_marked_on_both_sides():
    """930 and 968 of a thousand lie outside the 99% band around 95%, and 940 and 960 in it."""
    marks = {n: str(Judged.of(np.arange(1_000) < n, level=0.95)) for n in (930, 940, 960, 970)}

    assert marks == {930: "93.0↓", 940: "94.0", 960: "96.0", 970: "97.0↑"}
    assert str(Judged.of(np.zeros(0, bool), level=0.95)) == "-"


def test_a_report_says_first_whether_it_holds(tmp_path, capsys):
    """The first line holds verdict, question and answer, and a study that does not hold exits with 1."""

    def study(options: Options) -> Report:
        return Report(name="bias", asked="Is it?", found=f"At {options.quick}.", holds=False, body=["", "more"])

    assert write(study, Options(), folder=tmp_path) == 1
    assert (tmp_path / "bias.md").read_text().splitlines()[0] == "**Does not hold.** Is it? At False."
    assert write(study, Options(quick=True), folder=tmp_path / "none") == 1
    assert not (tmp_path / "none").exists()
    assert "At True." in capsys.readouterr().out


def test_logs_go_out_to_processes_and_come_back_in_order():
    """Work in two processes is work in one."""
    jobs = [9.0, 4.0, 1.0]
    assert map_logs(np.sqrt, jobs, n_processes=2, label="") == map_logs(np.sqrt, jobs, n_processes=1, label="")


def test_many_cells_need_more_than_one():
    """Bonferroni's z of one cell is the normal's, and Monte Carlo's z counts standard errors."""
    assert bonferroni_z(1) == pytest.approx(2.5758, abs=1e-4)
    assert bonferroni_z(100) == pytest.approx(3.8906, abs=1e-4)
    assert MonteCarlo.of(np.array([1.0, 3.0])).z(1.0) == pytest.approx(1.0)


def test_every_study_is_found():
    """Modules with a study are run by `python -m benchmarks.studies`; those that only serve them are not."""
    assert {"coverage", "identities", "unbiasedness"} <= set(names())
    assert not {"worlds", "table", "__main__"} & set(names())
