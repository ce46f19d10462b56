"""Absorbing discrete diffusion: exact on an enumerated state space, and on real text."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from hasten.core.errors import HastenError
from hasten.discrete import (
    UNMASKERS,
    Euler,
    Geometric,
    Joint,
    LogLinear,
    Ordered,
    TauLeaping,
    exact_bound,
    expected_calls,
    generate,
)
from hasten.discrete.exact import surprise
from hasten.discrete.text import MASK, Letters, decode, documentation, encode
from hasten.train.discrete import EARLIEST, AnyOrder, bound, drawing

V = L = 3
JOINT = Joint(np.random.default_rng(0).dirichlet(np.full(V**L, 0.7)).reshape((V,) * L))
TOKENS = torch.tensor(list(itertools.product(range(V), repeat=L)))
MASKS = [torch.tensor(m) for m in itertools.product((False, True), repeat=L)]
ALL_MASKED = torch.full((1, L), V)


def wrong(tokens):
    """Deliberately wrong conditionals, different for every state."""
    state = (tokens * torch.tensor([16, 4, 1])).sum(-1, keepdim=True)[..., None]
    return JOINT(tokens) + torch.sin(1.7 * state + torch.arange(L)[:, None] + 2.0 * torch.arange(V))


def tabulated(network):
    """The same conditionals for every one of the 64 states, computed once."""
    table = network(torch.tensor(list(itertools.product(range(V + 1), repeat=L))))
    return lambda tokens: table[(tokens * torch.tensor([(V + 1) ** 2, V + 1, 1])).sum(1)]


def level_bound(network, low, high):
    """The lambda-DCE integral from `low` to `high` by quadrature, (rows,)."""
    parts = torch.zeros(len(TOKENS), dtype=torch.float64)
    for hidden in MASKS:
        k = int(hidden.sum())
        if k:
            weight = quad(lambda lam, k=k: lam ** (k - 1) * (1 - lam) ** (L - k), low, high, epsabs=1e-14)[0]
            parts += weight * surprise(network, TOKENS, hidden.expand_as(TOKENS), V)
    return parts


def order_bound(network):
    """Any-order autoregression: the mean over all orders of the sum of -log c along the order."""
    orders = list(itertools.permutations(range(L)))
    total = torch.zeros(len(TOKENS), dtype=torch.float64)
    for order in orders:
        for step in range(L):
            hidden = torch.tensor([order.index(i) >= step for i in range(L)]).expand_as(TOKENS)
            logs = torch.log_softmax(network(torch.where(hidden, V, TOKENS)), -1)
            total -= logs[torch.arange(len(TOKENS)), order[step], TOKENS[:, order[step]]] / len(orders)
    return total


# ----------------------------------------------------------------------------------------------------- losses


def test_all_losses_are_minus_log_p_for_true_conditionals_and_one_another_for_wrong_ones():
    """Evidence 1 of the card, over all 27 sequences."""
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    log_p = JOINT.table.flatten().log()
    for found in (exact_bound(JOINT, TOKENS, V), level_bound(JOINT, 0, 1), order_bound(JOINT)):
        close(found, -log_p)
    close(level_bound(wrong, 0, 1), exact_bound(wrong, TOKENS, V))
    close(order_bound(wrong), exact_bound(wrong, TOKENS, V))
    # Gibbs: in the mean over the data no conditionals do better than the true ones
    assert (JOINT.table.flatten() * (exact_bound(wrong, TOKENS, V) + log_p)).sum() > 0.05


@pytest.mark.parametrize("way", ["lambda", "count", "time"])
def test_drawn_losses_weigh_masks_as_the_formula_says(way):
    """The mean of weight times [this mask was drawn] is (k - 1)! (L - k)! / L!, but for the ends "time" leaves out."""
    tokens = TOKENS[:1].expand(60_000, -1)
    torch.manual_seed(0)
    hidden, weight = drawing(way)(tokens)
    assert weight.dtype == torch.float64
    low, high = (float(LogLinear().masked(t)) for t in (EARLIEST, 1)) if way == "time" else (0, 1)
    for mask in MASKS:
        k = int(mask.sum())
        if not k:
            continue
        value = weight * (hidden == mask).all(1)
        expected = quad(lambda lam, k=k: lam ** (k - 1) * (1 - lam) ** (L - k), low, high)[0]
        assert abs(value.mean() - expected) < 5 * value.std() / math.sqrt(len(value)) + 1e-9


def test_the_loss_by_time_misses_only_its_ends():
    """The card: 3.02510 instead of 3.02831, the truncation at 1e-3. Here the difference is the integral's ends."""
    whole = exact_bound(wrong, TOKENS, V)
    low, high = (float(LogLinear().masked(t)) for t in (EARLIEST, 1))
    missing = whole - level_bound(wrong, low, high)
    ends = level_bound(wrong, 0, low) + level_bound(wrong, high, 1)
    torch.testing.assert_close(missing, ends, rtol=1e-9, atol=1e-12)
    assert 1e-3 < missing.mean() < 2e-2


