"""A chat model that answers by a rule of the test's own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from penjing.inference.chat_model import End, Piece, Text, Usage, check_messages
from penjing.inference.sampling import DEFAULT, Sampling


class RuleModel:
    """Answers what `rule` makes of the last message and the sampling; counts how often it was asked.

    A rule may give a text, or a text and the reason why it ended.
    """

    def __init__(self, rule: Callable[[str, Sampling], Any], name: str = "rule"):
        self.rule = rule
        self.name = name
        self.asked: list[str] = []

    def stream(self, messages: Sequence[Any], sampling: Sampling = DEFAULT, tools: Any = None) -> Iterator[Piece]:
        check_messages(messages)
        question = messages[-1]["content"]
        self.asked.append(question)
        answer = self.rule(question, sampling)
        text, reason = answer if isinstance(answer, tuple) else (answer, "stop")
        return iter([Text(text[:2]), Text(text[2:]), End(reason, Usage(), ({"role": "assistant", "content": text},))])
