"""Preferences as tokens: what counts, what is left out, which answers are mismatched; the reference's cache."""

import pytest
import torch

from penjing.alignment.kto import KTO
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.pairs import Pair, pack_judged, pack_pairs, render_judged, render_pairs
from penjing.alignment.preference import DPO
from penjing.alignment.reference import cached_log_probs, computed_in, reference_log_probs
from penjing.data.preferences import Comparison, Judged
from penjing.errors import ConfigError, DataError
from penjing.tokenizer.tokenizer import Tokenizer
from tests.alignment.preference_cases import answer, items_for, moved_model
from tests.alignment.test_log_probs import make_model
from tests.data.conftest import BYTES

END = 258  # <|im_end|>


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.around(BYTES)


def says(*texts, first=0):
    """Messages in which user and assistant take turns."""
    return tuple({"role": ("user", "assistant")[(first + i) % 2], "content": text} for i, text in enumerate(texts))


def compare(chosen, rejected, *prompt, **more):
    return Comparison(says(*(prompt or ("Hi",))), says(chosen, first=1), says(rejected, first=1), **more)


def counted(tokens):
    return [id for id, counts in zip(tokens.ids, tokens.mask, strict=True) if counts]


def test_only_the_answer_counts_not_what_was_answered_before(tokenizer):
    """Oracle: the texts' bytes and the end of the turn; an earlier answer, alike to the letter, is the prompt's."""
    prompt = ("你好", "yes", "2+2?")
    (pair,), rendering = render_pairs([compare("yes", "no", *prompt, margin=2.0, origin="here")], tokenizer, 200)
    assert counted(pair.chosen) == [*b"yes", END]
    assert counted(pair.rejected) == [*b"no", END]
    whole = tokenizer.chat.render([*says(*prompt), *says("yes", first=1)])
    assert pair.chosen.ids == whole.ids
    assert sum(whole.mask) == 2 * (len("yes") + 1)
    assert (pair.margin, pair.origin) == (2.0, "here")
    assert rendering.counted == len("yes") + len("no") + 2


def test_a_call_of_a_tool_counts_and_its_result_does_not(tokenizer):
    call, result = {"role": "assistant", "content": "<tool_call>x</tool_call>"}, {"role": "tool", "content": "7"}
    chosen = (call, result, *says("7", first=1))
    ((pair,), _) = render_pairs([Comparison(says("?"), chosen, says("8", first=1))], tokenizer, 200)
    assert counted(pair.chosen) == [*b"<tool_call>x</tool_call>", END, *b"7", END]


def test_what_cannot_be_learned_from_is_counted_and_left_out(tokenizer):
    pairs = [
        compare("yes", "no"),
        compare("yes", "yes"),
        compare(" ", "no"),
        compare("yes", "no" * 100),
        compare("yes", "no", "a" * 200),
    ]
    kept, rendering = render_pairs(pairs, tokenizer, 60)
    assert len(kept) == rendering.used == 1
    assert (rendering.equal, rendering.empty, rendering.too_long) == (1, 1, 2)
    assert "1 of equal answers, 1 with an empty one, 2 too long" in str(rendering)
    both = rendering + rendering
    assert (both.used, both.too_long, both.tokens) == (2, 4, 2 * rendering.tokens)
    length = len(kept[0].chosen.ids)
    assert render_pairs(pairs[:1], tokenizer, length - 1)[1].used == 1
    with pytest.raises(DataError, match=rf"no preference can .* 1 are longer than the context of {length - 2}"):
        render_pairs(pairs[:1], tokenizer, length - 2)


def test_a_tokenizer_without_a_template_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat", None)
    with pytest.raises(ConfigError, match="no chat template"):
        render_pairs([compare("yes", "no")], tokenizer, 60)


