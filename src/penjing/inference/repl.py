"""The chat in a terminal: lines in, answers out as they come.

A line that begins with `/` is a command, with `//` a message that begins with `/`, any other a message. Ctrl-C stops
the answer and keeps the conversation, Ctrl-D leaves.

In a pipe it is the same, but made for programs: the answers are all that is printed, as text or as a JSON object each;
what commands say goes to the standard error; and what cannot be done is an error that ends the chat.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from penjing.errors import GenerationError, PenjingError, nearest
from penjing.inference.chat_model import End, Text, ToolCall, ToolResult
from penjing.inference.session import ChatSession
from penjing.inference.text import writable

Reader = Callable[[], str]
"""Gives the next line; raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""


_COMMANDS = {
    "help": ("", "show the commands"),
    "system": ("[TEXT]", "say what the model is told first; without TEXT, show it; `-` takes it away"),
    "reset": ("", "forget the conversation"),
    "set": ("NAME VALUE", "change a setting, such as temperature 0.7; `none` switches it off"),
    "settings": ("", "show the settings"),
    "save": ("FILE", "write the conversation to a JSON file"),
    "load": ("FILE", "take up a saved conversation"),
    "exit": ("", "leave"),
}
"""Each command's arguments and what it does; `Repl` has a method of its name."""


class Repl:
    """Reads lines, obeys commands, prints answers.

    Args:
        session: the conversation.
        read: where lines come from.
        out: where answers go.
        interactive: whether somebody is there to be greeted, shown who speaks and what tools do, and told of errors;
            else errors are raised.
        notes: where what commands say goes; None: to `out`.
        as_json: whether answers are printed as JSON, a line each: `message`, `usage` and `reason`.
    """

    def __init__(
        self,
        session: ChatSession,
        read: Reader,
        out: TextIO,
        *,
        interactive: bool,
        notes: TextIO | None = None,
        as_json: bool = False,
    ):
        self.session = session
        self.interactive = interactive
        self._notes = notes or out
        self._as_json = as_json
        self._read = read
        self._out = out
        self._leaving = False
        self._obeying: dict[str, Callable[[str], None]] = {name: getattr(self, f"_{name}") for name in _COMMANDS}

    def run(self) -> None:
        """Until the end of the input or `/exit`.

        Raises:
            PenjingError: nobody is there to be told that something could not be done.
        """
        if self.interactive:
            self._say(f"Talking to {self.session.model.name}. /help shows the commands, Ctrl-D leaves.\n")
        while not self._leaving:
            try:
                line = self._read().strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._say("(Ctrl-D leaves)\n")
                continue
            try:
                self._take(line)
            except PenjingError as error:
                if not self.interactive:
                    raise
                self._say(f"{error}\n")

    def _take(self, line: str) -> None:
        if not writable(line):
            raise GenerationError("this line holds bytes that are not UTF-8 text")
        if line.startswith("/") and not line.startswith("//"):
            self._obey(line[1:])
        elif line:
            answer = self._answer if self.interactive else self._answer_program
            answer(line[1:] if line.startswith("//") else line)

    def _answer_program(self, line: str) -> None:
        """The answer and nothing else."""
        for piece in self.session.ask(line):
            if isinstance(piece, Text) and not self._as_json:
                self._say(piece.text)
            elif isinstance(piece, End) and self._as_json:
                told = {"message": piece.messages[-1], "usage": asdict(piece.usage), "reason": piece.reason}
                self._say(json.dumps(told, ensure_ascii=False))
        self._say("\n")

    def _answer(self, line: str) -> None:
        self._say("penjing> ")
        reason, calls = "stop", {}
        try:
            for piece in self.session.ask(line):
                match piece:
                    case Text(text):
                        self._say(text)
                    case ToolCall():
                        calls[piece.id] = ", ".join(f"{name}={value}" for name, value in piece.arguments.items())
                    case ToolResult():
                        self._say(f"[{piece.name or 'tool'}({calls[piece.id]}) = {piece.content}]\n")
                    case End():
                        reason = piece.reason
        except KeyboardInterrupt:
            reason = "stopped"
        if reason in ("length", "stopped"):
            self._say(" [stopped]" if reason == "stopped" else " [cut: max_new_tokens or the context is used up]")
        self._say("\n")

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in _COMMANDS:
            raise GenerationError(f"there is no command /{name}{nearest(name, _COMMANDS)}")
        self._obeying[name](rest.strip())

    def _help(self, _: str) -> None:
        for name, (arguments, text) in _COMMANDS.items():
            self._note(f"  {f'/{name} {arguments}':<18} {text}\n")
        self._note(f"  {'//...':<18} say something that begins with /\n")

    def _system(self, text: str) -> None:
        if text:
            self.session.system = "" if text == "-" else text
        else:
            self._note(f"{self.session.system or '(no system message)'}\n")

    def _reset(self, _: str) -> None:
        self.session.reset()

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise GenerationError("write /set NAME VALUE, such as /set temperature 0.7; /settings shows the names")
        self.session.set(name, value.strip())

    def _settings(self, _: str) -> None:
        for name, value in asdict(self.session.sampling).items():
            self._note(f"  {name:<20} {'none' if value in (None, ()) else value}\n")

    def _save(self, name: str) -> None:
        self.session.save(_path(name, "save"))
        self._note(f"saved to {name}\n")

    def _load(self, name: str) -> None:
        self.session.load(_path(name, "load"))
        self._note(f"took up {len(self.session.messages)} messages from {name}\n")

    def _exit(self, _: str) -> None:
        self._leaving = True

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _note(self, text: str) -> None:
        self._notes.write(text)
        self._notes.flush()


def _path(name: str, command: str) -> Path:
    if not name:
        raise GenerationError(f"write /{command} FILE")
    if "\0" in name:
        raise GenerationError(f"{name!r} is no file name")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~somebody
        raise GenerationError(f"{name}: there is no such home folder") from None


def lines_of(source: Iterable[str]) -> Reader:
    """A reader of lines that are already there (a pipe, a file, a test)."""
    lines = iter(source)

    def read() -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    return read


def terminal() -> Reader:
    """A reader with line editing, history, completion of commands, and Esc-Enter for a line break."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    words = WordCompleter([f"/{name}" for name in _COMMANDS], sentence=True)
    prompt: PromptSession[str] = PromptSession(completer=words, complete_while_typing=False, key_bindings=keys)
    return lambda: prompt.prompt("you> ")


def chat(session: ChatSession, lines: Iterable[str], *, as_json: bool = False) -> None:
    """Chats in the terminal; with `lines`, those of the standard input, where there is none or JSON is wanted."""
    if not as_json and all(end is not None and end.isatty() for end in (sys.stdin, sys.stdout)):
        Repl(session, terminal(), sys.stdout, interactive=True).run()
    else:
        Repl(session, lines_of(lines), sys.stdout, interactive=False, notes=sys.stderr, as_json=as_json).run()
