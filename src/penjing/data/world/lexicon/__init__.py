"""The bilingual lexicon of the generated world: English and Simplified Chinese, word for word.

`lexicon()` gives all of it; `number_words` and its fellows say numbers; `counts` reports how many words there are.
"""

from penjing.data.world.lexicon.entries import (
    Adjective,
    Adverb,
    Antonym,
    Category,
    Country,
    Name,
    Person,
    Place,
    Thing,
    Verb,
    Word,
)
from penjing.data.world.lexicon.lexicon import Entry, Lexicon, counts, lexicon
from penjing.data.world.lexicon.numbers import count_words, number_words, ordinal_words, parse_number

__all__ = [
    "Adjective",
    "Adverb",
    "Antonym",
    "Category",
    "Country",
    "Entry",
    "Lexicon",
    "Name",
    "Person",
    "Place",
    "Thing",
    "Verb",
    "Word",
    "count_words",
    "counts",
    "lexicon",
    "number_words",
    "ordinal_words",
    "parse_number",
]
