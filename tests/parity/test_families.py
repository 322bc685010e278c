"""Every family against transformers, with random weights and at least twelve configurations each."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from penjing.models.families import FAMILIES, family_of
from penjing.models.folder import load_model, save
from penjing.nn.cross_entropy import cross_entropy

from .oracle import CASES, pair

ATOL = 1e-4
"""Allowed difference of logits, absolute, float32. They are of size 1 to 20."""
GRADIENT = 2e-5
"""Allowed difference of a weight's gradient, relative to the largest of that weight, float32."""


def tokens(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(97, (batch, seq), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "case"), CASES)
def test_logits_and_all_gradients_equal_transformers(family, case, tmp_path):
    """Logits within 1e-4, the loss within 1e-5, each gradient within 2e-5 of its largest number; 3 rows of 37."""
    theirs, ours = pair(family, case, tmp_path)
    ids = tokens(3, 37)
    expected = theirs(ids).logits
    torch.testing.assert_close(ours(ids), expected, atol=ATOL, rtol=0)

    loss = F.cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    mine = cross_entropy(ours.hidden(ids)[:, :-1], ours.head, ids[:, 1:]) / ids[:, 1:].numel()
    mine.backward()
    torch.testing.assert_close(mine, loss, atol=0, rtol=1e-5)
    gradients = {name: weight.grad for name, weight in ours.named_parameters()}
    table = FAMILIES[family].table(ours)
    compared = 0
    for name, weight in theirs.named_parameters():
        gradient = table[name].write(gradients)
        torch.testing.assert_close(gradient, weight.grad, atol=GRADIENT * weight.grad.abs().max().item(), rtol=0)
        compared += gradient.numel()
    assert compared == ours.parameter_count()


@pytest.mark.parametrize(("family", "case"), CASES)
def test_a_saved_folder_opens_in_transformers_and_computes_the_same(family, case, tmp_path):
    """There and back: transformers saves, we load and save, transformers loads. Logits are equal bit for bit."""
    theirs, ours = pair(family, case, tmp_path / "theirs")
    save(tmp_path / "ours", ours)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    ids = tokens(2, 29)
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=0, rtol=0)
    assert load_model(tmp_path / "ours").config == ours.config
    assert family_of(ours.config).model_type == family


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("family", "case"),
    [
        ("llama", "grouped heads"),
        ("llama", "yarn"),
        ("qwen3", "one key head"),
        ("qwen3", "window in the upper layer"),
        ("gpt2", "plain"),
        ("gpt2", "scores scaled by layer"),
    ],
)
def test_padded_rows_equal_transformers(family, case, side, tmp_path):
    """Logits of the real tokens within 1e-4 when rows of 5, 11 and 17 tokens are padded to one length."""
    theirs, ours = pair(family, case, tmp_path)
    ids, lengths = tokens(3, 17), torch.tensor([5, 11, 17])
    places = torch.arange(17)[None]
    real = places < lengths[:, None] if side == "right" else places >= 17 - lengths[:, None]
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=real.long(), position_ids=positions).logits
    documents = torch.where(real, 0, -1)
    torch.testing.assert_close(ours(ids, documents=documents)[real], expected[real], atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    ("family", "case"),
    [
        ("llama", "grouped heads"),
        ("llama", "linear"),
        ("qwen3", "one key head"),
        ("qwen3", "window in the upper layer"),
        ("gpt2", "plain"),
    ],
)
def test_greedy_decoding_with_a_cache_equals_transformers(family, case, tmp_path):
    """Token for token over 20 steps; the oracle is transformers' generate with its own cache."""
    theirs, ours = pair(family, case, tmp_path)
    prompt = tokens(2, 7)
    expected = theirs.generate(prompt, do_sample=False, max_new_tokens=20, pad_token_id=0, eos_token_id=None)
    state = ours.new_state(2)
    ids, step = prompt, prompt
    for _ in range(20):
        step = ours(step, state=state)[:, -1:].argmax(-1)
        ids = torch.cat([ids, step], dim=1)
    assert ids.tolist() == expected.tolist()


def test_bfloat16_stays_as_close_to_float32_as_transformers_does(tmp_path):
    """The mean error of our bfloat16 logits is at most 1.2 times that of transformers' bfloat16 logits."""
    theirs, ours = pair("qwen3", "grouped heads", tmp_path)
    ids = tokens(4, 60)
    exact = theirs(ids).logits
    their_error = (theirs.bfloat16()(ids).logits.float() - exact).abs().mean()
    our_error = (ours.bfloat16()(ids) - exact).abs().mean()
    assert our_error < 1.2 * their_error
