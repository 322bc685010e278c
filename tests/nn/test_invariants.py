"""Cached = uncached, packed = separate, padded = unpadded, for every composition."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.nn.block import Block

from .compositions import MODELS, build, tokens

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
"""Float32 rounding of logits of size about 5, summed in another order."""

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(1, 19), max_size=5, unique=True), capacity=st.sampled_from([1, 7, 20]))
def test_a_cache_filled_in_any_pieces_gives_the_logits_of_one_pass(name, cuts, capacity):
    """Any split of 20 tokens into chunks and steps, with caches that must grow; the oracle is the pass without one."""
    model, ids = MODELS[name], tokens(2, 20)
    state = model.new_state(2, capacity)
    edges = [0, *sorted(cuts), 20]
    pieces = [model(ids[:, a:b], state=state) for a, b in pairwise(edges)]
    assert state.length == 20
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).detach(), **CLOSE)


@every_model
def test_documents_packed_in_a_row_give_the_logits_of_each_alone(name):
    """Rows of documents of 5 + 1 + 9 and of 7 + 8 tokens; the oracle is each document in a pass of its own."""
    model = MODELS[name]
    ids, lengths = tokens(2, 15), [[5, 1, 9], [7, 8]]
    documents = torch.stack([torch.repeat_interleave(torch.tensor(row)) for row in lengths])
    packed = model(ids, documents=documents)
    for row, parts in enumerate(lengths):
        alone = [model(part[None])[0] for part in ids[row].split(parts)]
        torch.testing.assert_close(packed[row], torch.cat(alone), **CLOSE)


@every_model
def test_padding_on_the_left_changes_nothing(name):
    """Rows of 4, 9 and 12 tokens padded to 12 and continued 3 steps in a cache; the oracle is each row alone."""
    model, ids, lengths = MODELS[name], tokens(3, 15), [4, 9, 12]
    documents = torch.tensor([[-1] * (12 - n) + [0] * n for n in lengths])
    state = model.new_state(3, 15)
    pieces = [model(ids[:, :12], documents=documents, state=state)]
    pieces += [model(ids[:, i : i + 1], state=state) for i in range(12, 15)]
    logits = torch.cat(pieces, dim=1)
    for row, n in enumerate(lengths):
        alone = model(ids[row : row + 1, 12 - n :])[0].detach()
        torch.testing.assert_close(logits[row, 12 - n :], alone, **CLOSE)


@every_model
def test_no_token_sees_a_later_one(name):
    """Changing the last 6 of 14 tokens leaves the logits of the first 8 as they were, up to rounding."""
    model, ids = MODELS[name], tokens(1, 14)
    other = torch.cat([ids[:, :8], (ids[:, 8:] + 1) % 61], dim=1)
    torch.testing.assert_close(model(other)[:, :8], model(ids)[:, :8], **CLOSE)
    assert not torch.allclose(model(other)[:, 8:], model(ids)[:, 8:], atol=1e-2)


def test_given_positions_are_used_and_gone_on_from():
    """Rope sees distances alone: positions shifted by 5 give the same logits, in a pass and in a cache."""
    model, ids = build(), tokens(2, 10)
    expected = model(ids)
    torch.testing.assert_close(model(ids, positions=torch.arange(5, 15)[None]), expected, **CLOSE)
    state = model.new_state(2)
    model(ids[:, :6], positions=torch.arange(5, 11)[None], state=state)
    torch.testing.assert_close(model(ids[:, 6:], state=state), expected[:, 6:].detach(), **CLOSE)
    assert state.positions.tolist() == [list(range(5, 15))]


def test_a_state_forgets_what_is_truncated():
    """After 6 tokens, 5 wrong ones and a truncation, the logits go on as if those had never been."""
    model, ids = build(), tokens(2, 10)
    state = model.new_state(2)
    model(ids[:, :6], state=state)
    model(tokens(2, 5, seed=9), state=state)
    state.truncate(6)
    torch.testing.assert_close(model(ids[:, 6:], state=state), model(ids)[:, 6:].detach(), **CLOSE)
    state.truncate(0)
    torch.testing.assert_close(model(ids, state=state), model(ids).detach(), **CLOSE)


def test_rows_of_a_state_can_be_reordered_repeated_and_dropped():
    """Padded rows 0, 1, 2 become rows 2, 0, 2; the oracle is each row alone."""
    model, ids, lengths = build(), tokens(3, 8), [3, 8, 5]
    documents = torch.tensor([[-1] * (8 - n) + [0] * n for n in lengths])
    state = model.new_state(3)
    model(ids, documents=documents, state=state)
    rows = torch.tensor([2, 0, 2])
    state.select(rows)
    new = tokens(3, 2, seed=4)
    logits = model(new, state=state)
    for line, row in enumerate(rows.tolist()):
        whole = torch.cat([ids[row, 8 - lengths[row] :], new[line]])[None]
        torch.testing.assert_close(logits[line], model(whole)[0, -2:].detach(), **CLOSE)


def test_a_pass_with_a_state_has_no_gradient():
    model = build()
    assert not model(tokens(1, 4), state=model.new_state(1)).requires_grad


@pytest.mark.parametrize("name", ["grouped heads", "window of 3", "norms on queries and keys", "learned positions"])
def test_bfloat16_keeps_the_invariants(name):
    """In bfloat16, cached, padded and packed passes differ from float32 no more than twice as much as a plain pass."""
    model = MODELS[name]
    ids = tokens(2, 40)
    exact = model(ids).detach()
    half = copy.deepcopy(model).bfloat16()
    allowed = 2 * (half(ids) - exact).abs().mean()
    state = half.new_state(2)
    stepped = torch.cat([half(ids[:, a:b], state=state) for a, b in ((0, 17), (17, 30), (30, 31), (31, 40))], dim=1)
    assert (stepped - exact).abs().mean() < allowed
    packed = half(ids, documents=torch.zeros(2, 40, dtype=torch.long))
    assert (packed - exact).abs().mean() < allowed


@pytest.mark.parametrize("name", MODELS)
def test_wanted_tokens_alone_are_the_same_and_have_the_same_gradients(name):
    """Within 1e-9 in float64: products of fewer rows may be summed in another order."""
    model = copy.deepcopy(MODELS[name]).double()
    ids, places = tokens(2, 7), torch.tensor([1, 2, 9, 13])
    found = []
    for hidden in (model.hidden(ids, wanted=places), model.hidden(ids).flatten(0, 1)[places]):
        gradients = torch.autograd.grad(hidden.square().sum(), list(model.parameters()), allow_unused=True)
        found.append([hidden, *(g for g in gradients if g is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_block_that_knows_nothing_of_wanted_tokens_is_served():
    class Plain(Block):
        def forward(self, x, sequence, state=None):
            x = x + self.mixer(self.mixer_norm(x), sequence, state)
            return x + self.mlp(self.mlp_norm(x))

    model = build()
    ids, places = tokens(2, 7), torch.tensor([3, 8])
    expected = model.hidden(ids)
    for index, block in enumerate(model.blocks):
        plain = Plain(block.config, model.config.width)
        plain.load_state_dict(block.state_dict())
        model.blocks[index] = plain
    torch.testing.assert_close(model.hidden(ids, wanted=places), expected.flatten(0, 1)[places])