def test_each_judged_answer_is_compared_with_one_to_the_next_other_prompt(tokenizer):
    """Both answers of a pair have one prompt, so the mismatched one is the next pair's; in a circle, cut to the row."""
    judged = [
        Judged(says(prompt), says(text, first=1), good)
        for prompt, text, good in (("1", "a", True), ("1", "b", False), ("2", "c" * 50, True), ("3", "d", True))
    ]
    found, rendering = render_judged(judged, tokenizer, 90)
    assert rendering.used == 4
    assert [one.desirable for one in found] == [True, False, True, True]
    prompts = [bytes(id for id in one.mismatched.ids if id < 256).split(b"user\n")[1][:1] for one in found]
    assert prompts == [b"1", b"1", b"2", b"3"]
    answers = [bytes(id for id in counted(one.mismatched) if id < 256) for one in found]
    assert answers == [b"c" * 50, b"c" * 50, b"d", b"a"]
    shortest = len(found[2].answer.ids) - 1
    cut, _ = render_judged(judged, tokenizer, shortest)
    assert max(len(one.mismatched.ids) for one in cut) <= shortest + 1
    with pytest.raises(DataError, match="all answers are to the same prompt"):
        render_judged(judged[:2], tokenizer, 90)


def test_a_batch_brings_each_token_s_own_reference(tokenizer):
    """The reference's numbers in the order of the batch equal what its own pass over the batch gives; float32 sums of
    rows of other lengths, 1e-5.
    """
    batch = pack_pairs(items_for(DPO()))
    expected, _ = answer_log_probs(make_model(), batch)
    torch.testing.assert_close(batch.reference, expected.detach(), rtol=0, atol=1e-5)
    assert batch.pairs == 6
    assert batch.margins.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    moved = batch.to("cpu")
    assert torch.equal(moved.reference, batch.reference)


def test_a_judged_batch_is_moved_with_its_mismatched_answers():
    batch = pack_judged(items_for(KTO())).to("meta")
    assert {batch.tokens.device.type, batch.mismatched.tokens.device.type, batch.mismatched.reference.device.type} == {
        "meta"
    }
    assert batch.counted.device.type == batch.mismatched.counted.device.type == "meta"


def test_the_reference_s_numbers_do_not_depend_on_batches_and_keep_the_answers_order():
    """Answers of lengths 1 to 9, in batches of one and of all; 1e-5."""
    answers = [answer(3, 1 + 5 * i % 9, i) for i in range(9)]
    done = []
    alone = reference_log_probs(make_model(), answers, tokens=1, progress=lambda *at: done.append(at))
    together = reference_log_probs(make_model(), answers)
    assert done[-1] == (9, 9)
    assert [len(one) for one in alone] == [sum(one.mask) for one in answers]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert not one.requires_grad


def test_the_cache_is_read_for_the_same_and_made_anew_for_anything_else(tmp_path, monkeypatch):
    path = tmp_path / "reference.safetensors"
    answers = [answer(3, 4, i) for i in range(3)]
    asked = []

    def count(model, these, **options):
        asked.append(len(these))
        return reference_log_probs(model, these, **options)

    monkeypatch.setattr("penjing.alignment.reference.reference_log_probs", count)
    assert computed_in(path) is None
    first = cached_log_probs(path, make_model(), answers)
    second = cached_log_probs(path, make_model(), answers)
    assert asked == [3]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert computed_in(path) == "float32"
    cached_log_probs(path, moved_model(), answers)
    cached_log_probs(path, moved_model(), answers[:2])
    assert asked == [3, 3, 2]
    path.write_bytes(path.read_bytes()[:50])
    assert computed_in(path) is None
    cached_log_probs(path, moved_model(), answers[:2])
    assert asked == [3, 3, 2, 2]


def test_a_pair_is_known_by_its_tokens_alone():
    """`repr` tells one data set from another for a resumed run; the reference's numbers follow from the rest."""
    plain = Pair(answer(1, 2, 0), answer(1, 2, 1))
    assert repr(plain) == repr(Pair(plain.chosen, plain.rejected, reference=(torch.ones(2), torch.ones(2))))
