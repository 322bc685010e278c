r"""A model's reply as safe HTML, block by block, so that a growing reply never changes what is already shown.

    render("# Hi") -> '<h3>Hi</h3>'
    growing = Growing()
    for piece in reply:
        for block in growing.push(piece):      # only what is new: Block(index, html)
            show(block.index, block.html)

A reply is hostile until shown otherwise: it may repeat what a web page told the model. Raw HTML is shown as text, links
lead to web and mail addresses only, pictures are links (loading one would tell a stranger who reads what), and what is
made of all that is cleaned once more by an allow-list of elements, attributes and classes.

Markdown is read line by line: a block (paragraph, list, table, fence) is over when a *complete* line begins another.
So all blocks but the last of the complete lines are settled, and only the rest is read again when the reply grows:

    settled | growing                          each push costs the growing rest, not the whole reply
    [p] [ul] [fence] | [p ...

The one part of Markdown where a later line changes an earlier block is left out: link references (`[name]: address`).

Sources: CommonMark 0.31 (https://spec.commonmark.org, appendix "A parsing strategy"), with tables and strikethrough.
LaTeX between `$`, `$$`, `\(` `\)` and `\[` `\]` becomes MathML, which browsers draw by themselves.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from html import escape
from typing import Any

import nh3
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import find_lexer_class_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

LONGEST_CODE = 40_000
"""Characters of a code block that are coloured; a longer one is shown plain, at once."""
LONGEST_FORMULA = 2_000
"""Characters of a formula that is typeset; a longer one is shown as it was written."""
LARGE_BLOCK = 4_000
"""Characters from which a growing block is drawn again only when it has grown by a noticeable part."""
_PART = 24  # that part: 1/24 of the block


def _words(text: str) -> set[str]:
    return set(text.split())


_MATH = _words(
    "math maction menclose merror mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace "
    "msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none"
)
_MATH_ATTRIBUTES = _words(
    "accent accentunder align columnalign columnlines columnspacing depth display displaystyle fence form frame height "
    "linebreak linethickness lspace mathcolor mathsize mathvariant maxsize minsize movablelimits notation rowalign "
    "rowlines rowspacing rspace scriptlevel separator stretchy symmetric voffset width"
)
_TEXT = _words(
    "p h3 h4 h5 h6 br hr strong em s del code pre blockquote ul ol li table thead tbody tr th td a span div sup sub"
)


def _kept(element: str, attribute: str, value: str) -> str | None:
    """An attribute's value, if it may stay: a link must say where it leads, and not to this server."""
    return value if attribute != "href" or _ADDRESS.match(value) else None


_ADDRESS = re.compile(r"https?://|mailto:", re.IGNORECASE)
_CLEANER = nh3.Cleaner(
    tags={*_TEXT, *_MATH},
    attributes={
        "a": {"href", "title"},
        "ol": {"start"},
        "pre": {"data-language", "tabindex"},
        "div": {"tabindex"},
        "th": {"data-align"},
        "td": {"data-align"},
        **dict.fromkeys(_MATH, _MATH_ATTRIBUTES),
    },
    allowed_classes={
        "span": {name for name in STANDARD_TYPES.values() if name} | {"formula"},
        "div": {"table", "formula"},
    },
    url_schemes={"http", "https", "mailto"},
    attribute_filter=_kept,
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
)


@dataclass(frozen=True)
class Block:
    """A block of a reply that is new or has changed."""

    index: int
    """Which of the reply's blocks it is, from 0."""
    html: str
    """What it looks like now; "" where it has become part of the block before it."""


def render(text: str, *, breaks: bool = True) -> str:
    """A whole text as safe HTML; `breaks` says whether lines end where the text's do, as in a chat."""
    return "\n".join(html for _, html in _blocks(_normal(text), breaks))


def blocks(text: str) -> list[str]:
    """A whole text as safe HTML, a string for each of its top-level blocks."""
    return [html for _, html in _blocks(_normal(text))]