def test_bound_covers_the_exact_value():
    draws = TOKENS[torch.multinomial(JOINT.table.flatten(), 3000, True, generator=torch.Generator().manual_seed(0))]
    network = tabulated(wrong)
    exact = exact_bound(network, draws, V).mean().item()
    found = bound(network, draws, V, draws=32)
    assert found.low < exact < found.high and found.high - found.low < 0.15 and found.n == 3000


# ------------------------------------------------------------------------------------------------------ solvers


def law(chances):
    """The exact distribution over sequences of independent revealing with these chances, by enumeration."""
    states = list(itertools.product(range(V + 1), repeat=L))
    probabilities = torch.softmax(JOINT(torch.tensor(states)), -1)
    weights = dict.fromkeys(states, 0.0)
    weights[(V,) * L] = 1.0
    for chance in chances:
        after = dict.fromkeys(states, 0.0)
        for state, c in zip(states, probabilities.tolist()):
            if not weights[state]:
                continue
            places = [
                [(token, 1.0)] if token != V else [(V, 1 - chance), *((v, chance * c[i][v]) for v in range(V))]
                for i, token in enumerate(state)
            ]
            for choice in itertools.product(*places):
                after[tuple(v for v, _ in choice)] += weights[state] * math.prod(p for _, p in choice)
        weights = after
    return torch.tensor([weights[tuple(row)] for row in TOKENS.tolist()], dtype=torch.float64)


def total_variation(steps):
    return 0.5 * (law(TauLeaping(steps).chances(LogLinear())) - JOINT.table.flatten()).abs().sum().item()


def test_tau_leaping_converges_at_first_order():
    """Evidence 2 of the card: .255, .131, .068, .037, .022, .01; without sampling noise they halve."""
    far = [total_variation(steps) for steps in (1, 2, 4, 8, 16, 32)]
    ratios = np.divide(far[:-1], far[1:])
    assert far[0] > 0.1 and ratios[0] > 1.5
    assert ratios[-2:] == pytest.approx([2, 2], abs=0.1)


@pytest.mark.parametrize(
    ("unmasker", "schedule"),
    [(TauLeaping(3), LogLinear()), (TauLeaping(5), Geometric(1e-3, 6.0)), (Euler(5), Geometric(1e-3, 6.0))],
    ids=str,
)
def test_samples_follow_the_enumerated_law(unmasker, schedule):
    expected = law(unmasker.chances(schedule))
    network = tabulated(JOINT)
    found = generate(network, ALL_MASKED.expand(20_000, -1), V, unmasker, schedule)
    counts = torch.bincount((found.tokens * torch.tensor([9, 3, 1])).sum(1), minlength=V**L)
    assert stats.chisquare(counts, expected / expected.sum() * len(found.tokens)).pvalue > 0.01


@pytest.mark.parametrize("order", ["random", "left-to-right"])
def test_one_token_a_call_is_exact(order):
    found = generate(tabulated(JOINT), ALL_MASKED.expand(20_000, -1), V, Ordered(order))
    counts = torch.bincount((found.tokens * torch.tensor([9, 3, 1])).sum(1), minlength=V**L)
    assert stats.chisquare(counts, JOINT.table.flatten() * len(found.tokens)).pvalue > 0.01
    assert (found.calls == L).all()
    biased = law(TauLeaping(1).chances(LogLinear()))
    assert stats.chisquare(counts, biased / biased.sum() * len(found.tokens)).pvalue < 1e-10


def test_euler_is_tau_leaping_on_the_log_linear_schedule_and_only_there():
    for steps in (1, 4, 33):
        np.testing.assert_allclose(Euler(steps).chances(LogLinear()), TauLeaping(steps).chances(LogLinear()), rtol=1e-9)
    coarse, fine = (
        np.abs(Euler(n).chances(Geometric()) - TauLeaping(n).chances(Geometric()))[:-1].max() for n in (10, 4000)
    )
    assert coarse > 0.1 and fine < 0.01 and Euler(3).chances(Geometric(1e-5, 50.0)).max() <= 1


@pytest.mark.parametrize("schedule", [LogLinear(), LogLinear(0.0), Geometric()], ids=str)
def test_rates_are_the_derivatives_of_the_schedule(schedule):
    t, h = np.linspace(0.05, 0.95, 7), 1e-6
    slope = (np.log(schedule.masked(t + h)) - np.log(schedule.masked(t - h))) / (2 * h)
    np.testing.assert_allclose(schedule.rate(t), slope, rtol=1e-5, atol=1e-8)
    # the card's form: s exp(-total) / (1 - exp(-total)), s the derivative of the total noise
    total = lambda t: -np.log1p(-schedule.masked(t))  # noqa: E731
    s = (total(t + h) - total(t - h)) / (2 * h)
    np.testing.assert_allclose(schedule.rate(t), s / np.expm1(total(t)), rtol=1e-5, atol=1e-8)


# -------------------------------------------------------------------------------------------------- lazy calls


class Chain:
    """Conditionals that need the visible neighbours, cheap at any length, counting the rows asked."""

    asked = 0

    def __call__(self, tokens):
        self.asked += len(tokens)
        left = torch.roll(tokens, 1, 1)
        return torch.sin(left[..., None] * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.arange(4))


