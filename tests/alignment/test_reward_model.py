"""The reward model's objective against hand values, a float64 formula and trl; and what it must not depend on."""

import math
from collections import defaultdict
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from penjing.alignment.calibration import calibration
from penjing.alignment.reward_model import (
    BradleyTerry,
    Ranked,
    centred_on,
    differences,
    mean_loss,
    pack_ranked,
    preference_loss,
    rewards_of,
)
from penjing.alignment.scores import answer_scores, score_all, whole
from penjing.errors import ConfigError, DataError
from penjing.models.scored import ScoredModel
from penjing.stages.settings import Model
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine

VOCAB = 50


def make_model(dtype=torch.float32, **shape):
    settings = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "context": 64, **shape}
    model = ScoredModel(Model(**settings).config(VOCAB))
    model.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model.to(dtype).eval()


def answer(generator, prompt, length):
    ids = torch.randint(VOCAB, (prompt + length,), generator=generator).tolist()
    return ChatTokens(ids, [False] * prompt + [True] * length)


def make_items(seed=0, ranks=((2.0, 0.0), (1.0, 3.0, 2.0), (0.0, 1.0, 1.0, 2.0)), margin=0.0):
    generator = torch.Generator().manual_seed(seed)
    lengths = iter(range(1, 50))
    return [
        Ranked(tuple(answer(generator, 3, next(lengths)) for _ in own), own, margin * number)
        for number, own in enumerate(ranks)
    ]


def by_formula(scores, items, centre=0.0):
    """The loss as the paper writes it, prompt by prompt and pair by pair; `scores` holds a list for each prompt."""
    total = 0.0
    for own, item in zip(scores, items, strict=True):
        losses = []
        for i, j in combinations(range(len(own)), 2):
            if item.ranks[i] == item.ranks[j]:
                continue
            w, l = (i, j) if item.ranks[i] > item.ranks[j] else (j, i)
            losses.append(
                torch.log1p(torch.exp(-(own[w] - own[l] - item.margin))) + centre * (own[w] + own[l]).square()
            )
        total = total + sum(losses) / len(losses)
    return total / len(items)


def test_hand_values_of_a_preference():
    """ln 2 where scores are equal; differences 0, 1, -1, and 1 with a margin of 1: ln(1 + e^-d)."""
    better, worse = torch.tensor([0.0, 1.0, -1.0]), torch.zeros(3)
    expected = torch.tensor([0.693147, 0.313262, 1.313262])
    torch.testing.assert_close(preference_loss(better, worse), expected, rtol=0, atol=1e-6)
    assert preference_loss(better[1], worse[1], 1.0).item() == pytest.approx(math.log(2))


def test_a_new_reward_model_begins_at_ln_2_and_half_right():
    loss = BradleyTerry()(ScoredModel.of(make_model()), pack_ranked(make_items()))
    assert loss.weight == 3
    assert loss.total.item() / 3 == pytest.approx(math.log(2), abs=1e-6)
    assert loss.metrics["accuracy"] / 3 == pytest.approx(0.5)


@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_loss_and_gradient_equal_the_formula_in_float64(centre):
    """Each answer by itself against packed ones: 1e-7 of a loss near 1, for shares and margins are float32."""
    model, items = make_model(torch.float64), make_items(margin=0.3)
    batch = pack_ranked(items)
    loss = BradleyTerry(centre)(model, batch)
    (loss.total / loss.weight).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    scores = [[model(torch.tensor([one.ids]))[0, -1, 0] for one in item.answers] for item in items]
    expected = by_formula(scores, items, centre)
    expected.backward()
    torch.testing.assert_close(loss.total / loss.weight, expected, rtol=0, atol=1e-7)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-7)


def test_all_pairs_of_a_prompt_count_as_one_prompt():
    """InstructGPT's 1 / C(K, 2): 9 answers, 36 pairs and 2 answers, 1 pair have the same weight. Ties are dropped."""
    items = [*make_items(ranks=(tuple(map(float, range(9))),)), *make_items(1, ranks=((1.0, 0.0),))]
    batch = pack_ranked(items)
    assert len(batch.better) == 37
    assert batch.answers == 11
    torch.testing.assert_close(batch.share, torch.tensor([1 / 36] * 36 + [1.0]))
    model = make_model()
    each = [BradleyTerry()(model, pack_ranked([item])).total for item in items]
    torch.testing.assert_close(BradleyTerry()(model, batch).total, sum(each), rtol=0, atol=1e-5)
    tied = pack_ranked(make_items(ranks=((0.0, 1.0, 1.0, 2.0),)))
    assert list(zip(tied.better.tolist(), tied.worse.tolist(), strict=True)) == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


def test_scores_do_not_depend_on_companions_or_on_what_follows_the_answer():
    """Packed with others, alone, and with the template's words after the end of the turn: 1e-5 of scores near 1."""
    model, items = make_model(), make_items()
    answers = [one for item in items for one in item.answers]
    together = answer_scores(model, pack_ranked(items))
    alone = torch.stack([score_all(model, [one])[0] for one in answers])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    longer = [ChatTokens([*one.ids, 7, 8], [*one.mask, False, False]) for one in answers]
    torch.testing.assert_close(score_all(model, longer), alone, rtol=0, atol=1e-5)
    assert whole(longer[0]) == whole(answers[0])


