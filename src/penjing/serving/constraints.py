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
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from penjing.errors import GenerationError
from penjing.inference.chat_model import Tool
from penjing.inference.constrained import GrammarConstraint, Vocabulary, compile_schema
from penjing.inference.constrained.calls import compile_calls
from penjing.serving.backend import Ask, Named, ShapeError

_KEPT = 32


class Constraints:
    """The constraints of one model."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._kept: OrderedDict[str, GrammarConstraint | GenerationError] = OrderedDict()
        self._lock = Lock()

    def of(self, ask: Ask, *, first: bool = True) -> GrammarConstraint | None:
        """What the next turn must be; None: anything.

        Args:
            ask: what is asked.
            first: whether it is the answer's first turn: a call that must be made is made there.

        Raises:
            ShapeError: a schema is malformed, not supported, or allows nothing.
        """
        tools = () if ask.tool_choice == "none" else tuple(ask.tools)
        must = first and (ask.tool_choice == "required" or isinstance(ask.tool_choice, Named))
        if isinstance(ask.tool_choice, Named) and first:
            tools = tuple(tool for tool in tools if tool.name == ask.tool_choice.name)
        shape = None if ask.constraint is None else (ask.constraint.schema or {"type": "object"})
        if must or (tools and (ask.strict or not ask.parallel or shape is not None)):
            tools = tuple(self._possible(tool, strict=tool.name in ask.strict) for tool in tools)
            key = json.dumps([[tool.to_dict() for tool in tools], must, ask.parallel, None if must else shape])
            text = None if must or shape is None else dict(shape)
            return self._compiled(
                key, lambda: compile_calls(tools, self.vocabulary, must=must, parallel=ask.parallel, text=text)
            )
        if shape is not None:
            schema = dict(shape)
            return self._compiled(json.dumps(schema), lambda: compile_schema(schema, self.vocabulary))
        return None

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
