"""Which language a text is in, as far as its letters tell.

    Han characters without kana     Chinese          kana       Japanese         Hangul     Korean
    Latin letters and the commonest English words    English, else another language in Latin letters
    Cyrillic, Arabic, ...           the script's name

Letters are counted, and a Han character or a syllable of Hangul counts for two, as it says about as much. Enough to see
what a data set is made of; telling Dutch from German needs a model.
"""

from collections import Counter

import regex

_SCRIPTS = {
    "Han": "Chinese",
    "Hiragana": "Japanese",
    "Katakana": "Japanese",
    "Hangul": "Korean",
    "Latin": "Latin",
    "Cyrillic": "Cyrillic",
    "Arabic": "Arabic",
    "Devanagari": "Devanagari",
    "Greek": "Greek",
    "Hebrew": "Hebrew",
    "Thai": "Thai",
}
_FINDERS = {script: regex.compile(rf"\p{{Script={script}}}") for script in _SCRIPTS}
_ENGLISH = frozenset(
    {
        *("the", "of", "and", "to", "a", "in", "is", "it", "you", "that", "for", "are", "with", "this", "have", "from"),
        *(
            "or",
            "by",
            "not",
            "but",
            "what",
            "all",
            "when",
            "your",
            "can",
            "an",
            "which",
            "how",
            "do",
            "if",
            "will",
            "i",
        ),
    }
)
_LONGEST = 20_000
"""Characters that are looked at."""


def language_of(text: str) -> str:
    """The language's name in English; "none" for a text without letters.

    >>> language_of("盆景是什么？"), language_of("What is it?"), language_of("2 + 2")
    ('Chinese', 'English', 'none')
    """
    text = text[:_LONGEST]
    counts: Counter[str] = Counter()
    for script, finder in _FINDERS.items():
        weight = 2 if script in ("Han", "Hangul") else 1
        if found := len(finder.findall(text)):
            counts[_SCRIPTS[script]] += weight * found
    if not counts:
        return "none"
    if counts["Japanese"] > 0.1 * counts["Chinese"] and counts["Japanese"] > 1:
        counts["Japanese"] += counts.pop("Chinese", 0)
    language = counts.most_common(1)[0][0]
    if language != "Latin":
        return language
    words = regex.findall(r"[a-z]+", text.lower())
    common = sum(word in _ENGLISH for word in words)
    return "English" if common >= 0.1 * len(words) or not _marked(text) else "Latin letters"


def _marked(text: str) -> bool:
    """Whether there are letters that English hardly has."""
    return bool(regex.search(r"[À-ÖØ-öø-žœŒ]", text))
