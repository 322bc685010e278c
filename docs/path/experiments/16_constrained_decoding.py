"""A small model writes JSON, free and bound to a schema: what is valid, what is right, what a mask costs."""

import json
import re
import time
from collections.abc import Callable

import numpy as np
from common import Stream, arguments, llama, loader, table, texts, train

from penjing.data.loader import validation_batches
from penjing.errors import GenerationError
from penjing.inference.constrained import GrammarConstraint, Vocabulary, compile_schema
from penjing.inference.generate import complete
from penjing.inference.sampling import Sampling
from penjing.models.language_model import LanguageModel
from penjing.tokenizer import Tokenizer
from penjing.training.muon import Muon
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH, WIDTH = 128, 16, 96
ASKED, NEW, REPEATS = 48, 64, 5
TEMPERATURES = (0.01, 0.5, 1.0, 1.5, 2.0, 3.0)
WORD = {"type": "string", "minLength": 1}
SCHEMA = {
    "type": "object",
    "properties": {
        "first": WORD,
        "last": WORD,
        "words": {"type": "integer", "minimum": 1, "maximum": 40},
        "question": {"type": "boolean"},
    },
    "required": ["first", "last", "words", "question"],
    "additionalProperties": False,
}
NUMBERS = SCHEMA | {"properties": {"words": SCHEMA["properties"]["words"]}, "required": ["words"]}
SHOWN = {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord(" "): "␣"}
PLACES = (
    "",
    "{",
    '{"',
    '{"first": ',
    '{"first": "',
    '{"first": "Za',
    '{"first": "Zack"',
    '{"first": "Zack", "last": "doll", "words": ',
    '{"first": "Zack", "last": "doll", "words": 4',
    '{"first": "Zack", "last": "doll", "words": 5',
    '{"first": "Zack", "last": "doll", "words": 5, "question": false',
    '{"first": "Zack", "last": "doll", "words": 5, "question": false}',
)


class Unhurried:
    """A constraint that is never told how many tokens are left."""

    def __init__(self, inner: GrammarConstraint):
        self.inner = inner

    def mask(self, state, within=None):
        """As of the inner one, without the bound."""
        return self.inner.mask(state)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


def sentences(documents: list[str]) -> list[str]:
    """Sentences of 3 to 12 words, each once."""
    found = [piece.strip() for text in documents for piece in re.split(r"(?<=[.?!。？！])\s+|\n", text)]
    return list(dict.fromkeys(piece for piece in found if 3 <= len(piece.split()) <= 12))


def record(sentence: str) -> dict:
    """What the model is to write of a sentence."""
    words = [word.strip('.,?!:;"') or word for word in sentence.split()]
    return {"first": words[0], "last": words[-1], "words": len(words), "question": sentence.endswith("?")}


def with_record(sentence: str) -> str:
    """A document of the training text."""
    return f"{sentence}\n{json.dumps(record(sentence), ensure_ascii=False)}"


