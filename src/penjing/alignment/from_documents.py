"""Questions about documents, with the answers that they give: an instruction set out of one's own text.

    document -> passages -> for each, some questions that it answers -> for each, the answer with the passage in sight

The record has the question and the answer, not the passage: a model tuned on it learns what the documents say, and to
say it when asked. Two plain requests for each, because a small model that is asked for both at once, in a format, gets
the format wrong.

Source: the setting is that of Alberti et al., "Synthetic QA Corpora Generation with Roundtrip Consistency", 2019,
arXiv:1906.05416, without its filter by a second reader; rules of quality stand in for it (`building`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from penjing.alignment.asking import Asker
from penjing.alignment.building import Made
from penjing.data.corpus import Document
from penjing.data.languages import language_of

VERSION = "documents-1"
"""Of the words below, for provenance: another wording is another version."""
QUESTION = {
    "English": "Here is a text:\n\n{passage}\n\nWrite one question that this text answers, and nothing else.{asked}",
    "Chinese": "下面是一段文字：\n\n{passage}\n\n请提出一个可以用这段文字回答的问题，只写问题本身。{asked}",
}
ASKED = {
    "English": " It must differ from: {questions}",
    "Chinese": "不要与这些问题重复：{questions}",
}
ANSWER = {
    "English": "Here is a text:\n\n{passage}\n\nAnswer by what it says, without mentioning the text: {question}",
    "Chinese": "下面是一段文字：\n\n{passage}\n\n请根据它回答，不要提到这段文字：{question}",
}
_LABEL = re.compile(r"^(?:question|q|问题|问)\s*\d*\s*[:：.、]\s*|^\d{1,2}\s*[.)、]\s*", re.IGNORECASE)
_QUOTES = "\"'“”「」«»"


class FromDocuments:
    """Passages, each with questions and answers.

    Args:
        documents: as a `Corpus` gives them.
        characters: of a passage, about.
        questions: asked about each.
    """

    version = VERSION

    def __init__(self, documents: Iterable[Document], characters: int = 1200, questions: int = 2):
        self._documents, self._characters, self._questions = documents, characters, questions
        self._passages: dict[str, str] = {}

    @property
    def questions(self) -> list[str]:
        """None are there before."""
        return []

    @property
    def settings(self) -> dict[str, Any]:
        """How documents are cut, and how often is asked."""
        return {"characters": self._characters, "questions": self._questions}

    def units(self) -> Iterator[str]:
        """The passages' names: where their document is from, and which of its passages each is."""
        for document in self._documents:
            for number, passage in enumerate(passages(document.text, self._characters), 1):
                name = f"{document.origin}, passage {number}"
                self._passages = {name: passage}  # one at a time, however many there are
                yield name

    def make(self, unit: str, ask: Asker, before: Sequence[str]) -> Iterator[Made]:
        """Questions about a passage, with a way to have each answered."""
        passage = self._passages[unit]
        language = "Chinese" if language_of(passage) == "Chinese" else "English"
        asked: list[str] = []
        for number in range(self._questions):
            others = ASKED[language].format(questions=" ".join(asked)) if asked else ""
            said = ask(QUESTION[language].format(passage=passage, asked=others), unit, "question", number)
            if said.fault:
                yield Made("", unit, said.fault)
                continue
            question = question_in(said.text)
            asked.append(question)
            prompt = ANSWER[language].format(passage=passage, question=question)
            yield Made(question, unit, answered=partial(ask, prompt, unit, "answer", number))


def passages(text: str, characters: int) -> Iterator[str]:
    r"""A text in passages of whole paragraphs, or of sentences where one is too long, of about so many characters.

    >>> list(passages("One.\n\nTwo. Three.\n\nFour.", 12))
    ['One.', 'Two. Three.', 'Four.']
    """
    held = ""
    for part in _parts(text, characters):
        if held and len(held) + len(part) > characters:
            yield held.strip()
            held = ""
        held += part
    if held.strip():
        yield held.strip()


def _parts(text: str, characters: int) -> Iterator[str]:
    for paragraph in re.split(r"(?<=\n)\s*\n", text):
        if not paragraph.strip():
            continue
        if len(paragraph) <= characters:
            yield f"{paragraph.strip()}\n\n"
            continue
        for sentence in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", paragraph):
            for start in range(0, len(sentence), characters):
                piece = sentence[start : start + characters].strip()
                yield piece + ("" if piece.endswith(("。", "！", "？")) else " ")
        yield "\n"


def question_in(text: str) -> str:
    r"""The question in an answer: its first line without a number, a label or quotation marks.

    >>> question_in('Question: "What is a tray?"\nI hope this helps.')
    'What is a tray?'
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _LABEL.sub("", line).strip().strip(_QUOTES).strip()
