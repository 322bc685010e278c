"""Schedules at their corners, against transformers' over a whole run, and under each kind of budget."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from penjing.errors import ConfigError
from penjing.training.budget import Budget, Spent
from penjing.training.schedules import SCHEDULES, WSD, Constant, Cosine, Linear


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Cosine(warmup=0.1, final=0.0), get_cosine_schedule_with_warmup),
        (Linear(warmup=0.1, final=0.0), get_linear_schedule_with_warmup),
    ],
)
def test_equals_transformers(ours, theirs):
    """All of 200 steps, within 1e-12."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = theirs(optimizer, num_warmup_steps=20, num_training_steps=200)
    for step in range(200):
        assert ours(step / 200) == pytest.approx(peer.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        peer.step()


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Constant(warmup=0.1), {0.0: 0, 0.05: 0.5, 0.1: 1, 1.0: 1}),
        (Cosine(warmup=0.2, final=0.1), {0.0: 0, 0.2: 1, 0.6: 0.55, 1.0: 0.1}),
        (Linear(warmup=0.0, final=0.2), {0.0: 1, 0.5: 0.6, 1.0: 0.2}),
        (WSD(warmup=0.1, decay=0.4, final=0.0), {0.0: 0, 0.1: 1, 0.6: 1, 0.8: 0.5, 1.0: 0}),
        (WSD(warmup=0.0, decay=0.0), {0.0: 1, 1.0: 1}),
        (WSD(warmup=0.0, decay=1.0), {0.0: 1, 0.25: 0.75, 1.0: 0}),
    ],
)
def test_passes_through_the_points_that_its_fields_name(schedule, points):
    """By hand from each definition; within rounding."""
    for progress, factor in points.items():
        assert schedule(progress) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("schedule", [kind() for kind in SCHEDULES.values()])
def test_stays_between_nothing_and_the_peak(schedule):
    assert all(0 <= schedule(step / 1000) <= 1 for step in range(1001))


@pytest.mark.parametrize("wrong", [{"warmup": 1.5}, {"decay": -0.1}, {"warmup": 0.7, "decay": 0.5}])
def test_refuses_fractions_that_are_none(wrong):
    with pytest.raises(ConfigError):
        WSD(**wrong)


def test_the_first_limit_to_be_reached_counts():
    """Half the steps, a quarter of the tokens, three quarters of the minutes: progress is 0.75."""
    budget = Budget(steps=100, tokens=4000, minutes=2)
    assert budget.progress(Spent(50, 1000, 90)) == 0.75
    assert budget.progress(Spent(50, 9000, 90)) == 1.0


def test_a_budget_knows_how_long_it_will_take():
    """At ten steps a second, ninety steps are nine seconds; minutes are simply what is left of them."""
    assert Budget(steps=100).seconds_left(Spent(10, 0, 1)) == pytest.approx(9)
    assert Budget(minutes=1).seconds_left(Spent(10, 0, 45)) == pytest.approx(15)
    assert Budget(steps=100).seconds_left(Spent()) is None


@pytest.mark.parametrize("wrong", [{}, {"steps": 0}, {"minutes": -1.0}])
def test_refuses_a_budget_without_end(wrong):
    with pytest.raises(ConfigError, match="budget"):
        Budget(**wrong)