@pytest.mark.parametrize(("steps", "card"), [(16, 15.7), (64, 40.6), (256, 56.7), (4096, 63.5)])
def test_lazy_calls_change_nothing_and_are_as_few_as_the_formula_says(steps, card):
    """Evidence 3 of the card, at length 64."""
    rows = 40 if steps < 4096 else 4
    start = torch.full((rows, 64), 4)
    network = Chain()
    lazy = generate(network, start, 4, TauLeaping(steps))
    mean = expected_calls(64, np.linspace(1, 0, steps + 1))
    assert mean == pytest.approx(steps * (1 - (1 - 1 / steps) ** 64)) == pytest.approx(card, abs=0.06)
    assert network.asked == lazy.calls.sum()
    assert lazy.calls.double().mean() == pytest.approx(mean, rel=0.02)
    if steps <= 64:
        eager = generate(Chain(), start, 4, TauLeaping(steps), lazy=False)
        assert torch.equal(eager.tokens, lazy.tokens) and (eager.calls == steps).all()
    assert expected_calls(1024, np.linspace(1, 0, 1025)) == pytest.approx(647, abs=0.7)


@pytest.mark.parametrize("unmasker", UNMASKERS, ids=lambda u: u.name)
def test_a_row_depends_on_its_seed_alone_and_prompts_stay(unmasker):
    start = torch.full((6, 12), 4)
    start[:, 3:5] = torch.tensor([2, 0])
    network = Chain()
    many = generate(network, start, 4, unmasker(), seed=5)
    few = generate(network, start[:2], 4, unmasker(), seed=5)
    assert torch.equal(many.tokens[:2], few.tokens) and torch.equal(many.calls[:2], few.calls)
    assert not torch.equal(generate(network, start, 4, unmasker(), seed=6).tokens, many.tokens)
    assert (many.tokens[:, 3:5] == torch.tensor([2, 0])).all() and (many.tokens < 4).all()


# ---------------------------------------------------------------------------------------------------- real text


@pytest.mark.slow
def test_a_small_network_learns_to_write_like_pythons_documentation():
    text = documentation()
    assert len(text) > 200_000 and set(text) <= set(" abcdefghijklmnopqrstuvwxyz.,")
    assert decode(encode("a_b. c")) == "a_b. c"
    corpus, length = encode(text), 32
    torch.manual_seed(0)
    held_out, seen = corpus[: 32 * 400].reshape(-1, length), corpus[32 * 400 :]
    network = Letters(64)
    objective = AnyOrder(network, MASK)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    steps = 180
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        starts = torch.randint(len(seen) - length, (32,))
        tokens = seen[starts[:, None] + torch.arange(length)]
        optimizer.zero_grad()
        objective.loss({"tokens": tokens}).backward()
        optimizer.step()

    share = torch.bincount(seen, minlength=MASK).double() / len(seen)
    letters_alone = -(share * share.log())[share > 0].sum().item()  # nats a symbol without any context
    learnt = bound(network, held_out, MASK, draws=4)
    assert learnt.high / length < 0.92 * letters_alone

    pairs = torch.ones(MASK, MASK, dtype=torch.float64)
    pairs.index_put_((seen[:-1], seen[1:]), torch.ones(len(seen) - 1, dtype=torch.float64), accumulate=True)
    habit = (pairs / pairs.sum(1, keepdim=True)).log()
    likeness = lambda rows: habit[rows[:, :-1], rows[:, 1:]].mean().item()  # noqa: E731
    written = generate(network, torch.full((48, length), MASK), MASK, Ordered())
    jumbled = torch.multinomial(share, 48 * length, True).reshape(48, length)
    in_one_go = generate(network, torch.full((48, length), MASK), MASK, TauLeaping(1)).tokens
    assert likeness(written.tokens) > likeness(jumbled) + 0.6 and likeness(written.tokens) > likeness(in_one_go) + 0.4

    prompted = encode("the value of the ________ is a ")[None]
    assert decode(generate(network, prompted, MASK).tokens[0]).startswith("the value of the ")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: generate(Chain(), torch.full((1, 3), 5), 4), "tokens: give"),
        (lambda: generate(Chain(), torch.zeros(1, 3), 4), "tokens: give"),
        (lambda: generate(Chain(), torch.full((1, 3), 4), 4, "tau-leap"), "did you mean 'tau-leaping'"),
        (lambda: TauLeaping(0), "steps: 0"),
        (lambda: Ordered("sideways"), "order: 'sideways'"),
        (lambda: LogLinear(1.0), "floor: 1.0"),
        (lambda: Geometric(2.0, 1.0), "low: 2.0"),
        (lambda: AnyOrder(Letters(), MASK, "sometimes"), "way: 'sometimes'"),
        (lambda: Joint(np.ones((2, 3))), "table: give positive"),
    ],
)
def test_impossible_settings_are_refused_by_field(run, message):
    with pytest.raises(HastenError, match=message):
        run()
