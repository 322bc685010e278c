"""Losses on preferences, and their gradients, against TRL's own code on random log-probabilities.

TRL's trainers compute the loss in `_compute_loss(self, model, inputs)`. It is called as it stands, with a stand-in for
the trainer's settings, and a model that answers with log-probabilities that were drawn; so no text and no model takes
part. Log-probabilities are float64, sums of up to 7 tokens: values and gradients agree to 1e-12.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from penjing.alignment import preference
from penjing.alignment.kto import KTO
from penjing.alignment.pairs import Pair, pack_pairs
from penjing.alignment.preference import Pairs
from penjing.alignment.reference import reference_log_probs
from penjing.models.families import family_of
from penjing.tokenizer.chat import ChatTokens
from tests.inference import tiny

pytest.importorskip("trl")

PAIRS, TOKENS, PROMPT = 5, 7, 2


class Accelerator:
    device = torch.device("cpu")

    def gather(self, value):
        return value

    gather_for_metrics = gather


def drawn(seed=0):
    """Each token's log-probability of the policy (chosen answers, then rejected ones), what counts, the reference's."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2 * PAIRS, PROMPT + TOKENS, dtype=torch.long)
    for row, length in enumerate(torch.randint(1, TOKENS + 1, (2 * PAIRS,), generator=generator).tolist()):
        mask[row, PROMPT : PROMPT + length] = 1
    log_probs = -3 * torch.rand(2 * PAIRS, PROMPT + TOKENS - 1, dtype=torch.float64, generator=generator)
    log_probs = (log_probs * mask[:, 1:]).requires_grad_()
    reference = (log_probs.detach() - torch.randn(log_probs.shape, dtype=torch.float64, generator=generator)).clamp(
        max=0
    )
    return log_probs, mask, (reference * mask[:, 1:]).sum(dim=1)


def answers(log_probs):
    """What TRL's model gives, of which the losses read the log-probabilities."""
    zeros = torch.zeros_like(log_probs).detach()
    return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def settings(**more):
    metrics = {"train": defaultdict(list)}
    known = {
        "model": SimpleNamespace(training=True),
        "accelerator": Accelerator(),
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "_metrics": metrics,
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "beta": 0.3,
    }
    return SimpleNamespace(**{**known, **more})


def our_pairs(log_probs, mask, reference):
    sums, lengths = log_probs.sum(dim=1), mask.sum(dim=1).double()
    return Pairs(*sums.chunk(2), *reference.chunk(2), *lengths.chunk(2))


