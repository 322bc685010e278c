"""A conversation with its settings: what a chat in a terminal, or on a page, is made of."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.errors import GenerationError, nearest
from penjing.files import read_json, write_json
from penjing.inference.chat_model import ROLES, ChatModel, End, Piece, Text
from penjing.inference.sampling import DEFAULT, Sampling
from penjing.inference.text import unescaped, writable

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message


class ChatSession:
    """A conversation that grows with each question, and the settings that its answers are made with.

    An answer that is broken off (the iterator is closed, or Ctrl-C) stays in the conversation as far as it came; a
    question without any answer is taken back.
    """

    def __init__(self, model: ChatModel, sampling: Sampling = DEFAULT, system: str = ""):
        self.model = model
        self.sampling = sampling
        self.messages: list[Message] = []
        self.system = system
        self._saved: Path | None = None

    @property
    def system(self) -> str:
        """What the model is told before the conversation; empty when nothing."""
        first = self.messages[0] if self.messages else None
        return first["content"] if first is not None and first["role"] == "system" else ""

    @system.setter
    def system(self, text: str) -> None:
        rest = [message for message in self.messages if message["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def reset(self) -> None:
        """Forgets the conversation, keeps the system message and the settings."""
        self.messages = [message for message in self.messages if message["role"] == "system"]

    def ask(self, text: str) -> Iterator[Piece]:
        """The pieces of the answer to a question; both are in the conversation afterwards.

        Raises:
            GenerationError: the question cannot be answered; the conversation is then as it was.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        partial, answer = "", None
        try:
            for piece in self.model.stream(self.messages, self.sampling):
                if isinstance(piece, Text):
                    partial += piece.text
                elif isinstance(piece, End):
                    answer = piece.messages
                yield piece
        finally:
            if answer is not None:
                self.messages.extend(answer)
            elif partial:
                self.messages.append({"role": "assistant", "content": partial})
            else:
                del self.messages[before:]

    def set(self, name: str, value: str) -> None:
        """Changes a setting from what a user typed; `none` gives a setting no value.

        Raises:
            GenerationError: an unknown setting or a value that it cannot have; nothing is changed.
        """
        known = {setting.name: setting for setting in fields(Sampling)}
        if name not in known:
            raise GenerationError(f"there is no setting '{name}'{nearest(name, known)}")
        self.sampling = Sampling.of(self.sampling, **{name: _typed(name, value, str(known[name].type))})

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON (`messages`, as instruction data has them) with the settings.

        Raises:
            GenerationError: there is another file of that name, or nothing to save.
            PenjingError: the file cannot be written; the conversation is as it was.
        """
        if not any(message["role"] == "user" for message in self.messages):
            raise GenerationError("there is nothing to save yet")
        try:
            taken = path.exists() and path != self._saved
        except OSError as fault:
            raise GenerationError(f"{path} cannot be written: {fault.strerror}") from None
        if taken:
            raise GenerationError(f"{path} exists already; choose another name")
        write_json(path, {"messages": self.messages, "model": self.model.name, "settings": asdict(self.sampling)})
        self._saved = path

    def load(self, path: Path) -> None:
        """Takes up a saved conversation and its settings.

        Raises:
            GenerationError: the file is missing or holds no conversation; nothing is changed.
        """
        saved = read_json(path, GenerationError)
        messages = saved.get("messages") if isinstance(saved, dict) else None
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise GenerationError(f"{path} holds no conversation: it needs a list 'messages' of roles and contents")
        settings = saved.get("settings", {})
        if not isinstance(settings, dict):
            raise GenerationError(f"{path}: 'settings' must be an object")
        self.sampling = Sampling.of(**settings)
        self.messages = [{"role": message["role"], "content": message["content"]} for message in messages]
        self._saved = path


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return False
    content = message.get("content")
    return isinstance(content, str) and writable(content)


def _typed(name: str, value: str, kind: str) -> Any:
    """What a user typed, as the setting's type (`float`, `int | None`, ...) wants it."""
    if value.lower() == "none" and ("None" in kind or kind.startswith("tuple")):
        return () if kind.startswith("tuple") else None
    if kind.startswith("tuple"):
        return (unescaped(value),)
    try:
        return int(value) if kind.startswith("int") else float(value)
    except ValueError:
        raise GenerationError(f"{name} cannot be '{value}': it takes a number") from None
