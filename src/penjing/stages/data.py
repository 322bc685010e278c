"""The stages that make data: the generated world, the tokenizer, the token shards."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from penjing.errors import ConfigError
from penjing.recipe import Stage, Workshop
from penjing.settings import Count
from penjing.stages.progress import track

if TYPE_CHECKING:
    from penjing.data.corpus import Corpus, Document
    from penjing.tokenizer import Tokenizer


class World(Stage):
    """Writes the generated world: `train.jsonl`, `validation.jsonl`, `dialogues.jsonl`."""

    documents: Count = 20_000
    dialogues: int = Field(20_000, ge=0)
    validation: Count = 500
    languages: Annotated[tuple[Literal["en", "zh"], ...], Field(min_length=1)] = ("en", "zh")
    notes: bool = True
    """Whether answers that may be worked out begin with notes."""
    explanations: int = Field(8, ge=0)
    """One conversation in so many explains things instead of asking; 0: none."""
    small_talk: int = Field(0, ge=0)
    """One conversation in so many greets, thanks or asks who is there, and no more; 0: none."""
    skills: dict[str, float] = Field(default_factory=dict)
    """How often skills are asked for in the dialogues: weights, 1 for those not named."""

    def check(self) -> None:
        """Looks whether there are such skills."""
        from penjing.data.world.conversation import weights_of_skills

        weights_of_skills(self.skills)

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Writes the files on all cores."""
        from penjing.data.world.export import write_world

        with track(workshop.output, "writing the world") as report:
            paths = write_world(
                workshop.folder,
                documents=self.documents,
                dialogues=self.dialogues,
                validation=self.validation,
                seed=workshop.recipe.seed,
                languages=self.languages,
                notes=self.notes,
                explanations=self.explanations,
                skills=self.skills,
                small_talk=self.small_talk,
                workers=os.cpu_count() or 1,
                on_progress=report,
            )
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        told = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
        workshop.output.print(f"  {told}")
        return {"bytes": sizes, "documents": self.documents, "dialogues": self.dialogues}