def is_valid(text: str, schema: dict = SCHEMA) -> bool:
    """Whether a text is JSON that satisfies the schema, without asking the code that is on trial."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if not isinstance(value, dict) or list(value) != schema["required"]:
        return False
    fits = {
        "first": lambda word: isinstance(word, str) and word != "",
        "words": lambda count: type(count) is int and 1 <= count <= 40,
        "question": lambda answer: type(answer) is bool,
    }
    return all(fits.get(name, fits["first"])(found) for name, found in value.items())


def written(model: LanguageModel, tokenizer: Tokenizer, asked: list[str], constraint=None, **options):
    """What the model writes of each sentence."""
    settings = Sampling.of(max_new_tokens=NEW, seed=1, **options)
    return complete(model, tokenizer, [f"{sentence}\n" for sentence in asked], settings, constraint=constraint)


def by_temperature(model, tokenizer, asked, constraint) -> dict[str, list[float]]:
    """The shares of valid and of right records, in %, free and constrained; printed by temperature."""
    shares: dict[str, list[float]] = {}
    for temperature in TEMPERATURES:
        for way, chosen in (("free", None), ("constrained", constraint)):
            made = [each.text for each in written(model, tokenizer, asked, chosen, temperature=temperature)]
            valid = [is_valid(text) for text in made]
            right = [ok and json.loads(text) == record(s) for ok, text, s in zip(valid, made, asked, strict=True)]
            for kind, counted in (("valid", valid), ("right", right)):
                shares.setdefault(f"{way}, {kind}", []).append(100 * sum(counted) / len(asked))
    print(f"Records of {len(asked)} unseen sentences, in %")
    columns = zip(TEMPERATURES, *shares.values(), strict=True)
    table(["temperature", *shares], [[t, *(f"{share:.0f}" for share in row)] for t, *row in columns])
    return shares


def show_masks(vocabulary: Vocabulary) -> None:
    """How many tokens may come at some places of a record, and how long it takes to know."""
    size = sum(map(len, vocabulary.tokens))
    print(f"\n{vocabulary.size:,} tokens of {size:,} bytes in all are a trie of {len(vocabulary.parents):,} nodes")
    rows, alike = [], True
    for text in PLACES:
        times = []
        for _ in range(REPEATS):
            constraint = compile_schema(SCHEMA, vocabulary)  # has seen nothing yet
            state = after(constraint, text)
            times.append([microseconds(lambda: constraint.mask(state), count) for count in (1, 100)])  # noqa: B023
        mask = constraint.mask(state)
        begun = time.process_time()
        alike &= mask.tolist() == [may_come(constraint, state, id) for id in range(vocabulary.size)]
        each = 1e6 * (time.process_time() - begun)
        first, again = (sorted(column)[REPEATS // 2] for column in zip(*times, strict=True))
        some = {vocabulary.tokens[id].decode(errors="replace").translate(SHOWN) for id in np.flatnonzero(mask)}
        longest = " ".join(token or "(end)" for token in sorted(some, key=lambda token: (-len(token), token))[:3])
        place = text if len(text) < 20 else f"...{text[-20:]}"
        figures = [f"{each:,.0f}", f"{first:,.0f}", f"{again:.1f}"]
        rows.append([place, int(mask.sum()), constraint.shortest(state), *figures, longest])
    print(
        "Tokens that may come, bytes that end the record, microseconds for the mask: token by token, walk, remembered"
    )
    table(["after", "tokens", "bytes", "by token", "walk", "again", "the longest"], rows)
    print(f"The walk allows what trying each token allows, everywhere: {alike}")


def after(constraint: GrammarConstraint, text: str):
    """The state after a text, written byte by byte."""
    ids = {token: id for id, token in enumerate(constraint.vocabulary.tokens) if len(token) == 1}
    state = constraint.start()
    for byte in text.encode():
        state = constraint.advance(state, ids[bytes([byte])])
    return state


def may_come(constraint: GrammarConstraint, state, id: int) -> bool:
    """Whether a token may come, by writing it."""
    try:
        constraint.advance(state, id)
    except GenerationError:
        return False
    return True


def microseconds(work: Callable[[], object], count: int) -> float:
    """The processor's time for something, the mean of so many times."""
    begun = time.process_time()
    for _ in range(count):
        work()
    return 1e6 * (time.process_time() - begun) / count


def show_bounds(vocabulary: Vocabulary, tokenizer: Tokenizer, asked: list[str]) -> None:
    """What a model without any knowledge makes of a schema, with and without bounds."""
    model = llama(vocabulary.size, CONTEXT, WIDTH)  # all weights are zero: every token is as probable as any other
    rows = []
    for name, schema, whitespace, in_time in (
        ("the whole record, not told what is left", SCHEMA, 1, False),
        ("the whole record", SCHEMA, 1, True),
        ("its number alone", NUMBERS, 0, True),
        ("its number alone", NUMBERS, 1, True),
        ("its number alone", NUMBERS, 64, True),
    ):
        constraint = compile_schema(schema, vocabulary, whitespace=whitespace)
        made = written(model, tokenizer, asked, constraint if in_time else Unhurried(constraint))
        every = "".join(each.text for each in made)
        valid = sum(is_valid(each.text, schema) for each in made) / len(made)
        tokens = sum(len(each.ids) for each in made) / len(made)
        blank = sum(map(every.count, " \n\r\t")) / len(every)
        rows.append([name, whitespace, f"{100 * valid:.0f}", f"{tokens:.1f}", f"{100 * blank:.0f}"])
    print(f"\nA model that prefers nothing, at most {NEW} tokens")
    table(["", "blanks at most", "valid, %", "tokens", "blank, %"], rows)


def main() -> None:
    """Trains a model to describe sentences in JSON, asks it in many ways, prints and draws what comes of it."""
    args = arguments("16-constrained-decoding", __doc__, steps=400, documents=3000)
    learn = sentences(texts(args.data, args.documents))
    known = set(learn)
    unseen = [each for each in sentences(texts(args.data, 600, first=10**6)) if each not in known]
    documents = [with_record(sentence) for sentence in learn]
    tokenizer = Tokenizer.train(documents, 1024)
    asked = [each for each in unseen or learn if len(tokenizer.encode(each)) < CONTEXT - NEW][:ASKED]
    model = llama(tokenizer.vocab_size, CONTEXT, WIDTH)
    validation = Stream(tokenizer, [with_record(sentence) for sentence in asked])
    batches = loader(Stream(tokenizer, documents), BATCH, CONTEXT)
    rates = Muon.Config(learning_rate=1e-2, precision="fp32")
    train(model, batches, args.steps, rates, lambda: validation_batches(validation, CONTEXT, BATCH), checks=1)

    vocabulary = Vocabulary(tokenizer, model.config.vocab)
    shares = by_temperature(model, tokenizer, asked, compile_schema(SCHEMA, vocabulary))
    show_masks(vocabulary)
    show_bounds(vocabulary, tokenizer, asked)

    curves = [Curve(name, TEMPERATURES, share, points=True) for name, share in shares.items()]
    Plot("Records in JSON", "temperature", "% of the records", curves).save(args.image)


if __name__ == "__main__":
    main()
