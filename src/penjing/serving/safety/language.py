"""Which of our two languages a text is in, by its letters."""

import regex

_HAN = regex.compile(r"\p{Han}")
_LETTER = regex.compile(r"\p{L}")


def language_of(text: str) -> str:
    """Chinese, "zh", where a fifth of the letters are Chinese characters, of which each says more; else "en".

    >>> language_of("这个 Python 函数"), language_of("the character 盆 means pot")
    ('zh', 'en')
    """
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_HAN.findall(text)) * 5 >= letters else "en"