class TokenizerStage(Stage):
    """Trains a tokenizer, or copies one from `load`."""

    vocab: int = Field(2048, ge=256)
    """Token ids in all, special tokens included."""
    pattern: str = "penjing"
    """How text is split before merging; see penjing.tokenizer.patterns."""
    load: str | None = None
    """A tokenizer to take instead of training one."""
    sample: Count = 50_000_000
    """How many characters of the text to learn from, at most."""

    def check(self) -> None:
        """Looks whether there is such a pattern."""
        from penjing.tokenizer.patterns import SplitPattern

        SplitPattern.of(self.pattern)

    def named_files(self) -> Sequence[str]:
        """The tokenizer to take."""
        return [self.load] if self.load else []

    def depends_on(self, workshop: Workshop) -> Any:
        """How the text is split, which the shards say (validation text is not learned from), and shards' own text."""
        if self.load:
            return None
        if workshop.data is not None:
            return _kept_for_validation(workshop)
        if workshop.find(World) is not None:
            return None
        return [[stage.validation, stage.corpus().identity()] for stage in _with_text(workshop)] or None

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Trains (or loads) and saves it."""
        from penjing.tokenizer import Tokenizer

        if self.load:
            tokenizer = Tokenizer.load(self.load)
        else:
            text = (document.text for document in text_of(workshop)[0])
            with track(workshop.output, "training the tokenizer") as report:
                tokenizer = Tokenizer.train(
                    _limited(text, self.sample),
                    self.vocab,
                    pattern=self.pattern,
                    workers=os.cpu_count() or 1,
                    progress=lambda what, done, total: report(done, total),
                )
        tokenizer.save(workshop.folder)
        workshop.output.print(f"  {tokenizer.vocab_size:,} tokens")
        return {"vocab": tokenizer.vocab_size, "loaded": self.load}


class Shards(Stage):
    """Token ids on disk: `train/` and `validation/`."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share of the user's text that is kept for validation."""
    data: str | None = None
    """Text of these shards' own: a file, folder, pattern or address, or hf:NAME; by default the run's text."""
    field: str = "text"
    """Which field of a JSON or parquet record is the text, in `data`."""

    def corpus(self) -> "Corpus":
        """The text of their own."""
        from penjing.data.corpus import Corpus

        assert self.data is not None
        return Corpus(self.data, field=self.field)

    def named_files(self) -> Sequence[str]:
        """The text of their own."""
        return [self.data] if self.data else []

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Encodes both sides of the split."""
        from penjing.data import shards

        tokenizer = load_tokenizer(workshop)
        result: dict[str, Any] = {}
        if self.data:
            sides = self.corpus().split(self.validation, workshop.recipe.seed)
        else:
            sides = text_of(workshop, self.validation)
        for name, documents in zip(("train", "validation"), sides, strict=True):
            with track(workshop.output, f"encoding the {name} text") as report:
                made = shards.write(
                    documents,
                    tokenizer,
                    workshop.folder / name,
                    workers=os.cpu_count() or 1,
                    progress=report,
                    made_of=name,  # what of, the folder's own record says: a stage of other text begins anew
                )
            result[name] = {"documents": made.documents, "tokens": made.tokens, "bytes": made.bytes}
            workshop.output.print(
                f"  {name}: {made.tokens:,} tokens of {made.documents:,} documents, "
                f"{made.bytes / max(made.tokens, 1):.2f} bytes a token"
            )
        return result


def text_of(workshop: Workshop, fraction: float | None = None) -> "tuple[Iterable[Document], Iterable[Document]]":
    """The run's text, for training and for validation: the user's, split, or the world's, or what shards have of
    their own, a document of each in turn.

    Args:
        workshop: of the stage that needs it.
        fraction: the share of the user's text for validation; None for what the recipe's shards keep.

    Raises:
        ConfigError: there is neither.
    """
    from penjing.data.corpus import Corpus

    if workshop.data is not None:
        share = _kept_for_validation(workshop) if fraction is None else fraction
        return Corpus(workshop.data).split(share, workshop.recipe.seed)
    world = workshop.find(World)
    if world is None and (own := _with_text(workshop)):
        splits = [stage.corpus().split(stage.validation, workshop.recipe.seed) for stage in own]
        train, validation = zip(*splits, strict=True)
        return _InTurn(train), _InTurn(validation)
    if world is None:
        raise ConfigError(f"recipe '{workshop.recipe.name}' has no text: add --data FILE-OR-FOLDER or a [world] stage")
    return Corpus(world / "train.jsonl"), Corpus(world / "validation.jsonl")


def _kept_for_validation(workshop: Workshop) -> float:
    """The share of the user's text that is for validation; of several shards' the largest, which the others lie in."""
    shares = [stage.validation for stage in workshop.recipe.stages.values() if isinstance(stage, Shards)]
    return max(shares, default=Shards().validation)


def _with_text(workshop: Workshop) -> list[Shards]:
    """The shards stages that have text of their own."""
    return [stage for stage in workshop.recipe.stages.values() if isinstance(stage, Shards) and stage.data]


class _InTurn:
    """A document of each in turn until all are through; read anew by each iteration."""

    def __init__(self, sources: "Sequence[Iterable[Document]]"):
        self._sources = sources

    def __iter__(self) -> "Iterator[Document]":
        rest = [iter(source) for source in self._sources]
        while rest:
            for source in list(rest):
                if not (yield from _one(source)):
                    rest.remove(source)


def _one(source: "Iterator[Document]") -> "Generator[Document, None, bool]":
    """The next document, with all its pieces; whether there was one."""
    for document in source:
        yield document
        if not document.continues:
            return True
    return False


def load_tokenizer(workshop: Workshop) -> "Tokenizer":
    """The tokenizer that the latest tokenizer stage made."""
    from penjing.tokenizer import Tokenizer

    return Tokenizer.load(workshop.made_by(TokenizerStage))


def _limited(texts: Iterable[str], characters: int) -> Iterable[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
