"""Asking a `ChatModel` for data: one question, one whole answer, the same for the same seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from penjing.data.order import key_of
from penjing.errors import GenerationError
from penjing.inference.chat_model import ChatModel, End, Text
from penjing.inference.sampling import Sampling

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    fault: str = ""
    """Why it cannot be used, if it cannot."""


@dataclass(frozen=True)
class Asker:
    """A model and how it is asked.

    The seed of each answer follows from `seed` and from what the caller names it by, so that whoever asks again in the
    same words gets the same answer from a model that keeps to its seeds.
    """

    model: ChatModel
    sampling: Sampling
    seed: int = 0

    def __call__(self, messages: "str | Sequence[Message]", *name: str | int) -> Answer:
        """The answer to a question, or to a conversation; its text is stripped of white space around it."""
        talk: Sequence[Message] = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        sampling = replace(self.sampling, seed=key_of(self.seed, *name) % 2**31)
        text, reason = "", ""
        try:
            for piece in self.model.stream(talk, sampling):
                if isinstance(piece, Text):
                    text += piece.text
                elif isinstance(piece, End):
                    reason = piece.reason
        except GenerationError:  # the question alone is longer than the model's context
            return Answer("", "longer than the model's context")
        text = text.strip()
        if reason != "stop":
            return Answer(text, "not finished" if reason == "length" else "a call of a tool")
        return Answer(text, "" if text else "empty")

    @property
    def provenance(self) -> dict[str, Any]:
        """Who was asked, and how, as JSON holds it; settings that are as ever are left out."""
        usual = asdict(Sampling())
        settings = {name: value for name, value in asdict(self.sampling).items() if value != usual[name]}
        return {"model": self.model.name, "sampling": settings, "seed": self.seed}
