"""What the look inside shows is what the model computes: against softmax, against transformers, by its own sums."""

import math

import pytest
import torch

from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.studio.look import LookError, attention, look, read
from tests.inference import tiny

MESSAGES = [
    {"role": "system", "content": "the thing"},
    {"role": "user", "content": "the 盆景 in a hut?"},
    {"role": "assistant", "content": "the 盆 heat, in an"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny.model(tokenizer.vocab_size, context=128)


def test_probabilities_are_the_models_softmax(model, tokenizer):
    """Oracle: softmax of the logits of one plain pass, float32; 1e-6 for the other order of sums."""
    reading = read(model, tokenizer, MESSAGES)
    with torch.no_grad():
        expected = model(torch.tensor([reading.ids]))[0].softmax(-1)  # (seq, vocab)
    seen = look(model, tokenizer, reading, top=5)
    assert [one.place for one in seen] == reading.reply
    for one in seen:
        before = expected[one.place - 1]
        assert one.probability == pytest.approx(float(before[one.id]), abs=1e-6)
        assert one.surprise == pytest.approx(-math.log2(before[one.id]), abs=1e-4)
        assert one.uncertainty == pytest.approx(float(-(before * before.log2()).sum()), abs=1e-4)
        assert one.rank == int((before > before[one.id]).sum())
        best = before.topk(5)
        assert [other.id for other in one.top] == best.indices.tolist()
        assert [other.probability for other in one.top] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_the_tokens_of_a_reply_spell_it_and_end_its_turn(model, tokenizer):
    reading = read(model, tokenizer, MESSAGES)
    texts = [reading.text[place] for place in reading.reply]
    assert "".join(texts) == MESSAGES[-1]["content"] + "<|im_end|>"
    assert "".join(reading.text).startswith("<|im_start|>system\nthe thing<|im_end|>")
    assert [tokenizer.decode([reading.ids[place]]) for place in reading.reply][-1] == "<|im_end|>"


@pytest.mark.parametrize("window", [None, 7])
def test_attention_is_that_of_transformers(tokenizer, window):
    """All layers and heads of every query; fp32, 1e-5 for another order of operations."""
    model = tiny.model(tokenizer.vocab_size, context=128, window=window)
    reading = read(model, tokenizer, MESSAGES)
    if window is None:
        theirs = tiny.in_transformers(model)
        theirs.set_attn_implementation("eager")
        with torch.no_grad():
            expected = theirs(torch.tensor([reading.ids]), output_attentions=True).attentions
    for place in (0, 1, len(reading.ids) // 2, len(reading.ids) - 1):
        sharpest = []
        for layer in range(2):
            seen = attention(model, reading, place, layer)
            assert len(seen.text) == place + 1
            ours = torch.tensor(seen.weights)
            assert ours.sum(-1) == pytest.approx(torch.ones(4), abs=1e-4)
            if window is None:
                torch.testing.assert_close(ours, expected[layer][0, :, place, : place + 1], atol=1e-5, rtol=0)
            else:
                assert (ours[:, : max(0, place - window + 1)] == 0).all()
            sharpest.append(ours.amax(-1).tolist())
        for row, expect in zip(seen.sharpest, sharpest, strict=True):
            assert row == pytest.approx(expect, abs=2e-6)


def test_the_weights_give_what_the_layer_gives(model, tokenizer):
    """The mixture of values by the weights that are shown is what the layer writes: they are no by-product; 1e-5."""
    reading = read(model, tokenizer, MESSAGES)
    place, mixed, values = len(reading.ids) - 1, [], []
    mixer = model.blocks[0].mixer
    mixer.value.register_forward_hook(lambda module, given, made: values.append(made))
    mixer.output.register_forward_hook(lambda module, given, made: mixed.append(given[0]))
    try:
        with torch.no_grad():
            x = model.embedding(torch.tensor([reading.ids]))
            block = model.blocks[0]
            v = block.mixer.value(block.mixer_norm(x))[0]
            model(torch.tensor([reading.ids]))
    finally:
        mixer.value._forward_hooks.clear()
        mixer.output._forward_hooks.clear()
    weights = torch.tensor(attention(model, reading, place, 0).weights)  # (heads, keys)
    heads = v.unflatten(-1, (mixer.kv_heads, -1)).repeat_interleave(mixer.heads // mixer.kv_heads, dim=1)
    expected = torch.einsum("hk,khd->hd", weights, heads).flatten()
    torch.testing.assert_close(mixed[-1][0, -1], expected, atol=1e-5, rtol=0)


def test_looking_changes_nothing(model, tokenizer):
    """The model gives the same logits after a look as before, bit for bit, and is in the mode that it was in."""
    reading = read(model, tokenizer, MESSAGES)
    ids = torch.tensor([reading.ids])
    with torch.no_grad():
        before = model(ids)
        attention(model, reading, 5, 1)
        look(model, tokenizer, reading)
        assert torch.equal(model(ids), before)


def test_a_conversation_longer_than_the_context_loses_its_oldest_turns(tokenizer):
    model = tiny.model(tokenizer.vocab_size, context=96)
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    reading = read(model, tokenizer, [{"role": "system", "content": "be"}, *turns * 4])
    assert len(reading.ids) <= 96
    assert "".join(reading.text).startswith("<|im_start|>system\nbe")
    assert "".join(reading.text[place] for place in reading.reply).startswith("an answer")
    with pytest.raises(LookError, match="longer than the model's context"):
        read(model, tokenizer, [{"role": "user", "content": "x" * 90}, turns[1]])


def test_refuses_what_it_cannot_show(model, tokenizer):
    with pytest.raises(LookError, match="must be the assistant's"):
        read(model, tokenizer, MESSAGES[:2])
    reading = read(model, tokenizer, MESSAGES)
    with pytest.raises(LookError, match="layer 2 is wanted of 2"):
        attention(model, reading, 3, 2)
    with pytest.raises(LookError, match="is wanted of"):
        attention(model, reading, len(reading.ids), 0)


def test_a_layer_without_attention_is_named(tokenizer):
    """A model may mix attention with other mixers: those have no weights, the others still do."""
    model = tiny.model(tokenizer.vocab_size, context=128)

    class Nothing(torch.nn.Module):
        def forward(self, x, sequence, state=None):
            return torch.zeros_like(x)

        def new_state(self, *arguments, **named):
            return None

    model.blocks[1].mixer = Nothing()
    reading = read(model, tokenizer, MESSAGES)
    seen = attention(model, reading, 4, 0)
    assert [len(row) for row in seen.sharpest] == [4, 0]
    with pytest.raises(LookError, match="layer 1 is no attention \\(Nothing\\)"):
        attention(model, reading, 4, 1)
    assert isinstance(model.blocks[0].mixer, Attention)
    assert isinstance(model.blocks[0], Block)


def test_a_token_that_is_a_piece_of_a_character_is_shown_by_its_bytes(model, tokenizer):
    seen = look(model, tokenizer, read(model, tokenizer, MESSAGES), top=tokenizer.vocab_size)
    written = {other.id: other.text for other in seen[0].top}
    assert written[tokenizer.encode("盆")[0]] == "\\xe7\\x9b"
    assert written[tokenizer.encode("the")[0]] == "the"
    assert not any("\ufffd" in text for text in written.values())
