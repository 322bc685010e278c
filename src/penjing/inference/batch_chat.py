"""Many conversations answered at once: what evaluations and rollouts need, where throughput matters and nobody watches.

Conversations are sorted by length, so that little padding is computed, and answered in batches. Those whose answer
calls a tool are told the result and go on together in a next round, by the rule of every chat (`tools.why_over`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from penjing.errors import GenerationError
from penjing.inference.generate import Completion, generate_ids
from penjing.inference.sampling import Sampling
from penjing.inference.text import end_ids
from penjing.inference.tools import ROUNDS, CallSplitter, ToolCall, read_call, run_call, why_over

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message


def answer_all(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    conversations: "Sequence[Sequence[Message]]",
    sampling: Sampling,
    *,
    tools: Mapping[str, Callable[..., object]] | None = None,
    rounds: int = ROUNDS,
    batch: int = 128,
) -> "list[list[Message]]":
    """For each conversation the messages that answer it: the assistant's, with tool calls' results between them.

    The last one is the assistant's; it holds calls, which were not run, where the rounds were used up.

    Args:
        model: a model trained to chat.
        tokenizer: its tokenizer, with a chat template.
        conversations: each ends with the user's message.
        sampling: the settings; of `max_new_tokens` no more than the context leaves.
        tools: what the model has learned to call, by name.
        rounds: how many times in one answer it may call tools.
        batch: how many conversations at once.

    Raises:
        GenerationError: the tokenizer has no chat template.
    """
    if tokenizer.chat is None:
        raise GenerationError("this model has no chat template, so it cannot be asked by messages")
    answers: list[list[Message]] = [[] for _ in conversations]
    waiting = list(range(len(conversations)))
    while waiting:
        prompts = [
            tokenizer.chat.render([*conversations[number], *answers[number]], add_generation_prompt=True).ids
            for number in waiting
        ]
        texts = continue_all(model, tokenizer, prompts, sampling, batch=batch)
        going_on = []
        for number, text in zip(waiting, texts, strict=True):
            answers[number].append({"role": "assistant", "content": text})
            calls = calls_in(text)
            if why_over(calls, "stop", rounds) is None:
                results = (run_call(call, tools or {}) for call in calls)
                answers[number] += [{"role": "tool", "content": result.content} for result in results]
                going_on.append(number)
        waiting, rounds = going_on, rounds - 1
    return answers


def continue_all(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch: int = 128,
) -> list[str]:
    """The continuation of each prompt, in the prompts' order; empty for a prompt that fills the context by itself.

    Each is as long as its own prompt leaves room for, whatever stands beside it.
    """
    context = model.config.context
    fitting = sorted((n for n in range(len(prompts)) if len(prompts[n]) < context), key=lambda n: len(prompts[n]))
    texts = [""] * len(prompts)
    for numbers in _chunks(fitting, batch):
        found: list[Completion] = generate_ids(
            model,
            [prompts[n] for n in numbers],
            sampling,
            stop_ids=end_ids(tokenizer),
            tokenizer=tokenizer,
            within_context=True,
        )
        for number, completion in zip(numbers, found, strict=True):
            texts[number] = completion.text or ""
    return texts


def calls_in(text: str) -> list[ToolCall]:
    """The tool calls in an assistant's message."""
    splitter = CallSplitter()
    parts = [*splitter.push(text), *splitter.flush()]
    calls = [content for kind, content in parts if kind == "call"]
    return [read_call(content, f"call-{number}") for number, content in enumerate(calls)]


def _chunks(numbers: list[int], size: int) -> Iterable[list[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
