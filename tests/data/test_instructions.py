"""Instruction batches: what counts is exactly what the assistant says and its end-of-turn, each time once an epoch."""

import json
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.data.instructions import Conversation, InstructionLoader, RenderedConversations, read
from penjing.data.loader import validation_batches
from penjing.errors import ConfigError, DataError
from penjing.tokenizer.chat import CHATML
from penjing.tokenizer.tokenizer import Tokenizer

from .conftest import BYTES

END = 258  # <|im_end|>


def talk(*texts: str, system: str = "", origin: str = "here") -> Conversation:
    """A conversation in which user and assistant take turns."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return Conversation(tuple(messages), origin)


def build(conversations, tokenizer, **options) -> InstructionLoader:
    return InstructionLoader.Config(**({"batch": 2, "context": 120, "seed": 0} | options)).build(
        conversations, tokenizer
    )


def call(name: str, **arguments) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def learned(batches) -> list[list[int]]:
    """The runs of targets that count, document by document."""
    runs: list[list[int]] = []
    for batch in batches:
        for targets, mask in zip(batch.targets.tolist(), batch.mask.tolist(), strict=True):
            before = False
            for target, counts in zip(targets, mask, strict=True):
                if counts and not before:
                    runs.append([])
                if counts:
                    runs[-1].append(target)
                before = counts
    return runs


def test_a_row_by_hand(tokenizer):
    loader = build([talk("Hi", "Yo")], tokenizer, context=30, batch=1)
    batch = next(loader)
    text = [257, *b"user\nHi", END, *b"\n", 257, *b"assistant\nYo", END, *b"\n"]
    assert batch.tokens[0].tolist() == [*text[:-1], *[0] * (31 - len(text))]
    assert batch.targets[0][batch.mask[0]].tolist() == [*b"Yo", END]
    assert loader.rendering.conversations == 1
    assert loader.rendering.counted == 3


turns = st.lists(st.text(alphabet="ab<|im_end|>\n", max_size=12), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(st.lists(turns, min_size=1, max_size=6), st.sampled_from(["best_fit", "padded"]), st.integers(1, 3))
def test_the_loss_covers_each_answer_and_its_end_exactly_once(tokenizer, talks, packing, batch):
    """Oracle: the texts of the assistant; also what they say that looks like a token does not become one."""
    conversations = [talk(*texts, system="S" * (i % 2)) for i, texts in enumerate(talks)]
    answers = [texts[1::2] for texts in talks if any(text.strip() for text in texts[1::2])]
    expected = sorted([*answer.encode(), END] for texts in answers for answer in texts if answer.strip())
    if not answers:
        with pytest.raises(DataError, match="no conversation can be used"):
            build(conversations, tokenizer)
        return
    rendered = RenderedConversations(conversations, tokenizer, 400)
    found = learned(validation_batches(rendered, 400, batch, packing=packing))
    assert sorted(found) == expected
    assert rendered.rendering.counted == sum(map(len, expected))
    assert rendered.rendering.unanswered == len(talks) - len(answers)
    assert rendered.rendering.empty == sum(map(len, answers)) - len(expected)
    for batch_ in validation_batches(rendered, 400, batch, packing=packing):
        assert batch_.mask.any(dim=1).all()  # no row without anything to learn


def test_long_conversations_are_cut_after_the_last_answer_that_fits_or_left_out(tokenizer):
    """In each context as many answers as fit; oracle: the lengths of the rendered prefixes."""
    texts = ["question", "answer", "q" * 20, "a" * 10, "?", "!"]
    prefixes = [len(tokenizer.chat.render(talk(*texts[:n]).messages).ids) for n in (2, 4, 6)]
    for context in range(10, prefixes[-1] + 2):
        fitting = sum(length - 1 <= context + 1 for length in prefixes)  # without the line end after the answer
        if not fitting:
            with pytest.raises(DataError, match=f"1 are longer than the context of {context}, 0 have no answer"):
                build([talk(*texts)], tokenizer, context=context)
            continue
        loader = build([talk(*texts)], tokenizer, context=context, batch=1)
        answers = [[*text.encode(), END] for text in texts[1 : 2 * fitting : 2]]
        assert learned([next(loader)]) == answers
        assert loader.rendering.cut == (fitting < 3)


def test_the_rendering_counts_what_happened(tokenizer):
    conversations = [talk("a", "b"), talk("a" * 200, "b"), talk("a"), talk("a", " "), talk("a", "b", "c" * 200, "d")]
    loader = build(conversations, tokenizer, context=80)
    rendering = loader.rendering
    assert (rendering.conversations, rendering.cut, rendering.too_long, rendering.unanswered) == (2, 1, 1, 2)
    assert str(rendering).startswith(
        "2 conversations (1 cut to the context), 45 tokens (4 of the assistant's); left out: 1"
    )


def test_what_is_not_to_be_learned_is_read_and_not_counted(tokenizer):
    """Only the last turn, with its calls; not what has the weight 0; not an empty answer."""
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": " "},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e", "weight": 0},
        {"role": "user", "content": "f"},
        {"role": "assistant", "content": "", "tool_calls": [call("g")]},
        {"role": "tool", "content": "h"},
        {"role": "assistant", "content": "i"},
    ]
    written = [*b'<tool_call>{"name": "g", "arguments": {}}</tool_call>', END]
    conversations = [Conversation(tuple(messages), "here")]
    loader = build(conversations, tokenizer, context=400, batch=1)
    assert learned([next(loader)]) == [[*b"b", END], written, [*b"i", END]]
    assert loader.rendering.empty == 1
    assert "1 empty answers not learned" in str(loader.rendering)
    config = InstructionLoader.Config(batch=1, context=400)
    assert learned([next(config.build(conversations, tokenizer, turns="last"))]) == [written, [*b"i", END]]
    with pytest.raises(DataError, match="1 are longer than the context of 40, 0 have no answer"):
        InstructionLoader.Config(batch=1, context=40).build(conversations, tokenizer, turns="last")
    with pytest.raises(DataError, match="0 are longer than the context of 120, 1 have no answer"):
        build([Conversation(tuple(messages[4:6]))], tokenizer)


def test_sources_are_mixed_by_weights(tokenizer):
    """Oracle: after 40 rows, each source is within one row of its share; what became of both is added up."""
    few = RenderedConversations([talk("q", "few")], tokenizer, 48)
    many = RenderedConversations([talk("q", "many"), talk("q", "more"), talk("q")], tokenizer, 48)
    loader = InstructionLoader.Config(batch=4, context=48, weights=(3, 1), packing="padded").over([few, many])
    rows = [bytes(run[:-1]) for run in learned(next(loader) for _ in range(10))]
    assert rows.count(b"few") == 30
    assert rows.count(b"many") + rows.count(b"more") == 10
    assert loader.rendering == few.rendering + many.rendering
    assert (loader.rendering.conversations, loader.rendering.unanswered) == (3, 1)


def test_what_the_template_refuses_is_left_out_and_said(tokenizer):
    source = "{% if messages[0].content == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}" + CHATML
    strict = Tokenizer(BYTES, special_tokens=tokenizer.special_tokens, chat_template=source)
    rendered = RenderedConversations([talk("bad", "b", origin="line 1"), talk("a", "b")], strict, 80)
    assert (rendered.rendering.conversations, rendered.rendering.refused) == (1, 1)
    assert "line 1" in rendered.refusal
    assert "no bad words" in rendered.refusal
    assert "1 refused by the chat template" in str(rendered.rendering)
    with pytest.raises(DataError, match=r"1 are refused by the chat template .line 1: .*no bad words"):
        RenderedConversations([talk("bad", "b", origin="line 1")], strict, 80)


def test_a_template_in_which_nothing_ends_an_answer_is_refused(tokenizer):
    source = "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    endless = Tokenizer(BYTES, special_tokens=tokenizer.special_tokens, eos="<|endoftext|>", chat_template=source)
    with pytest.raises(ConfigError, match="no special token, so a model could not learn to stop"):
        build([talk("a", "b")], endless)


def test_where_the_next_turn_ends_an_answer_the_last_one_ends_with_the_text(tokenizer):
    """As GLM-4's: the oracle is written by hand; 256 ends a text, 257 begins the user's turn, 258 the assistant's."""
    source = (
        "{% for message in messages %}{{ '<|im_start|>' if message.role == 'user' else '<|im_end|>' }}"
        "{{ message.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_end|>' }}{% endif %}"
    )
    glm = Tokenizer(BYTES, special_tokens=tokenizer.special_tokens, eos="<|endoftext|>", chat_template=source)
    loader = build([talk("a", "b", "c", "d")], glm, batch=1)
    batch = next(loader)
    assert batch.tokens[0, :8].tolist() == [257, ord("a"), 258, ord("b"), 257, ord("c"), 258, ord("d")]
    assert learned([batch]) == [[ord("b"), 257], [ord("d"), 256]]


