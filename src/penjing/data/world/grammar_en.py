"""English: phrases and clauses of `syntax` as words in order.

Agreement, articles, do-support, inversion and fronting of question words, and the case of pronouns are done here;
what the sentence means is not looked at.
"""

from functools import lru_cache

from penjing.data.world.lexicon.entries import Adjective, Name, Person, Place, Thing, Word
from penjing.data.world.lexicon.numbers import number_words
from penjing.data.world.syntax import BE_A, BE_AT, BE_LIKE, HAVE, Clause, NounPhrase, Phrase, Several, Speaker, They

LANGUAGE = "en"
STOP, QUESTION, COMMA, SPACE = ".", "?", ", ", " "

_AN = ("hour", "honest", "heir")
_A = ("uniform", "unit", "univers", "unicorn", "unique", "unicycle", "use", "usu", "eur", "one", "ukulele")
_BE = (BE_A, BE_AT, BE_LIKE)
_MODAL = {"future": "will", "can": "can", "must": "must", "should": "should"}
_QUESTION_WORD = {"s": "who", "o": "what", "r": "who", "p": "where", "q": "what", "when": "when"}


@lru_cache(maxsize=1 << 14)
def article(word: str) -> str:
    """The word after its indefinite article: `an apple`, `a university`, `an hour`."""
    vowel = (word[0] in "aeiouAEIOU" and not word.startswith(_A)) or word.startswith(_AN)
    return ("an " if vowel else "a ") + word


def number(n: int, digits: bool = False) -> str:
    """A number in words or digits."""
    return str(n) if digits else number_words(n, "en")


def plural(word: str) -> str:
    """The regular plural of a word that has none in the lexicon (cups, boxes, loaves)."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word == "loaf":
        return "loaves"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def noun(head: Thing | Person | Place | Word, count: int) -> str:
    """The noun in the number of `count`; what cannot be counted goes with its measure (two cups of water)."""
    if isinstance(head, Thing) and head.number != "count":
        measure = head.partitive or "piece"
        return f"{measure if count == 1 else plural(measure)} of {head.en}"
    return head.en if count == 1 else head.plural or head.en


def _with(adjectives: tuple[Adjective | Word, ...], word: str) -> str:
    return " ".join([a.en for a in adjectives] + [word])


def noun_phrase(p: NounPhrase, case: str = "subject") -> str:
    """A noun phrase; `case` is subject or object (he, him)."""
    if isinstance(p, Name):
        return p.en
    if isinstance(p, Phrase):
        return _phrase(p)
    if isinstance(p, They):
        female = p.person.gender == "f"
        if case == "subject":
            return "she" if female else "he"
        return "her" if female else "him"
    if isinstance(p, Speaker):
        return p.en if case == "subject" else p.en_object
    return enumeration([noun_phrase(m, case) for m in p.members])


def _phrase(p: Phrase) -> str:
    head, det = p.head, p.det
    if p.who is not None:
        bare = Phrase(head, det, p.adjectives, p.number, p.owner)
        relative = "who" if isinstance(head, Person) else "that"
        return f"{_phrase(bare)} {relative} {predicate(p.who)}"
    uncounted = isinstance(head, Thing) and head.number != "count"
    if det == "a":
        return article(_with(p.adjectives, noun(head, 1)))
    if det == "count":
        return f"{number(p.number, p.digits)} {_with(p.adjectives, noun(head, p.number))}"
    word = head.en if p.number == 1 or uncounted else head.plural or head.en
    if det == "owned" and p.owner is not None:
        return f"{owner(p.owner)} {_with(p.adjectives, word)}"
    if det == "bare":
        return _with(p.adjectives, word)
    return f"{det} {_with(p.adjectives, word)}"


def owner(p: "Name | Speaker | They") -> str:
    """The possessive: Mia's, my, her."""
    if isinstance(p, Name):
        return p.en + ("'" if p.en.endswith("s") else "'s")
    if isinstance(p, They):
        return "her" if p.person.gender == "f" else "his"
    return p.en_owner


