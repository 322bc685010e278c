"""The stages that make data: the generated world, the tokenizer, the token shards."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from penjing.errors import ConfigError
from penjing.recipe import Stage, Workshop
from penjing.stages.progress import track

if TYPE_CHECKING:
    from penjing.data.corpus import Document
    from penjing.tokenizer import Tokenizer


class World(Stage):
    """Writes the generated world: `train.jsonl`, `validation.jsonl`, `dialogues.jsonl`."""

    documents: int = 20_000
    dialogues: int = 20_000
    validation: int = 500
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")

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
                workers=os.cpu_count() or 1,
                on_progress=report,
            )
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        told = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
        workshop.output.print(f"  {told}")
        return {"bytes": sizes, "documents": self.documents, "dialogues": self.dialogues}


class TokenizerStage(Stage):
    """Trains a tokenizer, or copies one from `load`."""

    vocab: int = 2048
    """Token ids in all, special tokens included."""
    pattern: str = "penjing"
    """How text is split before merging; see penjing.tokenizer.patterns."""
    load: str | None = None
    """A tokenizer to take instead of training one."""
    sample: int = 50_000_000
    """How many characters of the text to learn from, at most."""

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

    validation: float = 0.05
    """The share of the user's text that is kept for validation."""

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Encodes both sides of the split."""
        from penjing.data import shards

        tokenizer = load_tokenizer(workshop)
        result: dict[str, Any] = {}
        for name, documents in zip(("train", "validation"), text_of(workshop, self.validation), strict=True):
            with track(workshop.output, f"encoding the {name} text") as report:
                made = shards.write(
                    documents, tokenizer, workshop.folder / name, workers=os.cpu_count() or 1, progress=report
                )
            result[name] = {"documents": made.documents, "tokens": made.tokens, "bytes": made.bytes}
            workshop.output.print(
                f"  {name}: {made.tokens:,} tokens of {made.documents:,} documents, "
                f"{made.bytes / max(made.tokens, 1):.2f} bytes a token"
            )
        return result


def text_of(workshop: Workshop, fraction: float = 0.05) -> "tuple[Iterable[Document], Iterable[Document]]":
    """The run's text, for training and for validation: the user's, split, or the world's.

    Raises:
        ConfigError: there is neither.
    """
    from penjing.data.corpus import Corpus

    if workshop.data is not None:
        return Corpus(workshop.data).split(fraction, workshop.recipe.seed)
    world = workshop.find(World)
    if world is None:
        raise ConfigError(f"recipe '{workshop.recipe.name}' has no text: add --data FILE-OR-FOLDER or a [world] stage")
    return Corpus(world / "train.jsonl"), Corpus(world / "validation.jsonl")


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
