"""Rules of quality: good text of both languages passes, each kind of poor text breaks the rule that is made for it."""

import pytest

from penjing.data.cleaning import Quality
from penjing.errors import ConfigError

GOOD = (
    "The river rises in the hills behind the town and runs to the sea in three days. In spring it carries wood and "
    "stones with it, and people who live near it know by its sound how high it will be. When the old bridge fell, they "
    "built another one of stone, a little higher up, that has been there for a hundred years and will be there longer."
)
ZH = (
    "这条河发源于小镇背后的山里，三天之后流入大海。春天它带着木头和石块，住在附近的人一听水声，就知道它会涨到多高。"
    "旧桥塌了以后，人们在上游造了一座石桥，一百年过去了，它还在那里。"
)


def test_good_text_passes():
    assert Quality().fault(GOOD) is None
    assert Quality().fault(ZH) is None
    assert Quality().fault(GOOD + "\n" + ZH) is None


def test_books_pass(data):
    """Shakespeare and the Chinese novel in pieces of 5,000 characters: at least 98 in 100 pass."""
    for name in ("text/tinyshakespeare.txt", "text/zh/hongloumeng.txt"):
        whole = (data / name).read_text(encoding="utf-8")[:500_000]
        pieces = [whole[i : i + 5000] for i in range(0, len(whole), 5000)]
        faults = [Quality().fault(piece) for piece in pieces]
        assert sum(fault is None for fault in faults) >= 0.98 * len(pieces), (name, {f for f in faults if f})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Home. About. Contact.", "too few words"),
        (GOOD.replace(" ", " # "), "symbols"),
        (" ".join(f"https://example.org/{i}/{'x' * 30}" for i in range(40)).replace("/", ""), "length of words"),
        (" ".join(f"{i} . {i * 7} |" for i in range(100, 200)), "words without letters"),
        ("word " * 3 + " ".join(f"buy cheap shoes online number{chr(97 + i)}" for i in range(20)), "no stop words"),
        ("\n".join(f"- {line} and more" for line in GOOD.split(", ") + ZH.split("，")), "bullets"),
        ("\n".join(f"{line} ..." for line in [*GOOD.split(". "), *ZH.split("。")]), "symbols|ellipses"),
        ("\n".join([*GOOD.split(". "), *["All rights reserved by the owner."] * 4]), "repeated lines"),
        (GOOD + " I agree to the terms." * 40, "repeated words"),
        (GOOD.replace("r", "\ufffd"), "broken characters"),
    ],
)
def test_poor_text_breaks_its_rule(text, fault):
    assert Quality().fault(text) in fault.split("|")


def test_thresholds_can_be_moved():
    assert Quality(least_words=3).fault("Three words here.") != "too few words"
    assert Quality(least_words=5, most_words=10).fault(GOOD) == "too many words"
    with pytest.raises(ConfigError, match="none would be kept"):
        Quality(least_words=5, most_words=4)
