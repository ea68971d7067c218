"""The pacer: it holds a budget, says when it cannot, and leaves alone what keeps to it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pointsman.errors import InvalidParameterError
from pointsman.online.bandit import PooledThompson
from pointsman.online.budget import BAND, LEAST, MOST, N_BLOCKS, STEP, Budgets, PacedRequest, Pacer
from pointsman.trade_off import TradeOff

QUALITY_ONLY = TradeOff(0.0)
COST_USD = np.array([0.01, 0.1, 1.0])
N_ROUNDS = 2_000


def prompts(n_rounds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return every arm's expected quality and its cost: dear arms are good, most of all on hard prompts."""
    hard = rng.normal(size=(n_rounds, 1))
    quality = 1 / (1 + np.exp(-(np.array([0.0, 0.8, 1.6]) - hard * np.array([1.5, 1.0, 0.5]))))
    return quality, COST_USD * np.exp(0.5 * rng.normal(size=(n_rounds, 3)) - 0.125)


def spent(pacer, quality, cost_usd, *, base=QUALITY_ONLY, expected_usd=COST_USD, late=0) -> tuple[np.ndarray, ...]:
    """Return cost and quality of each request where the best arm is taken at the pacer's trade-off."""
    n_rounds = len(quality)
    paid, got = np.empty(n_rounds), np.empty(n_rounds)
    for i in range(n_rounds):
        trade_off = pacer.trade_off(base)
        utility = trade_off.utility(quality=quality[i], cost_usd=np.broadcast_to(expected_usd, cost_usd.shape)[i])
        arm = int(utility.argmax())
        paid[i], got[i] = cost_usd[i, arm], quality[i, arm]
        if i >= late:
            pacer.observe(paid[i - late])
    return paid, got


@pytest.mark.parametrize("budget_usd", [0.03, 0.1, 0.4])
def test_mean_spend_settles_at_the_budget(seed, budget_usd):
    """After 2,000 requests it is within 1%.

    Noise of a request's deviation d is undone after 1 / (STEP e) requests, e the elasticity of spend: the debt then has
    a deviation of about d sqrt(5 / e) <= 6 budgets, and 1% is 20.
    """
    quality, cost_usd = prompts(N_ROUNDS, np.random.default_rng(seed))
    paid, _ = spent(Pacer(budget_usd_per_request=budget_usd), quality, cost_usd)
    assert abs(paid.mean() / budget_usd - 1) < 0.01


def test_what_it_buys_is_nearly_the_best_that_can_be_bought(seed):
    """Quality is within a point and a half of that of the best constant lambda, found in hindsight by bisection."""
    budget_usd = 0.1
    quality, cost_usd = prompts(N_ROUNDS, np.random.default_rng(seed))
    low, high = 0.0, 100.0
    for _ in range(40):
        rate = (low + high) / 2
        arm = (quality - rate * COST_USD).argmax(axis=1)
        mean = cost_usd[np.arange(N_ROUNDS), arm].mean()
        low, high = (rate, high) if mean > budget_usd else (low, rate)
    best = quality[np.arange(N_ROUNDS), (quality - high * COST_USD).argmax(axis=1)].mean()
    _, got = spent(Pacer(budget_usd_per_request=budget_usd), quality, cost_usd)
    assert best - 0.015 < got.mean()


def test_it_has_no_unit(seed):
    """Costs and budget in thousandths of a dollar give the same choices."""
    quality, cost_usd = prompts(300, np.random.default_rng(seed))
    in_usd, _ = spent(Pacer(budget_usd_per_request=0.1), quality, cost_usd)
    in_mills, _ = spent(Pacer(budget_usd_per_request=100.0), quality, 1_000 * cost_usd, expected_usd=1_000 * COST_USD)
    np.testing.assert_allclose(in_mills, 1_000 * in_usd)


