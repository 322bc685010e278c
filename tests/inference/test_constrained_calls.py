"""Texts that are constrained to tool calls, whatever a model of random logits prefers."""

import json
import random

import pytest

from penjing.errors import GenerationError
from penjing.inference.constrained import Vocabulary
from penjing.inference.constrained.calls import compile_calls
from penjing.inference.engine.engine import Engine
from penjing.inference.sampling import Sampling
from penjing.inference.text import end_ids, text_of
from penjing.inference.tools import CallSplitter, Tool, read_call
from tests.inference import tiny

TOKENIZER = tiny.tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
MODEL = tiny.model(TOKENIZER.vocab_size, context=400)
ADD = Tool(
    "add",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"$ref": "#/$defs/small"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"small": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
)
CLOCK = Tool("clock", parameters={"type": "object", "properties": {}, "additionalProperties": False})


def allows(constraint, text: str) -> bool:
    """Whether the whole text may be written, byte by byte, and end there."""
    state = constraint.start()
    for byte in text.encode():
        if not constraint.mask(state)[byte_id(byte)]:
            return False
        state = constraint.advance(state, byte_id(byte))
    return constraint.complete(state)


def byte_id(byte: int) -> int:
    return VOCABULARY.tokens.index(bytes([byte]))


CALL_ADD = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
CALL_CLOCK = '<tool_call>{"name":"clock","arguments":{}}</tool_call>'


@pytest.mark.parametrize(
    ("must", "parallel", "text", "accepted"),
    [
        (True, True, CALL_ADD, True),
        (True, True, CALL_ADD + "\n" + CALL_CLOCK, True),
        (True, False, CALL_ADD + CALL_CLOCK, False),
        (True, True, "Let me see." + CALL_ADD, False),
        (True, True, "", False),
        (False, True, "", True),
        (False, True, "Let me see. <tool" + CALL_ADD + CALL_CLOCK, True),
        (False, True, "<tool_call>", False),
        (False, True, CALL_ADD + "So.", False),
        (False, True, CALL_ADD.replace("add", "sub"), False),
        (False, True, CALL_ADD.replace('"b": 3', '"b": 13'), False),
        (False, True, CALL_ADD.replace('"name": "add", ', ""), False),
    ],
)
def test_a_text_is_allowed_or_not(must, parallel, text, accepted):
    """By hand, from the rules that the module states."""
    assert allows(compile_calls([ADD, CLOCK], VOCABULARY, must=must, parallel=parallel), text) is accepted


def test_a_json_text_or_a_call():
    constraint = compile_calls([CLOCK], VOCABULARY, must=False, text={"type": "integer"})
    assert [allows(constraint, text) for text in ("12", CALL_CLOCK, "twelve")] == [True, True, False]


@pytest.mark.parametrize("must", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_a_random_model_writes_only_calls_that_satisfy_their_schema(must, seed):
    """Logits are noise; in the room that is left, every call is whole, of a known name, and in its bounds."""
    constraint = compile_calls([ADD, CLOCK], VOCABULARY, must=must)
    engine = Engine(MODEL, tokens=400)
    room = 60 + random.Random(seed).randrange(60)
    sampling = Sampling(temperature=3.0, seed=seed, max_new_tokens=room, logit_bias={byte_id(ord("<")): 6.0})
    (request,) = engine.add([5, 6], sampling, stop_ids=end_ids(TOKENIZER), constraint=constraint)
    list(engine.stream(request))
    splitter = CallSplitter()
    parts = [*splitter.push(text_of(TOKENIZER, request.generated)), *splitter.flush()]
    calls = [read_call(content, "x") for kind, content in parts if kind == "call"]
    assert calls or not must
    for call in calls:
        assert not call.error
        assert call.name in ("add", "clock")
        if call.name == "add":
            assert set(call.arguments) == {"a", "b"}
            assert 0 <= call.arguments["b"] <= 9
            assert call.arguments["a"] <= 99
    assert all("<tool_call>" not in content for kind, content in parts if kind == "text")
    json.dumps([dict(call.arguments) for call in calls])


def test_a_schema_that_is_not_supported_names_the_tool():
    bad = Tool("bad", parameters={"type": "object", "properties": {"a": {"not": {}}}})
    with pytest.raises(GenerationError, match=r"the tool 'bad'.*not"):
        compile_calls([ADD, bad], VOCABULARY, must=True)
    with pytest.raises(GenerationError, match="no tool"):
        compile_calls([], VOCABULARY, must=True)
    with pytest.raises(GenerationError, match="type object"):
        compile_calls([Tool("n", parameters={"type": "number"})], VOCABULARY, must=True)
