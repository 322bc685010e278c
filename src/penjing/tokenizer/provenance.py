r"""Rendering a chat template while knowing, for every character of the result, who wrote it.

A chat template is a Jinja program that someone else wrote: it may strip a message, cut it at `</think>`, put it into
JSON. Afterwards nobody could say whether a `<|im_end|>` in the text is the template's or was typed by a user who wants
to speak as the assistant. So the messages go in as traced strings, which carry an author for each character through
every operation that a template can do; the template's own text is of the author `TEMPLATE`.

    render("<|im_start|>user\n" + content.strip())     text     <|im_start|>user\nhello
                                                       authors  00000000000000000022222

An operation that is not followed character by character gives its whole result to the author of its input. That is the
safe side: the template may lose a character, a user never gains one.

The idea is taint tracking (Perl's taint mode; Newsome and Song, "Dynamic Taint Analysis", NDSS 2005), a label for each
character. The environment around it is the one that transformers renders templates in.
"""

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, SupportsIndex

from jinja2 import Environment, TemplateAssertionError, TemplateError, Undefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_environment

from penjing.errors import TokenizerError

TEMPLATE = "\0"
"""The author of the template's own text. Authors are characters, so that a string of them is cut like the text."""
SOMEONE = "\1"
"""The author of what came from outside, one knows not whom: tools, and results of operations that mix authors."""


def author(number: int) -> str:
    """The author who stands for message `number` (from 0)."""
    return chr(number + 2)


