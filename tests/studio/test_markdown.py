"""Markdown: what it looks like, that it harms no one, that a growing reply never changes what was shown."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.studio.markdown import LARGE_BLOCK, LONGEST_CODE, Growing, blocks, render

# what Markdown is made of, and what has changed the meaning of earlier lines in one parser or another
PARTS = (
    "a b *-+_`~|#>$[]()!<&\\\n \t0123.:=",
    ["\n\n", "- ", "1. ", "    ", "```", "```py\n", "~~~", "---", "===", "***", "$$", "\\[", "\\]", "\\(", "\\)"],
    ["| a | b |\n", "|---|--:|\n", "a\n", "> ", "# ", "[a]: http://x\n", "[a]", "[a](b)", "**", "<b>", "<!--", "\r\n"],
    ["<script>", "javascript:", "盆景", "$x^2$", "\\frac{1}", "  - ", "* * *", "`` ` ``", "\x00", "\r"],
)
TEXTS = st.lists(st.sampled_from([*PARTS[0], *PARTS[1], *PARTS[2], *PARTS[3]]), max_size=40).map("".join)


def shown(pieces: list[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """What a page shows in the end, and what it showed after each piece."""
    growing, page, history = Growing(), dict[int, str](), []
    for piece in [*pieces, None]:
        for block in growing.flush() if piece is None else growing.push(piece):
            page[block.index] = block.html
        history.append((len(page), [page[index] for index in sorted(page)]))
    assert sorted(page) == list(range(len(page)))  # no block is skipped
    while page and page[len(page) - 1] == "":
        del page[len(page) - 1]
    return [page[index] for index in sorted(page)], history


@settings(max_examples=150, deadline=None, derandomize=True)
@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_a_reply_that_grew_looks_like_the_same_reply_at_once(text, sizes):
    """However it was cut. Oracle: `blocks` of the whole text; exact."""
    pieces, start, turn = [], 0, 0
    while start < len(text):
        pieces.append(text[start : start + sizes[turn % len(sizes)]])
        start, turn = start + len(pieces[-1]), turn + 1
    expected = blocks(text)
    while expected and expected[-1] == "":
        expected.pop()
    assert shown(pieces)[0] == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(TEXTS, TEXTS)
def test_only_the_end_of_a_reply_changes_while_it_grows(beginning, rest):
    """Blocks before the last one of the complete lines are final: the same in every longer text; exact."""
    complete = beginning[: beginning.rfind("\n") + 1]
    settled = blocks(complete)[:-1]
    assert blocks(complete + rest)[: len(settled)] == settled


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("*a* **b** ~~c~~ `d`", "<p><em>a</em> <strong>b</strong> <s>c</s> <code>d</code></p>"),
        ("# a", "<h3>a</h3>"),
        ("###### a", "<h6>a</h6>"),
        ("a\nb", "<p>a<br>\nb</p>"),
        ("```\n<b>\n```", '<pre data-language="" tabindex="0"><code>&lt;b&gt;\n</code></pre>'),
        ("it costs $5, or $6 for two", "<p>it costs $5, or $6 for two</p>"),
        ("US$5 and US$6", "<p>US$5 and US$6</p>"),
        ("[a]: http://x\n[a]", "<p>[a]: http://x<br>\n[a]</p>"),
    ],
)
def test_what_markdown_looks_like(text, html):
    assert render(text) == html


def test_lines_of_a_page_flow_together_and_those_of_a_chat_do_not():
    assert render("a\nb", breaks=False) == "<p>a\nb</p>"
    assert render("a\nb") == "<p>a<br>\nb</p>"


@pytest.mark.parametrize("address", ["/api/session", "x.html", "//elsewhere.example/x", "?x", "#x"])
def test_a_link_that_does_not_say_where_it_leads_is_none(address):
    """Such a link would lead to this server, with its reader's session."""
    assert "href" not in render(f"[a]({address}) ![b]({address})")


def test_code_is_coloured_by_its_language():
    html = render("```python\nreturn 1\n```")
    assert '<span class="k">return</span>' in html
    assert 'data-language="python"' in html
    assert render("```nosuchlanguage\nreturn 1\n```").endswith("<code>return 1\n</code></pre>")


@pytest.mark.parametrize("text", ["$a^2$", "\\(a^2\\)", "$$a^2$$ is it", "\\[a^2\\]", "$$\na^2\n$$", "\\[\na^2\n\\]"])
def test_formulas_become_mathml(text):
    assert "<msup><mi>a</mi><mn>2</mn></msup>" in render(text)


def test_a_formula_in_a_list_belongs_to_its_item():
    html = render("- one\n  $$\n  a^2\n  $$\n- two")
    assert html.count("<li>") == 2
    assert re.search(r"<li>one\s*<div class=.formula.*</div>\s*</li>", html, re.DOTALL)