class Growing:
    """A reply that is still being written: tells what of its HTML changed with each piece.

    Blocks shown before the last one of the complete lines never change again. The pieces may be of any size, and are
    cut anywhere; after `flush` the blocks are those of `blocks(text)`.
    """

    def __init__(self) -> None:
        self._rest = ""  # the text from the first block that may still change
        self._settled = 0
        self._shown: list[str] = []  # of the rest
        self._drawn = 0  # characters of the rest when it was last drawn

    def push(self, piece: str) -> list[Block]:
        """Adds to the reply; returns the blocks that look different now, in order.

        A large block that has hardly grown waits for more, so that it is not drawn anew for each of its words.
        """
        rest = self._rest + piece
        self._rest = rest
        grown = len(rest) - self._drawn
        if "\n" not in piece and self._drawn > LARGE_BLOCK and grown * _PART < self._drawn:
            return []
        if self._drawn > LARGE_BLOCK and grown * _PART < self._drawn and not self._over():
            return []
        return self._draw()

    def flush(self) -> list[Block]:
        """The blocks that changed since the last drawing; the reply is over."""
        return self._draw()

    def _over(self) -> bool:
        """Whether the large block may have ended: an empty line, or the end of a fence, came last."""
        end = self._rest[self._drawn - 1 :] if self._drawn else self._rest
        return "\n\n" in end or "\n```" in end or "\n~~~" in end

    def _draw(self) -> list[Block]:
        text = _normal(self._rest.removesuffix("\r"))  # the other half of a line's end may be coming
        complete = text[: text.rfind("\n") + 1]
        starts = [start for start, _ in _groups(complete)]
        last = _line_offset(complete, starts[-1]) if len(starts) > 1 else 0
        settled = [html for _, html in _blocks(text[:last])] if last else []
        self._rest = text[last:] + ("\r" if self._rest.endswith("\r") else "")
        now = settled + [html for _, html in _blocks(text[last:])]
        before = self._shown + [""] * (len(now) - len(self._shown))
        after = now + [""] * (len(before) - len(now))
        changed = [
            Block(self._settled + index, new)
            for index, (old, new) in enumerate(zip(before, after, strict=True))
            if old != new
        ]
        self._settled += len(settled)
        self._shown = now[len(settled) :]
        self._drawn = len(self._rest)
        return changed


def _normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line_offset(text: str, line: int) -> int:
    """Where a line begins, in characters."""
    offset = 0
    for _ in range(line):
        offset = text.index("\n", offset) + 1
    return offset


def _groups(
    text: str, environment: dict[str, Any] | None = None, breaks: bool = True
) -> Iterator[tuple[int, list[Token]]]:
    """Each top-level block: the line that it begins at, and its tokens."""
    group: list[Token] = []
    depth = 0
    for token in _reader(breaks).parse(text, {} if environment is None else environment):
        group.append(token)
        depth += token.nesting
        if depth == 0:
            yield (group[0].map or [0])[0], group
            group = []


def _blocks(text: str, breaks: bool = True) -> Iterator[tuple[int, str]]:
    reader, environment = _reader(breaks), dict[str, Any]()
    for start, group in _groups(text, environment, breaks):
        yield start, _CLEANER.clean(reader.renderer.render(group, reader.options, environment)).strip()


@cache
def _reader(breaks: bool) -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": breaks, "maxNesting": 20})
    reader.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline"])
    reader.inline.ruler.before("escape", "formula", _formula)
    reader.block.ruler.before("fence", "formula_block", _formula_block, {"alt": ["paragraph", "blockquote", "list"]})
    rules: dict[str, Any] = {
        "fence": _fence,
        "code_block": _fence,
        "image": _image,
        "formula": _draw_formula,
        "formula_block": _draw_formula_block,
        "table_open": lambda *_: '<div class="table" tabindex="0"><table>',
        "table_close": lambda *_: "</table></div>",
        "heading_open": lambda tokens, index, *_: f"<h{_level(tokens[index])}>",
        "heading_close": lambda tokens, index, *_: f"</h{_level(tokens[index])}>",
        "th_open": _cell,
        "td_open": _cell,
    }
    for name, rule in rules.items():
        reader.add_render_rule(name, lambda renderer, *arguments, rule=rule: rule(*arguments))
    return reader


