"""Models that score texts against transformers' `...ForSequenceClassification` of every family that has one."""

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification

from penjing.models.families import FAMILIES, family_of
from penjing.models.folder import load_model
from penjing.models.scored import ScoredModel
from penjing.models.scored_folder import load_scored, save_scored, scored_family

from .oracle import FAMILIES as CASES
from .oracle import random_model

ATOL = 1e-4
"""Allowed difference of scores, absolute, float32. They are of size 1 to 10."""
PAD = 96
SCORING = [  # a language model within one that sees is scored as the language model that it is
    name
    for name, family in FAMILIES.items()
    if name in CASES and CASES[name].around is None and hasattr(transformers, scored_family(family).architecture)
]


def theirs_of(family, **changes):
    """transformers' class with random weights, norms and biases included, far from their neutral values."""
    fields = {**CASES[family].config(), "pad_token_id": PAD, "num_labels": 1, **changes}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **fields)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name or ".ln_" in name else 0.0, 0.2)
    return model


def texts():
    """Three texts padded on the right to 23 tokens, and the places of their last tokens in the flattened batch."""
    lengths = torch.tensor([5, 23, 14])
    ids = torch.randint(PAD, (3, 23), generator=torch.Generator().manual_seed(1))
    real = torch.arange(23)[None] < lengths[:, None]
    return torch.where(real, ids, PAD), real, torch.arange(3) * 23 + lengths - 1


def test_the_families_that_people_train_reward_models_of_are_among_those_compared():
    assert {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi3"} <= set(SCORING)


@pytest.mark.parametrize("family", SCORING)
def test_scores_and_all_gradients_equal_transformers_there_and_back(family, tmp_path):
    """transformers saves, we load; we save, transformers loads. Scores within 1e-4, of padded texts in one batch;
    gradients of their sum within 4e-5 of each weight's largest.
    """
    theirs = theirs_of(family)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_scored(tmp_path / "theirs")
    ids, real, last = texts()
    expected = theirs(ids, attention_mask=real.long()).logits.squeeze(-1)
    scores = ours.scores(ids, last, documents=torch.where(real, 0, -1))
    torch.testing.assert_close(scores, expected, atol=ATOL, rtol=0)

    expected.sum().backward()
    scores.sum().backward()
    table = scored_family(FAMILIES[family]).table(ours)
    gradients = {name: weight.grad for name, weight in ours.named_parameters()}
    compared = 0
    for name, weight in theirs.named_parameters():
        gradient = table[name].write(gradients)
        torch.testing.assert_close(gradient, weight.grad, atol=4e-5 * max(weight.grad.abs().max().item(), 0.01), rtol=0)
        compared += gradient.numel()
    assert compared == ours.parameter_count()

    save_scored(tmp_path / "ours", ours, None)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", pad_token_id=PAD).eval()
    assert type(again).__name__ == scored_family(family_of(ours.config)).architecture
    torch.testing.assert_close(again(ids, attention_mask=real.long()).logits.squeeze(-1), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_a_tied_language_model_becomes_a_scored_one_that_transformers_opens(family, tmp_path):
    """The row of a new score is zero, so it is filled by hand; scores within 1e-4."""
    random_model(family, tie_word_embeddings=True).save_pretrained(tmp_path / "language")
    ours = ScoredModel.of(load_model(tmp_path / "language"))
    assert not ours.head.weight.any()
    torch.nn.init.normal_(ours.head.weight)
    save_scored(tmp_path / "scored", ours)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scored", pad_token_id=PAD).eval()
    ids, real, last = texts()
    expected = theirs(ids, attention_mask=real.long()).logits.squeeze(-1)
    scores = ours.scores(ids, last, documents=torch.where(real, 0, -1))
    torch.testing.assert_close(scores, expected, atol=ATOL, rtol=0)