def test_resumed_is_uninterrupted_and_other_conversations_are_refused(tokenizer):
    conversations = [talk("q" * (i % 30), "a" * (i * 7 % 40 + 1), origin=f"talk {i}") for i in range(50)]
    loader = build(conversations, tokenizer)
    for _ in range(23):
        next(loader)
    saved = json.loads(json.dumps(loader.state_dict()))
    resumed = build(conversations, tokenizer)
    resumed.load_state_dict(saved)
    for _ in range(30):
        one, two = next(loader), next(resumed)
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.mask, two.mask)
        assert one.origin == two.origin
        assert "the first from talk " in one.origin
    assert loader.epoch > 1
    with pytest.raises(DataError, match="the data has changed"):
        build(conversations[:-1], tokenizer).load_state_dict(saved)
    with pytest.raises(DataError, match="the data has changed"):
        build([talk("q", "a"), *conversations[1:]], tokenizer).load_state_dict(saved)


def test_tools_are_shown_to_the_assistant_and_its_calls_are_learned(tokenizer):
    written = '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>'
    messages = [
        {"role": "user", "content": "2+3?"},
        {"role": "assistant", "content": "", "tool_calls": [call("add", a=2)]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "Five."},
    ]
    conversation = Conversation(tuple(messages), "here", ({"name": "add"},))
    loader = build([conversation], tokenizer, context=400, batch=1)
    batch = next(loader)
    assert learned([batch]) == [[*written.encode(), END], [*b"Five.", END]]
    assert b'{"name": "add"}' in tokenizer.decode_bytes(batch.tokens[0].tolist())


