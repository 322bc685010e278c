"""A constraint to tool calls: what stands between their tags is one of the tools' names with arguments of its schema.

    text      any text that holds no <tool_call>
    call      <tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>

    tools may be called       text call call ...        or text alone; the first call ends the text
    a tool must be called     call call ...             at least one

Where several calls are not wanted, one is all there is. A call is a value of the schema

    {"properties": {"name": {"const": "add"}, "arguments": <the tool's>}, "required": ["name", "arguments"]}

so `json_schema` decides what of a tool's own schema is supported. White space may stand between two calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from penjing.errors import GenerationError
from penjing.inference.constrained.automaton import anything, combine, containing
from penjing.inference.constrained.constraint import GrammarConstraint
from penjing.inference.constrained.json_schema import grammar
from penjing.inference.constrained.machine import machine_of
from penjing.inference.constrained.mask import Vocabulary
from penjing.inference.constrained.pushdown import Blank, Frame, Lexeme, Literal, Rule
from penjing.inference.tools import CALL_CLOSE, CALL_OPEN, Tool

_SPACES = 1 << ord(" ") | 1 << ord("\n")


@dataclass(frozen=True, slots=True)
class _More(Rule):
    """Nothing, or one more call and then the same again."""

    call: tuple[Frame, ...]

    @property
    def need(self) -> int:
        """As of `Rule`."""
        return 0

    def expand(self) -> Iterable[tuple[Frame, ...]]:
        """As of `Rule`."""
        return ((), (Blank(1, _SPACES), *self.call, self))


def compile_calls(
    tools: Sequence[Tool],
    vocabulary: Vocabulary,
    *,
    must: bool,
    parallel: bool = True,
    text: dict[str, Any] | bool | None = None,
    whitespace: int = 1,
) -> GrammarConstraint:
    """A constraint to texts that call these tools, and no others.

    Args:
        tools: what may be called, at least one.
        vocabulary: the tokens.
        must: whether a tool must be called, before anything else is written.
        parallel: whether there may be more than one call.
        text: where a tool need not be called, the schema of the JSON text that may be written instead; None: any text.
        whitespace: as of `compile_schema`.

    Raises:
        GenerationError: no tool, or a schema that is malformed or not supported; the message names the tool.
    """
    if not tools:
        raise GenerationError("there is no tool that could be called")
    values = [frames for tool in tools for frames in _call(tool, vocabulary, whitespace)]
    alternatives = [(Literal(CALL_OPEN.encode()), *frames, Literal(CALL_CLOSE.encode())) for frames in values]
    call: tuple[Frame, ...] = alternatives[0] if len(alternatives) == 1 else (_Either(tuple(alternatives)),)
    calls = (*call, _More(call)) if parallel else call
    if must:
        texts = [calls]
    elif text is None:
        texts = [(_without_tag(vocabulary), _Either(((), calls)))]
    else:
        texts = [*grammar(text, whitespace=whitespace, usable=vocabulary.usable), calls]
    return GrammarConstraint(texts, vocabulary, "the tools")


@dataclass(frozen=True, slots=True)
class _Either(Rule):
    """One of some sequences."""

    sequences: tuple[tuple[Frame, ...], ...]

    @property
    def need(self) -> int:
        """As of `Rule`."""
        return min(sum(frame.need for frame in frames) for frames in self.sequences)

    def expand(self) -> Iterable[tuple[Frame, ...]]:
        """As of `Rule`."""
        return self.sequences


def _call(tool: Tool, vocabulary: Vocabulary, whitespace: int) -> list[tuple[Frame, ...]]:
    """The frames that write what stands between the tags."""
    parameters = dict(tool.parameters) or {"type": "object"}
    if parameters.get("type", "object") != "object":
        raise GenerationError(f"the tool '{tool.name}': its parameters must be of the type object")
    definitions = {name: parameters.pop(name) for name in ("$defs", "definitions") if name in parameters}
    for name in ("$schema", "$id"):
        parameters.pop(name, None)
    schema = {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": {"type": "object"} | parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    try:
        return grammar(schema | definitions, whitespace=whitespace, usable=vocabulary.usable)
    except GenerationError as error:
        raise GenerationError(f"the tool '{tool.name}': {error}") from None


def _without_tag(vocabulary: Vocabulary) -> Lexeme:
    dfa = combine([anything(), containing(CALL_OPEN)], lambda has: True if has[0] and not has[1] else None, "text")
    machine = machine_of(dfa, "plain", usable=vocabulary.usable)
    assert machine is not None, "the empty text has no tag"
    return Lexeme(machine, machine.start)