def _level(token: Token) -> int:
    """Headings of a reply stand below those of the page, which has two levels of its own."""
    return min(int(token.tag[1]) + 2, 6)


def _cell(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    token = tokens[index]
    align = str(token.attrGet("style") or "").removeprefix("text-align:")  # the page allows no inline style
    return f"<{token.tag}" + (f' data-align="{escape(align)}">' if align else ">")


def _fence(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    token = tokens[index]
    language = token.info.split()[0][:30] if token.info.split() else ""
    code = token.content
    coloured = _coloured(code, language) if language and len(code) <= LONGEST_CODE else escape(code, quote=False)
    return f'<pre data-language="{escape(language)}" tabindex="0"><code>{coloured}</code></pre>'


def _coloured(code: str, language: str) -> str:
    lexer = _lexer(language.lower())
    if lexer is None:
        return escape(code, quote=False)
    return highlight(code, lexer(stripnl=False, ensurenl=False), _formatter())


@cache
def _formatter() -> HtmlFormatter:
    return HtmlFormatter(nowrap=True)


@lru_cache(maxsize=256)  # names come from the reply: not all of them are kept
def _lexer(language: str) -> Any:
    try:
        return find_lexer_class_by_name(language)
    except ClassNotFound:
        return None


def _image(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    token = tokens[index]
    label = RendererHTML().renderInlineAsText(token.children, options, environment) or "image"
    return f'<a href="{escape(str(token.attrGet("src") or ""))}">{escape(label)}</a>'


def _draw_formula(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    token = tokens[index]
    return f'<span class="formula">{_typeset(token.content, "block" if token.markup in _WIDE else "inline")}</span>'


def _draw_formula_block(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    # a wide formula is scrolled with the arrow keys too
    return f'<div class="formula" tabindex="0">{_typeset(tokens[index].content, "block")}</div>'


def _typeset(formula: str, display: str) -> str:
    formula = formula.strip()
    if len(formula) <= LONGEST_FORMULA:
        try:
            return convert(formula, display=display)
        except Exception:  # whatever the converter makes of half a formula: it is shown as it was written
            pass
    return f"<code>{escape(formula)}</code>"


_CLOSING = {"$$": "$$", "\\[": "\\]", "$": "$", "\\(": "\\)"}
_WIDE = ("$$", "\\[")


def _formula(state: StateInline, silent: bool) -> bool:
    r"""`$x$`, `$$x$$`, `\(x\)` or `\[x\]` within a line. Dollars with a space inside or a digit beside are money."""
    source, begin = state.src, state.pos
    opening = next((mark for mark in _CLOSING if source.startswith(mark, begin)), None)
    if opening is None:
        return False
    inside = begin + len(opening)
    end = source.find(_CLOSING[opening], inside, min(state.posMax, inside + LONGEST_FORMULA))
    content = source[inside:end]
    if end < 0 or not content.strip():
        return False
    after = end + len(opening)
    if opening == "$" and (
        content != content.strip()
        or content.endswith("\\")
        or source[after : after + 1].isdigit()
        or source[max(begin - 1, 0) : begin].isdigit()
    ):
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = content, opening
    state.pos = after
    return True


def _formula_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    r"""`$$` or `\[` at a line's beginning, to the line that ends in the closing mark, or to an empty line.

    Like a fence, it is a block from its first line on: whether it is ever closed must not change what came before.
    """
    line = _line(state, first)
    opening = line[:2]
    if opening not in _WIDE or state.is_code_block(first):
        return False
    closing = _CLOSING[opening]
    closed = closing in line[2:]
    if closed and not (line.rstrip().endswith(closing) and line.count(closing, 2) == 1):
        return False  # a sentence that begins with a formula
    if silent:
        return True
    content, next_line = [line[2:]], first + 1
    while (
        not closed and next_line < last and not state.isEmpty(next_line) and state.sCount[next_line] >= state.blkIndent
    ):
        content.append(_line(state, next_line))
        closed = content[-1].rstrip().endswith(closing)
        next_line += 1
    text = "\n".join(content)
    token = state.push("formula_block", "math", 0)
    token.content = text.rstrip().removesuffix(closing)
    token.map = [first, next_line]
    state.line = next_line
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