def test_a_step_is_the_same_however_its_batch_is_divided():
    """One batch of three prompts, and three of one, with gradients added up: weights within 1e-6 after a step."""
    items, stepped = make_items(), []
    for split in ([items], [[item] for item in items]):
        model = make_model()
        engine = Engine(model, BradleyTerry(0.01), AdamW.Config(learning_rate=1e-3), clip=None)
        outcome = engine.step([pack_ranked(part) for part in split])
        stepped.append((outcome.read(), outcome.metrics, [p.detach().clone() for p in model.parameters()]))
    (loss, metrics, weights), (other_loss, other_metrics, other_weights) = stepped
    assert loss == pytest.approx(other_loss, abs=1e-5)
    for name in ("accuracy", "margin", "score"):
        assert metrics[name] == pytest.approx(other_metrics[name], abs=1e-5)
    for weight, other in zip(weights, other_weights, strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("centre", [None, 0.05])
def test_equals_trl(centre):
    """trl's own compute_loss on padded pairs with margins: value and gradients within 1e-6."""
    trainer = pytest.importorskip("trl").RewardTrainer
    items = make_items(ranks=((1.0, 0.0), (1.0, 0.0), (0.0, 1.0)), margin=0.2)
    model = make_model()
    loss = BradleyTerry(centre or 0.0)(model, pack_ranked(items))
    (loss.total / loss.weight).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    chosen = [item.answers[item.ranks.index(1.0)].ids for item in items]
    rejected = [item.answers[item.ranks.index(0.0)].ids for item in items]
    rows, width = [*chosen, *rejected], max(map(len, [*chosen, *rejected]))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    inputs = {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": mask,
        "margin": torch.tensor([item.margin for item in items]),
    }

    def forward(input_ids, attention_mask, **_):
        last = torch.arange(len(input_ids)) * width + attention_mask.sum(1) - 1
        scores = model.scores(input_ids, last, documents=torch.where(attention_mask.bool(), 0, -1))
        return SimpleNamespace(logits=scores[:, None])

    stand = SimpleNamespace(  # what compute_loss asks of a trainer
        args=SimpleNamespace(center_rewards_coefficient=centre),
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(gather_for_metrics=lambda values: values, gather=lambda values: values),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        num_input_tokens_seen=0,
        _total_train_tokens=0,
    )
    expected = trainer.compute_loss(stand, forward, inputs)
    expected.backward()
    torch.testing.assert_close(loss.total / loss.weight, expected, rtol=0, atol=1e-6)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-6)


def test_reference_answers_are_rewarded_with_0_on_average():
    model, items = make_model(), make_items()
    reference = [one for item in items for one in item.answers[:1]]
    before = score_all(model, reference)
    centred_on(model, reference)
    assert model.offset == pytest.approx(before.mean().item(), abs=1e-6)
    assert rewards_of(model, reference).mean().abs() < 1e-6
    with pytest.raises(DataError, match="no reference answers"):
        centred_on(model, [])


def test_held_out_measures_are_means_over_prompts():
    """Oracle: the differences of all pairs."""
    model, items = make_model(), make_items()
    found = differences(model, items)
    assert len(found) == 1 + 3 + 5
    parts = found.split([1, 3, 5])
    measured = mean_loss(model, [pack_ranked(items[:2]), pack_ranked(items[2:])])
    assert measured["accuracy"] == pytest.approx(sum((part > 0).float().mean().item() for part in parts) / 3)
    assert measured["margin"] == pytest.approx(sum(part.mean().item() for part in parts) / 3, abs=1e-5)


def test_calibration_of_four_pairs_by_hand(tmp_path):
    """Two pairs predicted at 0.731 (d = 1, one right), one at 0.953 (d = 3, right), one of equal scores (0.5, half)."""
    found = calibration(torch.tensor([1.0, -1.0, 3.0, 0.0]), bins=5)
    assert found.counts == [1, 2, 1]
    assert list(found.predicted) == pytest.approx([0.5, 0.731059, 0.952574], abs=1e-6)
    assert list(found.observed) == [0.5, 0.5, 1.0]
    assert found.error == pytest.approx((0 + 2 * 0.231059 + 0.047426) / 4, abs=1e-6)
    found.save(tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_scores_that_mean_what_they_say_are_calibrated_and_doubled_ones_are_not():
    """20,000 pairs whose preference is drawn with the probability that the scores give; error below 1 %."""
    generator = torch.Generator().manual_seed(0)
    d = 2 * torch.randn(20_000, generator=generator)
    preferred = torch.rand(20_000, generator=generator) < d.sigmoid()
    observed = torch.where(preferred, d, -d)
    assert calibration(observed).error < 0.01
    assert calibration(2 * observed).error > 0.05


def test_refuses_what_cannot_be_learned_from():
    with pytest.raises(DataError, match=r"all equally good \(file\)"):
        pack_ranked(make_items(ranks=((1.0, 1.0),)), origin="file")
    with pytest.raises(ConfigError, match="must not be negative"):
        BradleyTerry(-1.0)
    with pytest.raises(DataError, match="no pairs"):
        calibration(torch.empty(0))
