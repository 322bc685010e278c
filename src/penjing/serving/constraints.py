"""What an answer's tokens must be, from what was asked: JSON, a schema, calls of tools. Compiled once, and kept.

    response_format          tools, tool_choice            the text is
    ---------------          ------------------            -----------
    -                        auto, none strict             anything
    -                        auto, some strict             anything without a call, then calls by their schemas
    -                        required, or one by name      calls by their schemas
    JSON                     none                          JSON
    JSON                     auto                          JSON, or calls by their schemas

A tool that is not strict promises nothing: where its schema holds what cannot be enforced, its arguments are any
object.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from penjing.errors import GenerationError
from penjing.inference.chat_model import Tool
from penjing.inference.constrained import GrammarConstraint, Vocabulary, compile_schema
from penjing.inference.constrained.calls import compile_calls
from penjing.serving.backend import Ask, Named, ShapeError

_KEPT = 32


@dataclass(frozen=True)
class Shape:
    """What one turn must be: calls of these tools, or JSON, or either."""

    tools: tuple[Tool, ...] = ()
    """What may be called, where calls are held to their schemas."""
    strict: frozenset[str] = frozenset()
    """The names of those whose schemas must be enforced."""
    must: bool = False
    """Whether a tool must be called, before anything else is written."""
    parallel: bool = True
    """Whether there may be more than one call."""
    schema: Mapping[str, Any] | None = None
    """Of the text that is no call; None: any text."""

    @property
    def key(self) -> str:
        """The same for shapes that are the same."""
        tools = [tool.to_dict() for tool in self.tools]
        return json.dumps([tools, sorted(self.strict), self.must, self.parallel, self.schema])


def shape_of(ask: Ask, *, first: bool = True) -> Shape | None:
    """What the next turn of an answer must be; None: anything.

    Args:
        ask: what is asked.
        first: whether it is the answer's first turn: a call that must be made is made there.
    """
    tools = () if ask.tool_choice == "none" else tuple(ask.tools)
    must = first and (ask.tool_choice == "required" or isinstance(ask.tool_choice, Named))
    if isinstance(ask.tool_choice, Named) and first:
        tools = tuple(tool for tool in tools if tool.name == ask.tool_choice.name)
    schema = None if ask.constraint is None else dict(ask.constraint.schema or {"type": "object"})
    if must or (tools and (ask.strict or not ask.parallel or schema is not None)):
        return Shape(tools, ask.strict, must, ask.parallel, None if must else schema)
    return None if schema is None else Shape(schema=schema)


class Constraints:
    """The constraints of one model."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._kept: OrderedDict[str, GrammarConstraint | GenerationError] = OrderedDict()
        self._lock = Lock()

    def known(self, shape: Shape) -> bool:
        """Whether `of` need not compile it."""
        with self._lock:
            return shape.key in self._kept

    def of(self, shape: Shape) -> GrammarConstraint:
        """The constraint to a shape.

        Raises:
            ShapeError: a schema is malformed, not supported, or allows nothing.
        """
        return self._compiled(shape.key, lambda: self._compile(shape))

    def _compile(self, shape: Shape) -> GrammarConstraint:
        schema = None if shape.schema is None else dict(shape.schema)
        if schema is not None and not shape.tools:
            return compile_schema(schema, self.vocabulary)
        tools = [self._possible(tool, strict=tool.name in shape.strict) for tool in shape.tools]
        return compile_calls(tools, self.vocabulary, must=shape.must, parallel=shape.parallel, text=schema)

    def _possible(self, tool: Tool, *, strict: bool) -> Tool:
        """The tool, with arguments that are any object where its schema cannot be enforced and need not be."""
        if strict or not tool.parameters:
            return tool
        key = json.dumps(["tool", tool.to_dict()])
        try:
            self._compiled(key, lambda: compile_calls([tool], self.vocabulary, must=True, parallel=False))
        except GenerationError:
            return replace(tool, parameters={})
        return tool

    def _compiled(self, key: str, compile: Callable[[], GrammarConstraint]) -> GrammarConstraint:
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
        if known is None:
            try:
                known = compile()
            except GenerationError as error:
                known = error
            with self._lock:
                self._kept[key] = known
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        if isinstance(known, GenerationError):
            raise ShapeError(str(known))
        return known