class _Traced(str):
    """A string with an author for each character; `SOMEONE` where none are given."""

    _authors: str

    def __new__(cls, text: str, authors: str | None = None) -> "_Traced":
        traced = super().__new__(cls, str.__str__(text))
        traced._authors = SOMEONE * len(text) if authors is None else authors
        return traced

    def __str__(self) -> "_Traced":
        return self

    def __add__(self, other: str) -> "_Traced":
        return joined([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> "_Traced":
        return joined([other, self]) if isinstance(other, str) else NotImplemented

    def __getitem__(self, place: SupportsIndex | slice) -> "_Traced":
        return _Traced(super().__getitem__(place), self._authors[place])

    def __iter__(self) -> Iterator["_Traced"]:
        return (self[place] for place in range(len(self)))

    def strip(self, characters: str | None = None, /) -> "_Traced":
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters: str | None = None, /) -> "_Traced":
        return self[len(self) - len(super().lstrip(characters)) :]

    def rstrip(self, characters: str | None = None, /) -> "_Traced":
        return self[: len(super().rstrip(characters))]

    def removeprefix(self, prefix: str, /) -> "_Traced":
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str, /) -> "_Traced":
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> "list[_Traced]":  # type: ignore[override]
        parts = super().split(sep, maxsplit)
        return self._words(parts) if sep is None else self._cut(parts, len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> "list[_Traced]":  # type: ignore[override]
        parts = super().rsplit(sep, maxsplit)
        return self._words(parts) if sep is None else self._cut(parts, len(sep))

    def splitlines(self, keepends: bool = False) -> "list[_Traced]":  # type: ignore[override]
        whole = self._cut(super().splitlines(keepends=True))
        return [line[: len(kept)] for line, kept in zip(whole, super().splitlines(keepends), strict=True)]

    def partition(self, sep: str, /) -> "tuple[_Traced, _Traced, _Traced]":
        before, middle, after = self._cut(super().partition(sep))
        return before, middle, after

    def rpartition(self, sep: str, /) -> "tuple[_Traced, _Traced, _Traced]":
        before, middle, after = self._cut(super().rpartition(sep))
        return before, middle, after

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:  # `new` between all characters
            return _settled(super().replace(old, new, count), (self, new))
        return joined(self._cut(super().split(old, count), len(old)), new)

    def join(self, parts: Iterable[str], /) -> "_Traced":
        return joined(list(parts), self)

    def _cut(self, parts: Iterable[str], gap: int = 0) -> "list[_Traced]":
        """This string as `parts` with `gap` characters between them."""
        cut, start = [], 0
        for part in parts:
            cut.append(self[start : start + len(part)])
            start += len(part) + gap
        return cut

    def _words(self, parts: Iterable[str]) -> "list[_Traced]":
        """This string as `parts` with white space between them."""
        cut, end = [], 0
        for part in parts:
            start = self.index(part, end)
            end = start + len(part)
            cut.append(self[start:end])
        return cut


def authors_of(text: str) -> str:
    """The author of each character; a plain string is the template's."""
    return text._authors if isinstance(text, _Traced) else TEMPLATE * len(text)


def joined(parts: Sequence[str], separator: str = "") -> Any:
    """`separator.join(parts)`, traced when one of them is."""
    text = str.__str__(separator).join(parts)
    if not any(isinstance(part, _Traced) for part in (separator, *parts)):
        return text
    return _Traced(text, authors_of(separator).join(map(authors_of, parts)))


def traced(value: Any, authors: str) -> Any:
    """`value`, of the kinds that JSON has, with every string in it marked as written by `authors` (one character).

    Raises:
        TokenizerError: it holds something else.
    """
    if isinstance(value, str):
        return _Traced(value, authors * len(value))
    if isinstance(value, Mapping):
        return {traced(key, authors): traced(item, authors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [traced(item, authors) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TokenizerError(
        f"messages, tools and variables are made of text, numbers, lists and objects, not of {type(value).__name__}"
    )


def _found(value: Any) -> set[str]:
    """The authors of all text in `value`, the template apart; `SOMEONE` if it is a thing that one cannot look into."""
    if isinstance(value, _Traced):
        return set(value._authors) - {TEMPLATE}
    if isinstance(value, Mapping):
        return _found([*value.keys(), *value.values()])
    if isinstance(value, list | tuple):
        return set().union(*map(_found, value))
    return set() if isinstance(value, _TEXTLESS) else {SOMEONE}


_TEXTLESS = (str, int, float, NoneType, Undefined, Macro, Environment, Context, nodes.EvalContext)


def _settled(result: Any, inputs: Any) -> Any:
    """A result that was not followed character by character: the work of whoever wrote the inputs."""
    if isinstance(result, list | tuple):
        return [_settled(item, inputs) for item in result]
    if not isinstance(result, str) or isinstance(result, _Traced):
        return result
    authors = _found(inputs)
    if not authors:
        return result
    return _Traced(result, (authors.pop() if len(authors) == 1 else SOMEONE) * len(result))


def _shown(value: Any) -> str:
    """What a template writes for a value: strings as they are, a list of strings as the work of their authors."""
    return value if isinstance(value, str) else _settled(str(value), value)


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """The operator `~`: Jinja would join its operands into a plain string."""
        self.write("environment.concat(map(environment.finalize, (")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write(")))")

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier, frame: Frame) -> None:
        """The tag `autoescape`: escaping is not followed, and no chat template has a use for HTML."""
        raise TemplateAssertionError("a chat template cannot use 'autoescape'", node.lineno)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for other tools; here authors do, and its body is just rendered."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class TracingEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, sandboxed, with authors kept through every operation."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"%", "*"})

    def __init__(self) -> None:
        extensions = [_GenerationTag, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, finalize=_shown, extensions=extensions)
        self.concat: Callable[[Iterable[str]], str] = lambda parts: joined(list(parts))
        self.filters = {name: _guarded(function) for name, function in self.filters.items()} | _FILTERS
        self.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute; bytes are not followed, so text cannot become bytes."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr == "encode")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call in the template: of a string's method, a macro, or a function from outside."""
        if isinstance(__obj, Macro):
            return super().call(__context, __obj, *args, **kwargs)
        owner = getattr(__obj, "__self__", None)
        if type(owner) is str and _found((args, kwargs)):
            __obj = getattr(_Traced(owner, TEMPLATE * len(owner)), __obj.__name__)
        inputs = (owner if isinstance(owner, str) else None, args, kwargs)
        return _settled(super().call(__context, __obj, *args, **kwargs), inputs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators `%` and `*`."""
        return _settled(super().call_binop(context, operator, left, right), (left, right))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that may do anything with text: what it returns belongs to the authors of what it was given."""

    @functools.wraps(function)  # keeps the marks by which Jinja knows what to pass first
    def guarded(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return _settled(str.__str__(result) if isinstance(result, _Traced) else result, (args, kwargs))

    return guarded


@pass_environment
def _join(
    environment: TracingEnvironment, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    items = map(make_attrgetter(environment, attribute), value) if attribute is not None else value
    return joined([_shown(item) for item in items], d)


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = _shown(value)
    return _Traced(text, authors_of(text)).replace(old, _shown(new), -1 if count is None else count)


def _trim(value: Any, chars: str | None = None) -> str:
    return _shown(value).strip(chars)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


_ELEMENTS = {
    "attr",
    "batch",
    "d",
    "default",
    "dictsort",
    "first",
    "groupby",
    "items",
    "last",
    "list",
    "map",
    "max",
    "min",
}
_ELEMENTS |= {"random", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "sort", "sum", "unique"}
_FILTERS: dict[str, Callable[..., Any]] = {name: FILTERS[name] for name in _ELEMENTS}  # hand on what they are given
_FILTERS |= {"join": _join, "replace": _replace, "string": _shown, "trim": _trim, "tojson": _guarded(_to_json)}
"""Filters that keep authors by themselves."""
