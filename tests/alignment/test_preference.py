"""Losses on preferences: published values, values where policy and reference agree, what they must not depend on."""

import math
from dataclasses import replace

import pytest
import torch

from penjing.alignment import preference
from penjing.alignment.kto import KTO
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.pairs import PairBatch, pack_pairs
from penjing.alignment.preference import METHODS, Pairs, mean_values
from penjing.alignment.reference import reference_log_probs
from penjing.errors import ConfigError, DataError, TrainingError
from tests.alignment.preference_cases import EVERY, answer, descended, items_for, moved_model, packed
from tests.alignment.test_log_probs import make_model

LN2 = math.log(2)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def make_pairs(chosen, rejected, reference_chosen, reference_rejected, lengths=((3, 5, 2), (4, 1, 6))):
    return Pairs(
        *(numbers(*values) for values in (chosen, rejected, reference_chosen, reference_rejected)),
        *(numbers(*one[: len(chosen)]) for one in lengths),
    )


FIXTURE = make_pairs([-0.5, -10, -1], [-0.1, -30, -21], [-0.5, -10.1, -0.1], [-0.1, -20.1, -0.1])
"""torchtune's: c = 0, .1, -.9 and r = 0, -9.9, -20.9, so that d = 0, 10, 20; sigmoid and hinge values are its own."""


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (preference.DPO(), [0.693147, 0.313262, 0.126928]),
        (preference.DPO(smoothing=0.1), [0.693147, 0.413262, 0.326928]),
        (preference.Robust(), [0.693147, 0.188262, -0.123072]),
        (preference.Hinge(), [1, 0, 0]),
        (preference.IPO(), [25, 25, 225]),
        (preference.NCA(), [1.386294, 1.195220, 1.122047]),
        (preference.BCO(), [1.386294, 1.004121, 0.855775]),
        (preference.SPPO(), [50, 48.02, 287.62]),
        (preference.APOZero(), [1, 0.768412, 0.632557]),
        (preference.APODown(), [1, 0.771441, 0.596718]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reference_values(objective, expected):
    """float64 against six printed digits: half a unit of the last."""
    torch.testing.assert_close(objective.losses(FIXTURE), numbers(*expected), rtol=0, atol=5.1e-7)


def test_kto_s_reference_values():
    """At z = 0, good and bad answers of the same fixture; six printed digits."""
    kto, zero = KTO(), numbers(0)[0]
    good, bad = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    expected = numbers(0.5, 0.497500, 0.522485), numbers(0.5, 0.270912, 0.110073)
    torch.testing.assert_close(kto.losses(FIXTURE.c, good, zero), expected[0], rtol=0, atol=5.1e-7)
    torch.testing.assert_close(kto.losses(FIXTURE.r, bad, zero), expected[1], rtol=0, atol=5.1e-7)


def test_lengths_divide_and_the_reference_goes_where_it_should():
    """Hand derivations in float64, 1e-12, of what has no printed values."""
    c, r = numbers(0, 0.02, -0.45), numbers(0, -9.9, -20.9 / 6)
    per_token = preference.DPO(beta=2.0, per_token=True).losses(FIXTURE)
    torch.testing.assert_close(per_token, torch.log1p((-2 * (c - r)).exp()), rtol=0, atol=1e-12)
    torch.testing.assert_close(preference.IPO(per_token=True).losses(FIXTURE), (c - r - 5).square(), rtol=0, atol=1e-12)
    chosen, rejected = numbers(-0.5 / 3, -2, -0.5), numbers(-0.1 / 4, -30, -3.5)
    simpo = preference.SimPO(beta=2.0, gamma=0.5).losses(FIXTURE)
    torch.testing.assert_close(simpo, torch.log1p((-2 * (chosen - rejected) + 0.5).exp()), rtol=0, atol=1e-12)
    odds = [x.exp() / (1 - x.exp()) for x in (chosen, rejected)]
    orpo = preference.ORPO(beta=0.3).losses(FIXTURE)
    torch.testing.assert_close(orpo, 0.3 * torch.log1p(odds[1] / odds[0]), rtol=0, atol=1e-12)


def test_a_told_margin_must_be_won_by():
    """beta d = 1 and a told margin of 2 at half a unit each leaves a sigmoid of 0."""
    pairs = Pairs(*(numbers(x) for x in (10, 0, 0, 0, 1, 1, 2)))
    assert preference.DPO(margin=0.5).losses(pairs).item() == pytest.approx(LN2, abs=1e-12)
    assert preference.DPO().losses(pairs).item() == pytest.approx(math.log1p(math.exp(-1)), abs=1e-12)


INITIAL = {
    "dpo": LN2, "robust": LN2, "cdpo": LN2, "dpo_per_token": LN2, "hinge": 1, "ipo": 25, "ipo_per_token": 25,
    "nca": 2 * LN2, "bco": 2 * LN2, "sppo": 50, "apo_zero": 1, "apo_down": 1, "kto_zero": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", INITIAL)
def test_where_the_policy_is_the_reference_the_value_is_exact(name):
    """The same pass gives the same bits, so log-ratios are 0 and the float32 value is exact to one rounding."""
    objective, model = EVERY[name], make_model()
    batch = packed(objective, items_for(objective))
    own, _ = answer_log_probs(model, batch)
    loss = objective(model, replace(batch, reference=own.detach()))
    assert (loss.total / loss.weight).item() == pytest.approx(INITIAL[name], rel=6e-8)
    assert loss.metrics["margin"] == loss.metrics["kl"] == 0


@pytest.mark.parametrize("name", EVERY)
def test_no_pair_depends_on_its_companions_nor_on_how_it_is_packed(name):
    """One batch in rows of the longest, one in rows of 40, and each item alone: the loss and its metrics. float32 sums
    of 12 answers in another order, losses up to 60: relative 1e-5. KTO's point is a step's: all of it is compared with
    one that `prepare` found.
    """
    objective, model = EVERY[name], moved_model()
    items = items_for(objective)
    whole = packed(objective, items)
    batches = [whole, packed(objective, items, row=40), *(packed(objective, [item]) for item in items)]
    if isinstance(objective, KTO):
        point = objective.reference_point(model, [whole])
        assert point > 0 or not objective.expectation
        batches = [replace(batch, reference_point=point) for batch in batches]
    first, wide, *alone = (objective(model, batch) for batch in batches)
    assert first.weight == wide.weight == sum(loss.weight for loss in alone) == len(items)
    assert wide.total.item() == pytest.approx(first.total.item(), rel=1e-5, abs=1e-5)
    assert sum(loss.total.item() for loss in alone) == pytest.approx(first.total.item(), rel=1e-5, abs=1e-5)
    for metric, value in first.metrics.items():
        assert sum(loss.metrics[metric] for loss in alone) == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_micro_batches_add_up_to_one_step(name):
    """Engine steps of plain descent on one batch and on three of unequal size: loss and every weight. Gradients are up
    to 30 (SPPO's and IPO's squares), hence relative 1e-4 and 1e-5 of weights of about 0.1.
    """
    objective = EVERY[name]
    items = items_for(objective)
    one, weights = descended(objective, [packed(objective, items)])
    several, others = descended(objective, [packed(objective, part) for part in (items[:1], items[1:4], items[4:])])
    assert several.read() == pytest.approx(one.read(), rel=1e-4)
    assert several.metrics == pytest.approx(dict(one.metrics), rel=1e-3, abs=1e-4)
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=2e-5)


def test_no_gradient_goes_through_kto_s_reference_point():
    """The engine's step is that of the loss at the point as a constant; 1e-5 of weights of about 0.1."""
    objective = KTO(beta=0.5)
    batch = packed(objective, items_for(objective))
    point = objective.reference_point(moved_model(), [batch])
    _, weights = descended(objective, [batch])
    model = moved_model()
    log_probs, _ = answer_log_probs(model, batch)
    ratios = batch.per_answer(log_probs - batch.reference)
    sign = torch.where(batch.desirable, 1.0, -1.0)
    (1 - torch.sigmoid(0.5 * sign * (ratios - point.item()))).mean().backward()
    assert point > 0.1
    for weight, parameter in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(weight, (parameter - parameter.grad).detach(), rtol=1e-4, atol=1e-5)


def test_the_sft_term_is_each_chosen_answer_s_mean():
    """RPO minus DPO is 0.7 times the mean negative log-probability, pair by pair; 1e-5 of values to 30."""
    items, model = items_for(preference.DPO()), moved_model()
    expected = -sum(one.mean() for one in reference_log_probs(model, [item.chosen for item in items]))
    totals = [objective(model, pack_pairs(items)).total for objective in (EVERY["rpo"], preference.DPO())]
    assert (totals[0] - totals[1]).item() == pytest.approx(0.7 * expected.item(), rel=1e-5)


def test_metrics_are_what_they_are_called():
    """By definition, from log-probabilities that were computed answer by answer; float32 sums, relative 1e-4."""
    model, items = moved_model(), items_for(preference.DPO())
    found = preference.DPO(beta=0.5)(model, pack_pairs(items)).metrics
    own = [reference_log_probs(model, list(item.answers)) for item in items]
    c, r = ([(o[i] - item.reference[i]).sum().item() for o, item in zip(own, items, strict=True)] for i in (0, 1))
    ratios = [o[i] - item.reference[i] for o, item in zip(own, items, strict=True) for i in (0, 1)]
    expected = {
        "chosen_reward": 0.5 * sum(c),
        "rejected_reward": 0.5 * sum(r),
        "margin": 0.5 * (sum(c) - sum(r)),
        "accuracy": sum(x > y for x, y in zip(c, r, strict=True)),
        "chosen_log_prob": sum(o[0].sum().item() for o in own),
        "rejected_log_prob": sum(o[1].sum().item() for o in own),
        "kl": sum((x.exp() - 1 - x).sum().item() for x in ratios) / 2,
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0 < expected["accuracy"] < len(items)
    mean = mean_values(preference.DPO(beta=0.5), model, [pack_pairs(items[:2]), pack_pairs(items[2:])])
    assert mean.pop("loss") == pytest.approx(
        preference.DPO(beta=0.5)(model, pack_pairs(items)).total.item() / 6, rel=1e-5
    )
    assert mean == pytest.approx({name: value / 6 for name, value in expected.items()}, rel=1e-4)


def test_orpo_s_gradient_is_finite_where_an_answer_is_certain_or_impossible():
    """Mean log-probabilities of -1e-9 and of -100: log(1 - p) is taken where float32 can."""
    chosen = torch.tensor([-1e-9, -100.0, 0.0], requires_grad=True)
    rejected = torch.tensor([-100.0, -1e-9, -1.0], requires_grad=True)
    zero, one = torch.zeros(3), torch.ones(3)
    losses = preference.ORPO().losses(Pairs(chosen, rejected, zero, zero, one, one))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()


def test_a_missing_reference_is_an_error_and_is_not_missed_where_it_is_not_needed():
    model = make_model()
    batch = pack_pairs([type(item)(item.chosen, item.rejected) for item in items_for(preference.DPO())])
    assert isinstance(batch, PairBatch)
    assert batch.reference is None
    with pytest.raises(TrainingError, match="DPO compares with a reference"):
        preference.DPO()(model, batch)
    for objective in (preference.DPO(reference_free=True), preference.ORPO(), preference.SimPO()):
        assert not objective.needs_reference
        assert "kl" not in objective(model, batch).metrics
    free = preference.DPO(reference_free=True)(model, batch).metrics
    assert free["chosen_reward"] == pytest.approx(0.1 * free["chosen_log_prob"], rel=1e-6)
    judged = [type(one)(one.answer, one.mismatched, one.desirable) for one in items_for(KTO())]
    with pytest.raises(TrainingError, match="KTO compares with a reference"):
        KTO()(model, packed(KTO(), judged))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preference.DPO(beta=0), "beta is 0; it must be above 0"),
        (lambda: preference.SimPO(sft=-1), "sft is -1"),
        (lambda: preference.DPO(smoothing=0.5), "smoothing is 0.5; it is a share"),
        (lambda: preference.Robust(smoothing=0.6), "smoothing is 0.6"),
        (lambda: KTO(desirable_weight=-1), "desirable_weight is -1"),
        (lambda: KTO(beta=-1), "beta is -1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_validation_without_pairs_is_an_error():
    with pytest.raises(DataError, match="nothing to validate on"):
        mean_values(METHODS["dpo"](), make_model(), [])


def test_the_answers_helper_counts_what_it_says():
    assert sum(answer(3, 4, 0).mask) == 4