def test_what_cannot_be_built_is_said(tokenizer):
    with pytest.raises(ConfigError, match="stream packing cuts conversations anywhere"):
        build([talk("a", "b")], tokenizer, packing="stream")
    with pytest.raises(ConfigError, match="no chat template"):
        build([talk("a", "b")], Tokenizer(BYTES))
    with pytest.raises(DataError, match="no conversation can be used"):
        build([], tokenizer)


def test_real_conversations_in_three_layouts(data, tokenizer):
    """What counts, as text, is answers of the file, each with its end; 50 conversations of each layout."""
    for file in (
        "llamafactory/glaive_toolcall_en_demo.json",
        "open_instruct_sft_sample.jsonl",
        "llamafactory/identity.json",
    ):
        conversations = list(islice(read(data / "instruct" / file), 50))
        rendered = RenderedConversations(conversations, tokenizer, 8192)
        assert rendered.rendering.conversations > 0.9 * len(conversations)
        assert rendered.rendering.cut + rendered.rendering.too_long < 0.1 * len(conversations)
        texts = {m["content"] for c in conversations for m in c.messages if m["role"] == "assistant"}
        found = learned(validation_batches(rendered, 8192, 4, packing="best_fit"))
        said = {tokenizer.decode(run[:-1]) for run in found}
        assert {text for text in said if "<tool_call>" not in text} <= texts
        assert all(run[-1] == END for run in found)


@pytest.mark.slow
def test_processes_render_the_same(tokenizer):
    conversations = [
        Conversation(({"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": "A number. " * n}))
        for n in range(1, 1200)
    ]
    told: list[int] = []
    here = RenderedConversations(conversations, tokenizer, 64)
    there = RenderedConversations(conversations, tokenizer, 64, workers=2, progress=told.append)
    assert there.fingerprint == here.fingerprint
    assert there.rendering == here.rendering
    assert here.rendering.too_long > 0
    assert told[-1] == len(conversations)
