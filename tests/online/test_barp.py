"""BaRP: its gradients, how it learns, what it waits for, and how it is saved."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError, MissingDependencyError
from pointsman.online.barp import BaRP, train
from pointsman.online.barp.networks import Adam, Bilinear, Network, Perceptron
from pointsman.online.barp.policy import LARGEST_HALVES, log_softmax, loss_gradient
from pointsman.online.base import ArmPrior
from pointsman.trade_off import TradeOff

N_ARMS, N_FEATURES = 3, 4
ALL = np.ones(N_ARMS, dtype=bool)
COST_USD = np.array([1.0, 1.0, 0.4])


def world(rng, n_prompts):
    """Prompts; the first arm is right 90% of the time where x_0 > 0, the second elsewhere, the cheap third 40%."""
    context = rng.normal(size=(n_prompts, N_FEATURES))
    side = 0.4 * np.sign(context[:, :1])
    expected = np.hstack([0.5 + side, 0.5 - side, np.full_like(side, 0.4)])
    return context, expected, (rng.random(expected.shape) < expected).astype(float)


def barp(**options):
    """A policy of this world."""
    return BaRP(**{"n_arms": N_ARMS, "n_features": N_FEATURES, **options})


def rounds(rng, n_rounds):
    """Rounds with all that `update` is told."""
    return [
        (
            rng.normal(size=N_FEATURES),
            int(rng.integers(N_ARMS)),
            float(rng.random()),
            float(rng.random()),
            TradeOff(float(rng.choice([0.0, 0.5, 4.0, math.inf]))),
        )
        for _ in range(n_rounds)
    ]


def told(policy, some):
    """The policy after these rounds."""
    for context, arm, quality, cost_usd, trade_off in some:
        policy.update(context, arm, quality=quality, cost_usd=cost_usd, trade_off=trade_off)
    return policy


def trained(rng, *, n_epochs=30, pulls="fresh", n_prompts=400, **options):
    """A trained policy, and how many outcomes it was shown."""
    context, _, quality = world(rng, n_prompts)
    policy = barp(**{"learning_rate": 0.01, "entropy": 0.1, **options})
    shown = []

    def reveal(rows, arm):
        shown.append(arm.size)
        return quality[rows, arm], COST_USD[arm]

    n_revealed = train(policy, context, reveal, n_epochs=n_epochs, pulls=pulls, rng=rng)
    assert n_revealed == sum(shown)
    return policy, n_revealed


def value(policy, rng, cost_weight):
    """Expected quality, and cost, of its most likely arms on new prompts."""
    context, expected, _ = world(rng, 1_000)
    arm = policy.choice_probabilities(context, np.full(1_000, cost_weight)).argmax(axis=1)
    return expected[np.arange(1_000), arm].mean(), COST_USD[arm].mean()


def slope(loss, array, place, step=1e-6):
    """Central difference of a loss in one entry."""
    kept = array[place]
    array[place] = kept + step
    above = loss()
    array[place] = kept - step
    below = loss()
    array[place] = kept
    return (above - below) / (2 * step)


def test_the_gradient_is_that_of_the_stated_loss(rng):
    """Central differences of -mean[(r - b) log pi] - beta mean[H] agree, to the error of a step of 1e-6."""
    logits, arm, advantage = rng.normal(size=(5, N_ARMS)), rng.integers(N_ARMS, size=5), rng.normal(size=5)

    def loss():
        log_pi = log_softmax(logits)
        entropy = -(np.exp(log_pi) * log_pi).sum(axis=1)
        return -(advantage * log_pi[np.arange(5), arm]).mean() - 0.3 * entropy.mean()

    gradient = loss_gradient(logits, arm=arm, advantage=advantage, entropy=0.3)
    differences = [slope(loss, logits, place) for place in np.ndindex(logits.shape)]
    np.testing.assert_allclose(gradient.ravel(), differences, atol=1e-8)


@pytest.mark.parametrize(
    "form",
    ["bilinear", pytest.param("mlp", marks=pytest.mark.torch)],
)
def test_a_network_has_the_gradient_of_its_own_logits(form, rng):
    """Central differences of a weighted sum of the logits that numpy serves agree in every array."""
    network: Network = Bilinear(n_arms=N_ARMS, n_features=N_FEATURES)
    if form == "mlp":
        pytest.importorskip("torch")
        network = Perceptron(n_arms=N_ARMS, n_features=N_FEATURES, seed=1)
    # In double precision, for differences to tell.
    network.parameters = {
        name: array + 0.1 * rng.normal(size=array.shape) for name, array in network.parameters.items()
    }
    context, cost_weight, of_logits = rng.normal(size=(6, N_FEATURES)), rng.random(6), rng.normal(size=(6, N_ARMS))

    def loss():
        return (network.logits(context, cost_weight) * of_logits).sum()

    gradient = network.gradient(context, cost_weight, lambda _: of_logits)
    assert set(gradient) == set(network.parameters)
    for name, array in network.parameters.items():
        for _ in range(10):
            place = tuple(int(rng.integers(size)) for size in array.shape)
            assert gradient[name][place] == pytest.approx(slope(loss, array, place), abs=1e-6)


@pytest.mark.torch
def test_adam_is_adam(rng):
    """It takes the steps of torch's, to rounding."""
    torch = pytest.importorskip("torch")
    ours = {"a": rng.normal(size=(3, 2))}
    theirs = torch.tensor(ours["a"], requires_grad=True)
    adam, reference = Adam(ours), torch.optim.Adam([theirs], lr=0.02)
    for _ in range(20):
        gradient = rng.normal(size=(3, 2))
        adam.step(ours, {"a": gradient}, learning_rate=0.02)
        theirs.grad = torch.tensor(gradient)
        reference.step()
    np.testing.assert_allclose(ours["a"], theirs.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("pulls", ["fresh", "once"])
def test_one_policy_serves_every_preference(pulls, seed):
    """At quality alone it finds each prompt's arm, at cost alone the cheap one, from no outcome but those it pulled.

    The best single arm has 0.5 and the oracle 0.9: a policy that looked at the prompt or the preference alone fails.
    With one pull of each of 800 prompts some 530 are of the arms that matter; a boundary in 4 features from so many,
    nine in ten of them right, is wrong for some 7% of prompts, 0.06 of quality: 0.65 leaves three times that for the
    gradient's noise.
    """
    policy, n_revealed = trained(np.random.default_rng(seed), pulls=pulls, n_prompts=800)
    assert n_revealed == 800 * (30 if pulls == "fresh" else 1)
    dial = [value(policy, np.random.default_rng(seed + 1_000), w) for w in (0.0, 1.0)]
    assert dial[0][0] > 0.65
    assert dial[1][1] < 0.45


@pytest.mark.torch
def test_the_paper_s_form_learns_and_serves_without_torch(rng, monkeypatch):
    """It learns like the other, the same seeds give the same bytes, and numpy alone serves what was learned."""
    pytest.importorskip("torch")
    first, second = (
        trained(np.random.default_rng(3), form="mlp", n_epochs=15, learning_rate=1e-3)[0].state() for _ in range(2)
    )
    assert {name: array.tobytes() for name, array in first[1].items()} == {
        name: array.tobytes() for name, array in second[1].items()
    }
    monkeypatch.setitem(sys.modules, "torch", None)
    policy = BaRP.from_state(json.loads(json.dumps(first[0])), first[1])
    assert value(policy, rng, 0.0)[0] > 0.65
    assert value(policy, rng, 1.0)[1] < 0.45


def test_without_torch_learning_the_paper_s_form_names_the_extra(rng, monkeypatch):
    """It says what to install, and when."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pointsman\[torch\]"):
        trained(rng, form="mlp", n_epochs=1)


def test_probabilities_are_the_softmax_over_the_eligible(rng):
    """Even in the warm-up; then proportional to exp(logit) among the eligible arms; greedy takes the largest."""
    policy = barp(n_warm_up=40, learning_rate=0.1)
    mask, at = np.array([True, False, True]), TradeOff(2.0)
    some = rounds(rng, 72)
    told(policy, some[:39])
    np.testing.assert_array_equal(policy.probabilities(some[0][0], at, mask), [0.5, 0, 0.5])
    told(policy, some[39:])
    assert policy.adam.n_steps == 2
    cost_weight = 2 * policy.cost_scale_usd / (1 + 2 * policy.cost_scale_usd)
    standard = (some[0][0] - policy.center) / policy.spread
    odds = np.exp(policy.network.logits(standard[None], np.array([cost_weight]))[0]) * mask
    found = policy.probabilities(some[0][0], at, mask)
    np.testing.assert_allclose(found, odds / odds.sum(), rtol=1e-12)
    assert 0 < found.min(initial=1, where=mask) < 0.5
    policy.greedy = True
    np.testing.assert_array_equal(policy.probabilities(some[0][0], at, mask), np.eye(N_ARMS)[odds.argmax()])


def test_a_batch_of_updates_is_one_step_of_the_stated_reward(rng):
    """32 updates move the parameters as one step with r = w_q q - w_c min(c / tau, 1) and the batch's mean does."""
    policy, by_hand = barp(n_warm_up=32, cost_scale_usd=0.5), barp(cost_scale_usd=0.5)
    some = rounds(rng, 32)
    told(policy, some)
    context = np.array([each[0] for each in some])
    quality, cost_usd = np.array([each[2] for each in some]), np.array([each[3] for each in some])
    scaled = np.array([each[4].quality_per_usd for each in some]) * 0.5
    w = np.where(np.isinf(scaled), 1, scaled / (1 + np.where(np.isinf(scaled), 0, scaled)))
    reward = (1 - w) * quality - w * np.minimum(cost_usd / 0.5, 1)
    standard = (context - context.mean(axis=0)) / np.sqrt(context.var(axis=0).mean())
    of_logits = loss_gradient(
        np.zeros((32, N_ARMS)), arm=np.array([each[1] for each in some]), advantage=reward - reward.mean(), entropy=0.01
    )
    gradient = by_hand.network.gradient(standard, w, lambda _: of_logits)
    by_hand.adam.step(by_hand.network.parameters, gradient, learning_rate=1e-3)
    np.testing.assert_allclose(
        policy.network.parameters["slopes"], by_hand.network.parameters["slopes"], rtol=1e-6, atol=1e-12
    )


def test_what_comes_apart_is_joined_and_half_a_reward_is_not_learned(rng):
    """Quality after its cost, or before it, is as good as both at once; alone, it moves nothing."""
    some = [each for each in rounds(rng, 300) if 0 < each[4].quality_per_usd < math.inf][:96]
    together, apart = told(barp(n_warm_up=32), some), barp(n_warm_up=32)
    for i, (context, arm, quality, cost_usd, trade_off) in enumerate(some):
        apart.update(rng.normal(size=N_FEATURES), arm, cost_usd=cost_usd, trade_off=trade_off)
        apart.update(context, arm, trade_off=trade_off)
        halves = [{"cost_usd": cost_usd}, {"quality": quality}]
        for half in halves if i % 2 else halves[::-1]:
            apart.update(context, arm, **half, trade_off=trade_off)
    np.testing.assert_array_equal(apart.network.parameters["slopes"], together.network.parameters["slopes"])
    assert together.adam.n_steps == 3


def test_only_what_the_reward_weighs_must_be_known(rng):
    """Quality alone counts at lambda = 0, cost alone at infinity."""
    policy = barp(n_warm_up=1, batch_rounds=1)
    context = rng.normal(size=N_FEATURES)
    policy.update(context, 0, cost_usd=0.5)
    policy.update(context, 0, quality=0.5, trade_off=TradeOff(math.inf))
    policy.update(context, 0, quality=0.5, trade_off=TradeOff(1.0))
    assert policy.adam.n_steps == 0
    policy.update(context, 0, quality=0.5)
    policy.update(context, 0, cost_usd=0.5, trade_off=TradeOff(math.inf))
    assert policy.adam.n_steps == 2
    assert np.isfinite(policy.network.parameters["slopes"]).all()


def test_halves_are_bounded(rng):
    """Feedback that never comes does not fill the memory."""
    policy = barp()
    for i in range(LARGEST_HALVES + 10):
        policy.update(np.full(N_FEATURES, float(i)), 0, cost_usd=0.1, trade_off=TradeOff(1.0))
    assert len(policy._halves) == LARGEST_HALVES


@pytest.mark.parametrize(("cost_usd", "expected"), [(1.0, 1.9), (0.0, 1.0)])
def test_the_cost_scale_is_that_of_the_warm_up(cost_usd, expected, rng):
    """The 95th percentile of its costs, and one USD where nothing costs anything."""
    policy = barp(n_warm_up=41)
    for i in range(41):
        policy.update(rng.normal(size=N_FEATURES), 0, quality=0.5, cost_usd=cost_usd * i / 20, trade_off=TradeOff(1.0))
    assert policy.cost_scale_usd == pytest.approx(expected)


@pytest.mark.parametrize("n_told", [10, 100])
def test_state_goes_round_in_the_middle_of_a_batch(n_told, rng):
    """Saved as JSON and arrays, in the warm-up or after, it learns and decides exactly like the one that was not."""
    some = rounds(rng, 300)
    policy = told(barp(n_warm_up=50, learning_rate=0.1), some[:n_told])
    policy.update(some[-1][0], 0, cost_usd=0.3, trade_off=TradeOff(2.0))
    values, arrays = policy.state()
    other = BaRP.from_state(json.loads(json.dumps(values)), arrays)
    for each in (policy, other):
        each.update(some[-1][0], 0, quality=0.3, trade_off=TradeOff(2.0))
        told(each, some[n_told:])
    at = TradeOff(1.0)
    np.testing.assert_array_equal(other.probabilities(some[0][0], at, ALL), policy.probabilities(some[0][0], at, ALL))
    assert policy.adam.n_steps == 9


def test_an_arm_joins_at_the_mean_of_the_others_or_like_one(rng):
    """Its logit is the mean of theirs, or that of the arm it is like; then it learns like any other."""
    policy = told(barp(n_warm_up=32, learning_rate=0.1), rounds(rng, 96))
    context, at = rng.normal(size=N_FEATURES), TradeOff(1.0)
    before = policy.probabilities(context, at, ALL)
    assert policy.add_arm() == 3
    assert policy.add_arm(ArmPrior(like=1)) == 4
    after = policy.probabilities(context, at, np.ones(5, dtype=bool))
    np.testing.assert_allclose(after[:3] / after[:3].sum(), before)
    assert np.log(after[3]) == pytest.approx(np.log(after[:3]).mean())
    assert after[4] == pytest.approx(after[1])
    for _ in range(2):
        for arm in range(3, 5):
            for _ in range(16):
                policy.update(context, arm, quality=float(arm == 4), trade_off=TradeOff(0.0))
    probabilities = policy.probabilities(context, TradeOff(0.0), np.ones(5, dtype=bool))
    assert probabilities[4] > probabilities[3]


def test_a_pull_without_a_reward_is_left_out_of_training(rng):
    """Training on outcomes half of which never come leaves every parameter finite, and learns from the others."""
    context, _, quality = world(rng, 400)
    # No whole number of batches.
    policy = barp(learning_rate=0.01, n_warm_up=100)
    lost = rng.random(400) < 0.5
    n_revealed = train(
        policy,
        context,
        lambda rows, arm: (np.where(lost[rows], np.nan, quality[rows, arm]), COST_USD[arm]),
        n_epochs=30,
        pulls="once",
        rng=rng,
    )
    assert n_revealed == 400
    assert value(policy, rng, 0.0)[0] > 0.6


def test_epochs_after_the_first_are_reported(rng):
    """A caller may look after each, to stop where it likes."""
    context, _, quality = world(rng, 50)
    seen = []
    train(
        barp(),
        context,
        lambda rows, arm: (quality[rows, arm], COST_USD[arm]),
        n_epochs=3,
        pulls="fresh",
        rng=rng,
        after_epoch=seen.append,
    )
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    "option",
    [
        {"form": "deep"},
        {"learning_rate": 0.0},
        {"entropy": -1.0},
        {"batch_rounds": 0},
        {"n_warm_up": 0},
        {"cost_scale_usd": 0.0},
    ],
)
def test_bad_settings_are_named(option):
    """Each setting has its range."""
    with pytest.raises(InvalidParameterError, match=next(iter(option))):
        barp(**option)


@pytest.mark.parametrize(
    ("option", "name"),
    [({"n_epochs": 0}, "n_epochs"), ({"pulls": "twice"}, "pulls"), ({"greedy": True}, "greedy")],
)
def test_bad_training_is_named(option, name, rng):
    """So has what `train` is told."""
    with pytest.raises(InvalidParameterError, match=name):
        trained(rng, **option)