def test_half_a_formula_is_shown_as_it_was_written():
    assert "<code>x^2^3</code>" in render("$$\nx^2^3\n")


class Attributes(HTMLParser):
    """Every element and attribute of an HTML text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](java\tscript:alert(1))",
    "<javascript:alert(1)>",
    "![a](javascript:alert(1))",
    "![a](data:image/svg+xml;base64,PHN2Zz4=)",
    "![a](https://elsewhere.example/spy.png)",
    '[a](https://x.example "onmouseover=alert(1)")',
    '```"><script>alert(1)</script>\nx\n```',
    "```html\n<script>alert(1)</script>\n```",
    "$\\text{<script>alert(1)</script>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "$$\n\\begin{matrix} <img src=x onerror=alert(1)> \\end{matrix}\n$$",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "| a |\n|---|\n| <iframe src=//x> |",
    "<a href='vbscript:x' style='position:fixed'>a</a>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_reply_is_harmless(text):
    """No element runs, loads or frames anything; no attribute is a handler or a style; links lead to the web only."""
    seen = Attributes(render(text) + render(f"- > {text}"))
    assert not seen.tags & {
        "script",
        "img",
        "svg",
        "iframe",
        "style",
        "object",
        "embed",
        "form",
        "link",
        "meta",
        "base",
    }
    for name, value in seen.attributes:
        assert not name.startswith("on")
        assert name not in {"style", "src", "srcdoc", "id", "name", "formaction", "xlink:href"}
        if name == "href":
            assert re.match(r"https?://|mailto:", value), value


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*PARTS[1], *PARTS[2], *PARTS[3], *HOSTILE]), max_size=12).map("".join))
def test_hostile_pieces_are_harmless_however_they_are_put_together(text):
    seen = Attributes(render(text))
    assert not seen.tags & {"script", "img", "svg", "iframe", "style", "form"}
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("style", "src", "id")]


def typical(size: int) -> str:
    part = (
        "## A heading\n\nSome words with **bold**, `code` and $a^2 + b^2$, and 一些中文.\n\n"
        "- one\n- two\n\n```python\ndef f(x):\n    return x + 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    )
    return part * (size // len(part))


def seconds(work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def test_what_a_growing_reply_costs_grows_with_it_and_not_faster():
    """Twice the text, pushed by pieces of 8 characters: about twice the work (a whole redraw each would be 4 times).

    The bound of 3 leaves room for a noisy machine, and still fails where every push reads the whole reply.
    """

    def grow(text: str) -> None:
        growing = Growing()
        for start in range(0, len(text), 8):
            growing.push(text[start : start + 8])
        growing.flush()

    short, long = typical(2_000), typical(4_000)
    grow(short)
    assert min(seconds(lambda: grow(long)) for _ in range(2)) < 3 * min(seconds(lambda: grow(short)) for _ in range(2))


def test_one_block_of_200_kb_is_drawn_some_dozens_of_times_only():
    """Each time it is some per cent larger: log(200,000 / 4,000) / log(25 / 24) times."""
    growing, drawn = Growing(), 0
    for _ in range(40_000):
        was = len(growing._rest)
        drawn += bool(growing.push("word ")) and was > LARGE_BLOCK
    assert 80 < drawn < 110


def test_a_code_block_that_is_too_long_to_colour_is_shown_plain():
    assert "<span" not in render("```python\n" + "return 1\n" * (LONGEST_CODE // 9 + 1) + "```")


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "*a ",
        "`a ",
        "\\(",
        "$a",
        "> ",
        "- ",
        "![](",
        "<",
        "| ",
        "\\[\n",
        "$$\n",
        "_a**b",
        "&",
        "~~~\n",
        "[a](",
        "``a`",
    ],
)
def test_no_short_pattern_repeated_takes_more_than_its_length(unit):
    """The classic denial of service by Markdown: 4 times the text takes less than 9 times as long (16: quadratic).

    Tiny times are not compared: under 0.1 s for 12 KB nothing is slow.
    """
    short, long = unit * (3_000 // len(unit)), unit * (12_000 // len(unit))
    render(short)
    whole = min(seconds(lambda: render(long)) for _ in range(2))
    assert whole < 0.1 or whole < 9 * seconds(lambda: render(short)), whole


@pytest.mark.slow
def test_a_200_kb_reply_is_drawn_within_seconds():
    """As a whole, and token by token; times are printed, the bound is generous."""
    text = typical(200_000)
    whole = seconds(lambda: render(text))
    growing = Growing()

    def grow() -> None:
        for start in range(0, len(text), 4):
            growing.push(text[start : start + 4])

    by_token = seconds(grow)
    print(f"200 KB at once: {whole:.2f} s; in {len(text) // 4} tokens: {by_token:.1f} s")
    assert whole < 10
    assert by_token < 100
