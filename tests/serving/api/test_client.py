"""OpenAI's own Python client before a real server on loopback: every endpoint, whole and streamed.

The model is random, so what is checked is what must hold whatever it says: forms, counts, limits, equalities.
"""

import asyncio
import base64
import json
import struct
from typing import Literal

import openai
import pytest
import torch
from pydantic import BaseModel

from penjing.inference.sampling import Sampling
from tests.serving.api.conftest import MODEL

ASK = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the 盆景 in an"}]
GREEDY = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 24}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


@pytest.fixture
def chat(served):
    return served.client.chat.completions


def joined(stream) -> tuple[dict[int, str], dict[int, str | None], list]:
    """A stream's texts and reasons by choice, and all its chunks."""
    texts, reasons, chunks = {}, {}, list(stream)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return texts, reasons, chunks


def test_a_stream_comes_to_the_whole_answer(chat):
    whole = chat.create(**GREEDY)
    texts, reasons, chunks = joined(chat.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert texts == {0: whole.choices[0].message.content}
    assert reasons == {0: whole.choices[0].finish_reason}
    assert len(chunks) > 5
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_counts_tokens(served, chat):
    prompt = served.backend.tokenizer.chat.render(ASK, add_generation_prompt=True).ids
    answer = chat.create(**GREEDY)
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 24
    assert answer.choices[0].finish_reason == "length"


def test_several_answers_are_those_of_the_seed_and_the_prompt_counts_once(chat):
    asked = {"model": MODEL, "messages": ASK, "seed": 7, "n": 3, "max_tokens": 8, "temperature": 1.5}
    first, second = chat.create(**asked), chat.create(**asked)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert first.usage.completion_tokens <= 24
    streamed, _, _ = joined(chat.create(**asked, stream=True))
    assert [streamed[n] for n in range(3)] == texts


def test_a_longer_conversation_finds_what_was_read_before(chat):
    """Page by page of 16 tokens: of the second prompt at least what the first one filled, less a page."""
    told = [{"role": "user", "content": "a story of a fox and of a hen, " * 5}]
    first = chat.create(model=MODEL, messages=told, temperature=0, max_tokens=4)
    told += [{"role": "assistant", "content": "in the"}, {"role": "user", "content": "and then?"}]
    second = chat.create(model=MODEL, messages=told, temperature=0, max_tokens=4)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 32
    assert second.usage.prompt_tokens_details.cached_tokens < second.usage.prompt_tokens


def test_a_stop_string_ends_the_answer_before_it(chat):
    text = chat.create(**GREEDY).choices[0].message.content
    stop = text[5:8]
    answer = chat.create(**GREEDY, stop=[stop, "never to come"]).choices[0]
    assert answer.message.content == text[: text.index(stop)]
    assert answer.finish_reason == "stop"


def test_log_probabilities_are_the_models_own(served, chat):
    """Those of the engine, asked directly; to 1e-4, for other companions in a pass sum in another order."""
    backend = served.backend
    answer = chat.create(**GREEDY, logprobs=True, top_logprobs=3).choices[0]
    prompt = backend.tokenizer.chat.render(ASK, add_generation_prompt=True).ids

    async def ask():
        return [t async for t in served.service.stream(prompt, Sampling(temperature=0, max_new_tokens=24, logprobs=3))]

    expected = asyncio.run(ask())
    shown = answer.logprobs.content
    assert b"".join(bytes(token.bytes) for token in shown).decode("utf-8", "replace") == answer.message.content
    for token, (ours, _) in zip(shown, zip(expected, range(len(shown)), strict=False), strict=True):
        assert token.logprob == pytest.approx(ours.logprob, abs=1e-4)
        assert [top.logprob for top in token.top_logprobs] == pytest.approx([p for _, p in ours.top], abs=1e-4)
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-6)  # greedy