def enumeration(parts: list[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


@lru_cache(maxsize=4096)
def where(place: Place) -> str:
    """In the kitchen, at home."""
    return f"{place.prep} {place.article} {place.en}" if place.article else f"{place.prep} {place.en}"


def the(place: Place) -> str:
    """The kitchen, home."""
    return f"{place.article} {place.en}" if place.article else place.en


def agreement(p: NounPhrase) -> str:
    """3 (he), p (they), or 1 (I): which verb form the subject takes."""
    if isinstance(p, Phrase):
        uncounted = isinstance(p.head, Thing) and p.head.number == "plural" and p.det not in ("a", "count")
        return "p" if p.number != 1 or uncounted else "3"
    if isinstance(p, Several):
        return "p"
    if isinstance(p, Speaker):
        return "1" if p.en == "I" else "p"
    return "3"


def _verb(c: Clause, person: str, invert: bool) -> tuple[str, str]:
    """The auxiliary (possibly empty) and the main verb's form."""
    verb, tense = c.verb, c.tense
    third = person == "3"
    if tense in _MODAL:
        modal = _MODAL[tense]
        if c.negated:
            modal += "not" if modal == "can" and not invert else " not"
        return modal, verb.base
    if verb in _BE and tense in ("past", "present"):
        if tense == "past":
            form = "were" if person == "p" else "was"
        else:
            form = "is" if third else "am" if person == "1" else "are"
        return form + (" not" if c.negated else ""), ""
    no = " not" if c.negated else ""
    if tense in ("now", "was"):
        if tense == "was":
            be = "were" if person == "p" else "was"
        else:
            be = "is" if third else "am" if person == "1" else "are"
        return be + no, verb.ing
    if tense == "done":
        return ("has" if third else "have") + no, verb.participle
    if tense == "base":
        return "", verb.base
    if no or invert:
        return ("did" if tense == "past" else "does" if third else "do") + no, verb.base
    if tense == "past":
        return "", verb.past
    return "", verb.third if third else verb.base


def _governed(c: Clause, gap: str) -> str:
    """What follows the verb, without what is asked for; a preposition of something asked for stays behind."""
    words = []
    if c.verb.particle:
        words.append(c.verb.particle)
    for preposition, slot in c.verb.en:
        if slot == gap:
            if preposition and slot != "p":
                words.append(preposition)
            continue
        if slot == "p":
            if c.place is not None:
                words.append(_towards(preposition, c.place))
            continue
        if slot == "q":
            if c.quality is not None:
                words.append(f"{c.degree} {c.quality.en}" if c.degree else c.quality.en)
            continue
        value = c.obj if slot == "o" else c.to
        if value is not None:
            words.append(
                f"{preposition} {noun_phrase(value, 'object')}" if preposition else noun_phrase(value, "object")
            )
    if c.content is not None:
        words.append("that " + clause(c.content))
    if c.manner is not None:
        words.append(c.manner.en)
    if c.scene is not None and gap != "p":
        words.append(where(c.scene))
    if c.when is not None and gap != "when":
        words.append(c.when[0])
    return " ".join(words)


def _towards(preposition: str, place: Place) -> str:
    if not preposition:
        return where(place)
    return the(place) if place.en == "home" else f"{preposition} {the(place)}"


def predicate(c: Clause) -> str:
    """The clause without its subject."""
    return _join(*_verb(c, agreement(c.subject), False), _governed(c, ""))


def clause(c: Clause) -> str:
    """The clause in the order of a statement, without capital and stop."""
    return f"{noun_phrase(c.subject)} {predicate(c)}"


def question(c: Clause, slot: str) -> str:
    """The question for one part of the clause (`y`: yes or no), without capital and question mark."""
    if slot == "s":
        return _join("who", *_verb(c, "3", False), _governed(c, ""))
    aux, form = _verb(c, agreement(c.subject), True)
    aux, _, no = aux.partition(" ")
    head = "" if slot == "y" else _question_word(c, slot)
    return _join(head, aux, noun_phrase(c.subject), no, form, _governed(c, slot))


def _question_word(c: Clause, slot: str) -> str:
    return "who" if slot == "o" and isinstance(c.obj, Name) else _QUESTION_WORD[slot]


def embedded(c: Clause, slot: str) -> str:
    """The question as it stands inside a sentence: `where Tom is`, `whether Tom is in the garden`."""
    if slot == "s":
        return question(c, slot)
    head = "whether" if slot == "y" else _question_word(c, slot)
    return _join(head, noun_phrase(c.subject), *_verb(c, agreement(c.subject), False), _governed(c, slot))


def _join(*parts: str) -> str:
    return " ".join([part for part in parts if part])


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def sentence(text: str, stop: str = ".") -> str:
    """A clause's words as a sentence."""
    return text[0].upper() + text[1:] + stop


def speech(speaker: str, text: str, verb: str) -> str:
    """A sentence in direct speech: Tom said, "I am here."."""
    return f'{speaker} {verb}, "{text}"'


__all__ = [
    "HAVE",
    "agreement",
    "article",
    "capital",
    "clause",
    "embedded",
    "enumeration",
    "noun",
    "noun_phrase",
    "number",
    "owner",
    "plural",
    "predicate",
    "question",
    "sentence",
    "speech",
    "the",
    "where",
]
