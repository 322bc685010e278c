"""GRPO's and RLOO's losses against trl's own code, on random log-probabilities, values and gradients.

trl's method is called with a stand-in for the trainer, whose model gives the log-probabilities; so nothing but the loss
is compared, at all of trl's loss types.
"""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from penjing.alignment.batch import pack
from penjing.alignment.grpo import GRPO, GroupBatch, methods
from penjing.alignment.surrogates import Cispo, Clip
from penjing.tokenizer.chat import ChatTokens

trl = pytest.importorskip("trl", reason="the outside oracle of alignment's losses")

LENGTHS = (4, 8, 1, 6, 5)
LONGEST = 9


def make_batch():
    generator = torch.Generator().manual_seed(0)
    batch = pack(
        [ChatTokens([1] * (length + 2), [False, False] + [True] * length) for length in LENGTHS],
        GroupBatch,
        advantages=torch.tensor([1.5, -0.5, 0.3, -1.2, 0.9], dtype=torch.float64),
        truncated=torch.tensor([False, True, False, False, False]),
    )

    def drawn(spread):
        return spread * torch.randn(sum(LENGTHS), dtype=torch.float64, generator=generator)

    own = drawn(1.0) - 2
    old = own + drawn(0.3)
    return own, replace(
        batch, old_log_probs=old, sampled_log_probs=old + drawn(0.2), reference_log_probs=own + drawn(0.4)
    )


def padded(batch, values):
    """Rows of answers, as trl has them, in the order of the answers."""
    rows = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=values.dtype)
    for number, length in enumerate(LENGTHS):
        rows[number, :length] = values[batch.owner == number]
    return rows


def trl_loss(batch, own, entropy, kind, *, level="token", low=0.2, high=0.2, beta=0.0, cap=None, masked=False):
    from trl.trainer.grpo_trainer import GRPOTrainer

    mask = padded(batch, torch.ones(sum(LENGTHS)))
    if masked:
        mask = mask * ~batch.truncated[:, None]
    log_probs = padded(batch, own)
    correction = (batch.old_log_probs - batch.sampled_log_probs).exp().clamp(max=cap or 1.0)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, padded(batch, entropy), None),
        args=SimpleNamespace(
            use_bias_correction_kl=False, delta=None, steps_per_generation=1, sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        ),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x, sync_gradients=True,
                                    gather_for_metrics=lambda x: x),
        model=SimpleNamespace(training=True),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        loss_type=kind, importance_sampling_level=level, epsilon_low=low, epsilon_high=high, beta=beta,
        max_completion_length=LONGEST, current_gradient_accumulation_steps=1, aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=cap is not None,
        vllm_importance_sampling_correction=True, _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.ones(5, 2, dtype=torch.long), "prompt_mask": torch.ones(5, 2, dtype=torch.long),
        "completion_ids": torch.ones(5, max(LENGTHS), dtype=torch.long), "completion_mask": mask,
        "advantages": batch.advantages, "old_per_token_logps": padded(batch, batch.old_log_probs),
        "ref_per_token_logps": padded(batch, batch.reference_log_probs), "num_items_in_batch": mask.sum(),
        **({} if cap is None else {"importance_sampling_ratio": padded(batch, correction)}),
    }  # fmt: skip
    return GRPOTrainer._compute_loss(trainer, None, inputs)


METHODS = methods(LONGEST)
CASES = {
    **{name: (METHODS[name].objective, {"kind": name}) for name in ("grpo", "bnpo", "dr_grpo", "sapo", "vespo")},
    "dapo": (METHODS["dapo"].objective, {"kind": "dapo", "high": 0.28}),
    "cispo": (GRPO("dapo", Cispo(0.2)), {"kind": "cispo", "high": 1.2}),
    "gspo": (
        GRPO("grpo", Clip(0.05, 0.06), "sequence"), {"kind": "grpo", "level": "sequence", "low": 0.05, "high": 0.06}
    ),
    "luspo": (METHODS["luspo"].objective, {"kind": "luspo", "level": "sequence"}),
    "kl in the loss": (GRPO("grpo", kl=0.3), {"kind": "grpo", "beta": 0.3}),
    "kl by tokens": (GRPO("dapo", kl=0.3), {"kind": "dapo", "beta": 0.3}),
    "corrected": (GRPO("grpo", correction=1.1, kl=0.3), {"kind": "grpo", "cap": 1.1, "beta": 0.3}),
    "corrected cispo": (GRPO("dapo", Cispo(0.2), correction=1.1), {"kind": "cispo", "high": 1.2, "cap": 1.1}),
    "cut answers masked": (GRPO("grpo", mask_truncated=True), {"kind": "grpo", "masked": True}),
    "cut answers masked by tokens": (GRPO("dapo", mask_truncated=True), {"kind": "dapo", "masked": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_equals_trl(case):
    """float64 sums of 24 terms: 1e-12. Ratios lie on both sides of the bounds."""
    objective, theirs = CASES[case]
    own, batch = make_batch()
    entropy = torch.rand(len(own), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine, other = (own.clone().requires_grad_() for _ in range(2))
    loss = objective.loss(batch, mine, entropy)
    value, expected = loss.total / loss.weight, trl_loss(batch, other, entropy, **theirs)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    (gradient,), (wanted,) = torch.autograd.grad(value, [mine]), torch.autograd.grad(expected, [other])
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-3


def test_rloo_equals_trl():
    """An answer is one action: its ratio is the product of its tokens'. Some lie beyond the bounds."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    own, batch = make_batch()
    mine, other = (own.clone().requires_grad_() for _ in range(2))
    loss = METHODS["rloo"].objective.loss(batch, mine, torch.zeros_like(own))
    mask = padded(batch, torch.ones(sum(LENGTHS)))
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded(batch, other), mask, None),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, **_: x), model=SimpleNamespace(training=True),
        epsilon_low=0.2, epsilon_high=0.2, aux_loss_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    ones = torch.ones(5, 2, dtype=torch.long)
    inputs = {
        "prompt_ids": ones, "prompt_mask": ones, "completion_ids": mask.long(), "completion_mask": mask,
        "advantages": batch.advantages, "old_logps": padded(batch, batch.old_log_probs).sum(1),
    }  # fmt: skip
    value, expected = loss.total / loss.weight, RLOOTrainer._compute_loss(trainer, None, inputs)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    (gradient,), (wanted,) = torch.autograd.grad(value, [mine]), torch.autograd.grad(expected, [other])
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-3