def test_streamed_log_probabilities_are_those_of_the_whole(chat):
    whole = chat.create(**GREEDY, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    _, _, chunks = joined(chat.create(**GREEDY, logprobs=True, top_logprobs=2, stream=True))
    found = [t for c in chunks for choice in c.choices if choice.logprobs for t in choice.logprobs.content or ()]
    assert [token.token for token in found] == [token.token for token in whole]


def test_a_biased_token_comes_always(served, chat):
    (e,) = served.backend.tokenizer.encode("E")
    answer = chat.create(**{**GREEDY, "max_tokens": 5}, logit_bias={str(e): 100})
    assert answer.choices[0].message.content == "EEEEE"


def test_penalties_reach_the_sampler(served, chat):
    """With +100 on one token and a penalty of 2 for each time, another comes as soon as 2 n is more than the lead."""
    (e,) = served.backend.tokenizer.encode("E")
    biased = {**GREEDY, "max_tokens": 24, "logit_bias": {str(e): 12}}
    plain, penalized = chat.create(**biased), chat.create(**biased, frequency_penalty=2, presence_penalty=2)
    assert plain.choices[0].message.content.count("E") > penalized.choices[0].message.content.count("E")


def test_json_is_what_the_schema_says(chat):
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "marks": {"type": "array", "items": {"type": "integer"}}},
        "required": ["mood", "marks"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "report", "schema": schema, "strict": True}}
    asked = {**GREEDY, "max_tokens": 90, "response_format": form}
    answer = json.loads(chat.create(**asked).choices[0].message.content)
    assert answer["mood"] in ("good", "bad")
    assert all(isinstance(mark, int) for mark in answer["marks"])
    streamed, _, _ = joined(chat.create(**asked, stream=True))
    assert json.loads(streamed[0]) == answer
    free = chat.create(**{**GREEDY, "max_tokens": 60}, response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_the_clients_own_parse_helper_gives_typed_answers(chat):
    class Step(BaseModel):
        kind: Literal["add", "drop"]
        count: int

    asked = {**GREEDY, "max_tokens": 80}
    answer = chat.parse(**asked, response_format=Step)
    assert isinstance(answer.choices[0].message.parsed, Step)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(chat, choice):
    asked = {**GREEDY, "max_tokens": 120, "tools": [WEATHER, CLOCK], "tool_choice": choice}
    answer = chat.create(**asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    for call in answer.message.tool_calls:
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            assert arguments["city"] in ("Rome", "Oslo")
            assert 1 <= arguments["days"] <= 9
        else:
            assert (choice, call.function.name, arguments) == ("required", "clock", {})
    called = [
        call
        for chunk in chat.create(**asked, stream=True)
        for part in chunk.choices
        for call in part.delta.tool_calls or ()
    ]
    assert [call.index for call in called] == list(range(len(called)))
    assert [(call.function.name, call.function.arguments) for call in called] == [
        (call.function.name, call.function.arguments) for call in answer.message.tool_calls
    ]


def test_calls_in_parallel_are_several_unless_they_must_not(served, chat):
    """A bias makes the random model go on with another call; without parallel calls one is all there is."""
    (lt,) = served.backend.tokenizer.encode("<")
    asked = {
        **GREEDY,
        "max_tokens": 160,
        "tools": [CLOCK],
        "tool_choice": "required",
        "logit_bias": {str(lt): 50},
    }
    assert len(chat.create(**asked).choices[0].message.tool_calls) > 1
    assert len(chat.create(**asked, parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_the_results_of_calls_are_read(served, chat):
    """The prompt is that of the chat template for the same messages."""
    answer = chat.create(
        **{**GREEDY, "max_tokens": 120}, tools=[CLOCK], tool_choice="required", parallel_tool_calls=False
    )
    call = answer.choices[0].message.tool_calls[0]
    told = [
        *ASK,
        answer.choices[0].message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}),
        {"role": "tool", "tool_call_id": call.id, "content": "12:30"},
    ]
    later = chat.create(**{**GREEDY, "messages": told})
    render = served.backend.tokenizer.chat.render
    calls = [{"function": {"name": "clock", "arguments": {}}, "type": "function", "id": call.id}]
    ours = [*ASK, {"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "12:30"}]
    assert later.usage.prompt_tokens == len(render(ours, add_generation_prompt=True).ids)


def test_texts_are_continued(served):
    complete = served.client.completions.create
    whole = complete(model=MODEL, prompt=["the", "in an"], n=2, max_tokens=6, temperature=0)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.choices[0].text == whole.choices[1].text  # greedy
    texts = {}
    for chunk in complete(model=MODEL, prompt=["the", "in an"], n=2, max_tokens=6, temperature=0, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert [texts[n] for n in range(4)] == [choice.text for choice in whole.choices]
    ids = served.backend.tokenizer.encode("the")
    same = complete(model=MODEL, prompt=ids, max_tokens=6, temperature=0)
    assert same.choices[0].text == whole.choices[0].text


def test_a_prompt_can_be_scored(served):
    """`echo` with no new tokens: each token but the first has the log-probability that the model gives it; 1e-4."""
    ids = served.backend.tokenizer.encode("the 盆景 in an")
    answer = served.client.completions.create(model=MODEL, prompt=ids, max_tokens=0, echo=True, logprobs=2)
    (choice,) = answer.choices
    assert choice.text == "the 盆景 in an"
    assert answer.usage.completion_tokens == 0
    with torch.no_grad():
        logits = served.model(torch.tensor([ids]))[0].log_softmax(-1)
    expected = logits[range(len(ids) - 1), ids[1:]].tolist()
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert choice.logprobs.text_offset[:2] == [0, len(choice.logprobs.tokens[0])]


def test_responses_are_whole_or_events_of_the_same(served):
    asked = {"model": MODEL, "instructions": "Be kind.", "input": "the", "temperature": 0, "max_output_tokens": 16}
    whole = served.client.responses.create(**asked, metadata={"shelf": "3"})
    assert whole.metadata == {"shelf": "3"}
    assert whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens"
    events = list(served.client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type, events[-1].type] == [
        "response.created",
        "response.in_progress",
        "response.incomplete",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    chat = served.client.chat.completions.create(
        model=MODEL, messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the"}],
        temperature=0, max_tokens=16,
    )  # fmt: skip
    assert chat.choices[0].message.content == text


def test_responses_call_tools_and_read_their_results(served):
    tool = {"type": "function", **WEATHER["function"]}
    asked = {"model": MODEL, "input": "the", "temperature": 0, "tools": [tool], "tool_choice": "required"}
    answer = served.client.responses.create(**asked, max_output_tokens=120, parallel_tool_calls=False)
    (call,) = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    names = [event.type for event in served.client.responses.create(**asked, max_output_tokens=120, stream=True)]
    assert "response.function_call_arguments.done" in names
    told = [
        {"role": "user", "content": "the"},
        {"type": "function_call", "call_id": call.call_id, "name": "weather", "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    later = served.client.responses.create(model=MODEL, input=told, temperature=0, max_output_tokens=8)
    calls = [{"function": {"name": "weather", "arguments": json.loads(call.arguments)}}]
    ours = [told[0], {"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "sunny"}]
    prompt = served.backend.tokenizer.chat.render(ours, add_generation_prompt=True).ids
    assert later.usage.input_tokens == len(prompt)
    assert later.output_text


def test_vectors_are_the_mean_of_what_the_head_reads(served):
    """Against the model itself, to 1e-5; as numbers and in base64."""
    texts = ["the", "盆景 in an"]
    numbers = served.client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    packed = served.client.embeddings.create(model=MODEL, input=texts, encoding_format="base64")
    for text, row, base in zip(texts, numbers.data, packed.data, strict=True):
        ids = served.backend.encode(text)
        with torch.no_grad():
            mean = served.model.hidden(torch.tensor([ids]))[0].mean(0)
        assert row.embedding == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
        raw = base64.b64decode(base.embedding)
        assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(row.embedding, abs=1e-6)
    assert numbers.usage.prompt_tokens == sum(len(served.backend.encode(text)) for text in texts)


def test_models_are_listed_and_found(served):
    assert [model.id for model in served.client.models.list()] == [MODEL]
    assert served.client.models.retrieve(MODEL).owned_by == "penjing"
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("no/such")


def test_tokens_go_there_and_back(served):
    post = served.client.post
    said = post(f"{served.url}/tokenize", body={"prompt": "the 盆景"}, cast_to=object)
    assert said["tokens"] == served.backend.tokenizer.encode("the 盆景")
    assert said["count"] == len(said["tokens"])
    back = post(f"{served.url}/detokenize", body={"model": MODEL, "tokens": said["tokens"]}, cast_to=object)
    assert back == {"prompt": "the 盆景"}
    conversation = post(f"{served.url}/tokenize", body={"messages": ASK}, cast_to=object)
    assert conversation["tokens"] == served.backend.tokenizer.chat.render(ASK, add_generation_prompt=True).ids


def test_moderation_without_a_classifier_says_what_is_missing(served):
    with pytest.raises(openai.NotFoundError, match="no moderation model"):
        served.client.moderations.create(input="the")