@pytest.mark.parametrize("factor", [10.0, 0.1])
@pytest.mark.parametrize("is_told", [True, False])
def test_it_holds_through_a_price_change(seed, factor, is_told):
    """The dear arm's price changes tenfold half way; after 2,000 requests mean spend is within 2%."""
    quality, cost_usd = prompts(N_ROUNDS, np.random.default_rng(seed))
    cost_usd[N_ROUNDS // 2 :, 2] *= factor
    expected_usd = np.tile(COST_USD, (N_ROUNDS, 1))
    if is_told:
        expected_usd[N_ROUNDS // 2 :, 2] *= factor
    # Untold of a fall, a policy that goes by old prices still holds the budget with what it spends.
    paid, _ = spent(Pacer(budget_usd_per_request=0.05), quality, cost_usd, expected_usd=expected_usd)
    assert abs(paid.mean() / 0.05 - 1) < 0.02


def test_a_jump_in_lambda_is_crossed_as_often_as_the_budget_wants(seed):
    """Two arms without context, costs 0 and 1: no lambda spends 0.3, but the pacer does, within 1%."""
    pacer, rng, paid = Pacer(budget_usd_per_request=0.3), np.random.default_rng(seed), []
    for _ in range(N_ROUNDS):
        rate = pacer.trade_off(QUALITY_ONLY).quality_per_usd
        paid.append(float(rate < rng.uniform(0.19, 0.21)))
        pacer.observe(paid[-1])
    assert abs(np.mean(paid) / 0.3 - 1) < 0.01


def test_a_budget_above_what_is_spent_changes_nothing(seed):
    """Where the best arms cost less than the budget, lambda soon is zero or a dear call from it; they are chosen."""
    quality, cost_usd = prompts(N_ROUNDS, np.random.default_rng(seed))
    pacer = Pacer(budget_usd_per_request=1.5)
    _, got = spent(pacer, quality, cost_usd)
    assert pacer.quality_per_usd < 10 * LEAST / 1.5
    np.testing.assert_array_equal(got[500:], quality.max(axis=1)[500:])
    assert pacer.report().share_bound < 0.25


def test_the_higher_lambda_is_used(seed):
    """A request whose own lambda saves more than the budget asks for is decided at its own, and is not called bound."""
    quality, cost_usd = prompts(500, np.random.default_rng(seed))
    pacer, own = Pacer(budget_usd_per_request=0.5), TradeOff(10.0)
    assert pacer.trade_off(own) is own
    paid, _ = spent(pacer, quality, cost_usd, base=own)
    assert pacer.report().share_bound == 0
    assert paid.mean() < 0.25


@pytest.mark.parametrize("budget", [{"budget_usd_per_request": 0.01}, {"budget_usd_per_day": 100.0}])
def test_asking_what_would_be_decided_changes_nothing(budget):
    """The answer is that of the next request, which only counts itself among those of its day; nothing is counted."""
    pacer = Pacer(**budget)
    for i in range(50):
        pacer.trade_off(TradeOff(0.0), now=60.0 * i)
        pacer.observe(0.05, now=60.0 * i + 1)
    before = pacer.state()
    asked = pacer.trade_off(TradeOff(0.0), now=60.0 * 49 + 1, counted=False)
    assert pacer.state() == before
    told = pacer.trade_off(TradeOff(0.0), now=60.0 * 49 + 1)
    assert asked.quality_per_usd == pytest.approx(told.quality_per_usd, rel=1 / 50)
    assert pacer.report().n_requests == 51


def test_a_budget_below_all_arms_asks_for_the_cheapest_and_says_so(seed):
    """At a third of the cheapest arm's cost it is not held, debt stops growing, and it recovers when prices fall."""
    quality, cost_usd = prompts(N_ROUNDS, np.random.default_rng(seed))
    pacer = Pacer(budget_usd_per_request=0.0033)
    paid, _ = spent(pacer, quality[:1_000], cost_usd[:1_000])
    np.testing.assert_array_equal(paid[500:], cost_usd[500:1_000, 0])
    assert not pacer.report().is_held
    debt = pacer.report().debt_usd
    paid, _ = spent(pacer, quality[1_000:], cost_usd[1_000:])
    assert pacer.report().debt_usd == debt
    paid, _ = spent(pacer, quality, cost_usd / 100, expected_usd=COST_USD / 100)
    assert pacer.report().is_held
    assert pacer.report().debt_usd < debt


def test_debt_is_bounded_whatever_the_policy_and_prices_do(seed):
    """While lambda is finite, debt stays below log(MOST / LEAST) / STEP budgets, a band and a request.

    Costs are 0 or up to two budgets, more often dear than not and whatever lambda is, so that m is 1.
    """
    rng, pacer, debt = np.random.default_rng(seed), Pacer(budget_usd_per_request=1.0), 0.0
    for i in range(5_000):
        if i % 500 == 0:
            height, chance = float(rng.uniform(1.5, 2.0)), float(rng.uniform(0.8, 1.0))
        is_cheapest = math.isinf(pacer.trade_off(QUALITY_ONLY).quality_per_usd)
        pacer.observe(0.0 if is_cheapest else height * float(rng.random() < chance))
        debt = max(debt, pacer.report().debt_usd)
    assert 20 < debt < (math.log(MOST / LEAST) + BAND) / STEP + 2  # there is some: the bound is put to the test


def test_late_costs_are_waited_for(seed):
    """Costs that come 20 requests late are held within 2% over 8,000 requests.

    Lambda swings about where it belongs, as nothing is known of the last 20 costs. A swing of one e-fold, which is
    1 / STEP budgets, is felt for some 100 requests either way, and 100 budgets are 1.3% of 8,000.
    """
    quality, cost_usd = prompts(4 * N_ROUNDS, np.random.default_rng(seed))
    paid, _ = spent(Pacer(budget_usd_per_request=0.1), quality, cost_usd, late=20)
    assert abs(paid.mean() / 0.1 - 1) < 0.02


def test_a_cost_that_is_never_known_is_taken_to_be_like_the_others(seed):
    """A tenth of costs missing leaves the mean of all within 2%."""
    rng = np.random.default_rng(seed)
    quality, cost_usd = prompts(N_ROUNDS, rng)
    pacer, paid = Pacer(budget_usd_per_request=0.1), []
    for i in range(N_ROUNDS):
        arm = int(pacer.trade_off(QUALITY_ONLY).utility(quality=quality[i], cost_usd=COST_USD).argmax())
        paid.append(cost_usd[i, arm])
        pacer.observe(math.nan if rng.random() < 0.1 else paid[-1])
    # Costs of the missing tenth have a mean of 200 requests, each of deviation 3 budgets: 2,000 of them 0.7%.
    assert abs(np.mean(paid) / 0.1 - 1) < 0.03
    assert 100 < pacer.report().n_unknown < 300


def test_a_day_costs_its_budget_though_traffic_has_its_hours(seed):
    """Ten times the requests by day as by night, 1,500 a day: from the second day on every day is within 10%."""
    rng = np.random.default_rng(seed)
    pacer, now, days = Pacer(budget_usd_per_day=100.0), 0.0, np.zeros(6)
    while now < 6 * 86_400:
        quality, cost_usd = prompts(1, rng)
        arm = int(pacer.trade_off(QUALITY_ONLY, now=now).utility(quality=quality[0], cost_usd=COST_USD).argmax())
        pacer.observe(float(cost_usd[0, arm]), now=now + 2)
        days[int(now // 86_400)] += cost_usd[0, arm]
        per_day = 1_500 * (1 - 0.82 * math.cos(2 * math.pi * now / 86_400))
        now += rng.exponential(86_400 / per_day)
    assert np.all(abs(days[1:] / 100 - 1) < 0.1)
    assert abs(days.sum() / 600 - 1) < 0.1


def test_the_default_bandit_keeps_to_a_budget(seed):
    """Learning as it goes, prices unknown, it is within 5% after 1,500 requests; unpaced it spends over three times."""
    rng = np.random.default_rng(seed)
    policy, pacer, paid = PooledThompson(n_arms=3, n_features=4), Pacer(budget_usd_per_request=0.1), []
    for _ in range(1_500):
        context = rng.normal(size=4)
        quality = 1 / (1 + np.exp(-(np.array([0.0, 0.8, 1.6]) - context[0] * np.array([1.5, 1.0, 0.5]))))
        arm = policy.decide(context, pacer.trade_off(QUALITY_ONLY), rng=rng).arm
        paid.append(COST_USD[arm])
        policy.update(context, arm, quality=float(rng.random() < quality[arm]), cost_usd=paid[-1])
        pacer.observe(paid[-1])
    assert abs(np.mean(paid) / 0.1 - 1) < 0.05


def test_the_history_is_all_of_it_in_bounded_memory():
    """However many requests, at most `N_BLOCKS` blocks add up to all of them."""
    pacer = Pacer(budget_usd_per_request=1.0)
    for i in range(10_000):
        pacer.trade_off(QUALITY_ONLY)
        pacer.observe(float(i % 2))
    report = pacer.report()
    assert len(report.history) <= N_BLOCKS
    assert report.n_requests == sum(block.n_requests for block in report.history) == 10_000
    assert report.spend_usd == pytest.approx(5_000)
    assert report.allowed_usd == pytest.approx(10_000)
    assert len(json.dumps(pacer.state())) < 20_000


@pytest.mark.parametrize("budget", [{"budget_usd_per_request": 0.1}, {"budget_usd_per_day": 5.0}])
def test_it_goes_on_where_it_was_saved(budget, rng):
    """A pacer from its JSON state asks for the same lambdas to the last bit."""
    pacer = Pacer(**budget)

    def step(each: Pacer, cost: float, now: float) -> float:
        rate = each.trade_off(QUALITY_ONLY, now=now).quality_per_usd
        each.observe(cost, now=now)
        return rate

    for i in range(200):
        step(pacer, float(rng.exponential(0.2)), 30.0 * i)
    twin = Pacer.from_state(json.loads(json.dumps(pacer.state())))
    for i in range(200, 400):
        cost = float(rng.exponential(0.2)) if i % 7 else math.nan
        assert step(twin, cost, 30.0 * i) == step(pacer, cost, 30.0 * i)
    assert twin.report() == pacer.report()


@pytest.mark.parametrize("budget", [{"budget_usd_per_request": 0.1}, {"budget_usd_per_day": 288.0}])
def test_it_goes_on_where_the_log_says_that_it_was(budget, seed):
    """From all of its requests, rate and debt are those of the pacer that saw them; lambda is near, also from a few.

    The lowest of ten lambdas differs from the last by what nine requests moved it: STEP for each deviation from budget
    and debt of its size, 1.5 at the very most, so by e^1.35.
    """
    quality, cost_usd = prompts(600, np.random.default_rng(seed))
    pacer, requests = Pacer(**budget), []
    for i in range(len(quality)):
        at = 30.0 * i
        rate = pacer.trade_off(QUALITY_ONLY, now=at).quality_per_usd
        arm = int(TradeOff(rate).utility(quality=quality[i], cost_usd=COST_USD).argmax())
        requests.append(PacedRequest(at, math.nan if i % 7 == 0 else float(cost_usd[i, arm]), rate))
        pacer.observe(requests[-1].cost_usd, now=at)

    def resumed(n_requests: int) -> Pacer:
        twin = Pacer(**budget)
        twin.resume(requests[-n_requests:], now=requests[-1].at)
        return twin

    twin = resumed(600)
    assert twin.target_usd == pytest.approx(pacer.target_usd, rel=1e-9)
    assert twin.report().debt_usd == pytest.approx(pacer.report().debt_usd, rel=1e-6)
    assert (twin.report().n_requests, twin.report().spend_usd) == (0, 0.0)
    for n_requests in (600, 50):
        assert abs(math.log(resumed(n_requests).quality_per_usd / pacer.quality_per_usd)) < 1.35


def test_no_debt_is_taken_over_that_another_budget_left():
    """Dear requests from before there was a budget neither raise lambda to the end of time nor starve those to come."""
    free = [PacedRequest(30.0 * i, 1.0, 0.5) for i in range(2_000)]
    pacer = Pacer(budget_usd_per_request=0.1)
    pacer.resume(free, now=60_000.0)
    assert pacer.quality_per_usd <= 0.5 * math.exp(10 * STEP)
    assert 0 < pacer.report().debt_usd <= BAND / STEP * 10


def test_without_a_log_it_begins_anew():
    """As one that was never resumed."""
    pacer = Pacer(budget_usd_per_day=1.0)
    pacer.resume([], now=5.0)
    assert pacer.state() == Pacer(budget_usd_per_day=1.0).state()


@pytest.mark.parametrize(
    "budget",
    [{}, {"budget_usd_per_request": 0.0}, {"budget_usd_per_request": math.nan}, {"budget_usd_per_day": math.inf},
     {"budget_usd_per_request": 1.0, "budget_usd_per_day": 1.0}],
)  # fmt: skip
def test_a_budget_is_one_positive_number(budget):
    """None, both, or one that is not a finite positive amount is refused."""
    with pytest.raises(InvalidParameterError, match="budget_usd_per_request"):
        Pacer(**budget)


def test_a_cost_is_a_cost():
    """A negative or infinite cost is refused, and changes nothing."""
    pacer = Pacer(budget_usd_per_request=1.0)
    before = pacer.state()
    for cost in (-1.0, math.inf):
        with pytest.raises(InvalidParameterError, match="cost_usd"):
            pacer.observe(cost)
    assert pacer.state() == before


def test_keys_have_budgets_of_their_own():
    """What one key spends is no other key's, and a key's own budget is not the default."""
    budgets = Budgets(budget_usd_per_request=1.0)
    budgets.set("rich", budget_usd_per_request=100.0)
    for _ in range(200):
        for key in ("poor", "rich", "thrifty"):
            budgets.trade_off(key, QUALITY_ONLY)
            budgets.observe(key, 0.1 if key == "thrifty" else 10.0)
    rates = {key: pacing.quality_per_usd for key, pacing in budgets.report().items()}
    assert rates["poor"] == math.inf
    assert rates["rich"] == rates["thrifty"] == 0
    budgets.unset("rich")
    assert budgets.pacer("rich").budget_usd_per_request == 1.0


def test_a_key_without_a_budget_is_not_paced():
    """Without a default its trade-off is handed back, and nothing is kept of it."""
    budgets = Budgets()
    own = TradeOff(3.0)
    assert budgets.trade_off("anyone", own) is own
    budgets.observe("anyone", 5.0)
    assert budgets.report() == {}


def test_keys_not_seen_for_longest_are_forgotten_first():
    """At most `max_keys` are kept beside those with a budget of their own."""
    budgets = Budgets(budget_usd_per_request=1.0, max_keys=2)
    budgets.set("own", budget_usd_per_request=1.0)
    for key in ("a", "b", "a", "c"):
        budgets.trade_off(key, QUALITY_ONLY)
    assert set(budgets.report()) == {"own", "a", "c"}
    twin = Budgets.from_state(json.loads(json.dumps(budgets.state())))
    twin.trade_off("d", QUALITY_ONLY)
    assert set(twin.report()) == {"own", "c", "d"}
    assert twin.report()["c"] == budgets.report()["c"]