def agree(ours, theirs, inputs, tolerance=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    mine, yours = (torch.autograd.grad(loss, inputs, retain_graph=True)[0] for loss in (ours, theirs))
    assert yours.abs().max() > 1e-3
    torch.testing.assert_close(mine, yours, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("objective", "loss_type", "smoothing"),
    [
        (preference.DPO(beta=0.3), "sigmoid", 0.0),
        (preference.DPO(beta=0.3, per_token=True), "sigmoid_norm", 0.0),
        (preference.Robust(beta=0.3, smoothing=0.2), "robust", 0.2),
        (preference.Hinge(beta=0.3), "hinge", 0.0),
        (preference.IPO(beta=0.3, per_token=True), "ipo", 0.0),
        (preference.NCA(beta=0.3), "nca_pair", 0.0),
        (preference.BCO(beta=0.3), "bco_pair", 0.0),
        (preference.SPPO(beta=0.3), "sppo_hard", 0.0),
        (preference.APOZero(beta=0.3), "apo_zero", 0.0),
        (preference.APODown(beta=0.3), "apo_down", 0.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_losses_of_pairs_equal_trl_s(objective, loss_type, smoothing):
    from trl.trainer.dpo_trainer import DPOTrainer

    log_probs, mask, reference = drawn()
    trainer = settings(
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        label_smoothing=smoothing, use_weighting=False,
    )  # fmt: skip
    chosen, rejected = reference.chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    theirs = DPOTrainer._compute_loss(trainer, lambda **_: answers(log_probs), inputs, False)
    agree(objective.losses(our_pairs(log_probs, mask, reference)).mean(), theirs, log_probs)


@pytest.mark.parametrize(("loss_type", "expectation"), [("kto", True), ("apo_zero_unpaired", False)])
def test_kto_equals_trl_s(loss_type, expectation):
    """Mismatched answers' log-probabilities are drawn, too; z is above 0, and below it for the second seed."""
    from trl.trainer.kto_trainer import KTOTrainer

    objective = KTO(beta=0.3, desirable_weight=1.3, undesirable_weight=0.7, expectation=expectation)
    for shift in (0.8, -0.8):
        log_probs, mask, reference = drawn(1)
        others, _, reference_of_others = drawn(2)
        others = others.detach().sum(dim=1) + shift
        label = torch.arange(2 * PAIRS) % 3 > 0
        trainer = settings(
            loss_type=loss_type,
            calculate_KL=expectation,
            desirable_weight=1.3,
            undesirable_weight=0.7,
            _compute_kl_logps=lambda model, batch, others=others: others,
        )
        inputs = {
            "input_ids": torch.zeros_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "label": label,
            "ref_logps": reference,
            "ref_KL_logps": reference_of_others,
        }
        theirs = KTOTrainer._compute_loss(trainer, lambda log_probs=log_probs, **_: answers(log_probs), inputs, False)
        point = (others - reference_of_others).mean().clamp(min=0) if expectation else torch.zeros(())
        ours = objective.losses(log_probs.sum(dim=1) - reference, label, point).mean()
        agree(ours, theirs, log_probs)


def test_orpo_s_odds_equal_trl_s():
    """TRL is given mean log-probabilities, and computes in float32: 1e-6 of values below 1."""
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    log_probs, mask, reference = drawn(3)
    pairs = our_pairs(log_probs, mask, reference)
    odds, *_ = ORPOTrainer.odds_ratio_loss(settings(), *pairs.means)
    agree(preference.ORPO(beta=0.3).losses(pairs).mean(), -odds.mean().double(), log_probs, 1e-6)


def test_simpo_equals_trl_s():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    log_probs, mask, reference = drawn(4)
    pairs = our_pairs(log_probs, mask, reference)
    trainer = settings(loss_type="simpo", simpo_gamma=0.4, label_smoothing=0.0, beta=2.0, alpha=0.0)
    losses, *_ = CPOTrainer.cpo_loss(trainer, *pairs.means)
    agree(preference.SimPO(beta=2.0, gamma=0.4).losses(pairs).mean(), losses.mean(), log_probs)


@pytest.mark.parametrize(("loss_type", "per_token"), [("sigmoid", False), ("sigmoid_norm", True)])
def test_a_packed_batch_on_a_llama_equals_trl_s_padded_one(loss_type, per_token):
    """Loss, and the gradient of every weight, of a tiny LLaMA in float32: ours on packed pairs, and transformers' with
    TRL's loss on the same pairs padded to the right. 1e-5 of a loss near 1, 2e-4 of gradients up to 10.
    """
    from trl.trainer.dpo_trainer import DPOTrainer

    model, theirs = tiny.model(), tiny.in_transformers(tiny.model())
    pairs = [Pair(spoken(3 + n, 5 - n % 3, 2 * n), spoken(3 + n, 2 + n, 2 * n + 1)) for n in range(4)]
    flat = reference_log_probs(tiny.model(seed=1), [one for pair in pairs for one in pair.answers])
    both = list(zip(flat[::2], flat[1::2], strict=True))
    batch = pack_pairs([Pair(pair.chosen, pair.rejected, reference=own) for pair, own in zip(pairs, both, strict=True)])
    assert len(batch.tokens) < 8
    ours = preference.DPO(beta=0.3, per_token=per_token)(model, batch).total / 4
    ours.backward()
    answers_ = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    ids, mask = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(getattr(one, name)) for one in answers_], batch_first=True)
        for name in ("ids", "mask")
    )
    logits = theirs(input_ids=ids).logits[:, :-1].log_softmax(dim=-1)
    log_probs = logits.gather(2, ids[:, 1:, None]).squeeze(2) * mask[:, 1:]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask.long(),
        "ref_chosen_logps": torch.stack([chosen.sum() for chosen, _ in both]),
        "ref_rejected_logps": torch.stack([rejected.sum() for _, rejected in both]),
    }
    trainer = settings(
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, lambda **_: answers(log_probs), inputs, False)
    loss.backward()
    assert abs(ours.item() - 0.693147) > 0.01
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    stored = family_of(model.config).table(model)
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(stored[name].write(gradients), weight.grad, rtol=1e-3, atol=2e-4)


def spoken(prompt, length, seed):
    ids = torch.randint(1, 61, (prompt + length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ChatTokens(ids, [False] * prompt + [True] * length)
