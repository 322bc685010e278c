"""The stage that makes a tagger: a CRF that finds names, addresses and places in the middle of a text.

    penjing run personal --data marked.json --set 'personal.texts=["plain.txt"]'

    [personal]
    texts = ["plain.txt"]    # ordinary text: which words are no names

    [personal.training]
    steps = 400

`--data` is a file of marked texts in presidio's form (`serving.safety.pii_measure`). What the stage makes: `model/`,
which `Tagger.load` reads and a policy names as `tagger`; and `measured.json`: how it does on texts of templates that it
never saw, each fold trained anew without them (`serving.safety.pii_agreement.folds`), beside the rules alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.errors import DataError
from penjing.files import write_json
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.stages.settings import Training

if TYPE_CHECKING:
    from penjing.serving.safety.pii_measure import Marked
    from penjing.serving.safety.tagger import Tagged

_FRESH = 710_000_000
"""Items of the world from this seed on are ordinary text: of no dialogue that a model was trained on."""
_LINES = 200_000
"""Lines of a file of ordinary text that are read, at most."""


class PersonalStage(Stage):
    """Trains a tagger on marked texts."""

    training: Training
    data: str | None = None
    """The file of marked texts; by default what `--data` names."""
    texts: tuple[str, ...] = ()
    """Files of ordinary text (.txt, .json, .jsonl): their words are counted, and sentences learned from."""
    ordinary: int = Field(1000, ge=0)
    """Sentences without a name that are learned, from `texts`, or from the generated world where there are none."""
    swapped: int = Field(0, ge=0)
    """Further copies of each marked text, with other texts' names, places, ... in the place of its own."""
    buckets: Annotated[int, Field(ge=1024)] = 2**16
    """How many buckets features are hashed into."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """The share of features that are not seen in training, so that no word alone decides."""
    caution: float = 0.0
    """Nats that "ordinary" has for itself when a text is read; with more, less is found and less of it for nothing."""
    folds: int = Field(5, ge=0)
    """How often it is trained for measuring; 0 for not measuring."""

    def check(self) -> None:
        """Looks whether the training's numbers fit together."""
        self.training.check()

    def named_files(self) -> Sequence[str]:
        """The texts."""
        return [*([self.data] if self.data else []), *self.texts]

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From marked texts to a tagger that has been measured."""
        from penjing.serving.safety.pii_agreement import compared, folds
        from penjing.serving.safety.pii_measure import read_presidio
        from penjing.serving.safety.tagger import KINDS, Tagger, TaggerModel
        from penjing.serving.safety.tagger_data import ordinary_sentences, swapped, tagged
        from penjing.serving.safety.token_features import Lexicon

        place = self.data or workshop.data
        if place is None:
            raise DataError("a tagger learns from marked texts: add --data FILE")
        marked = read_presidio(Path(place))
        spans = sum(span.kind in KINDS for text in marked for span in text.spans)
        if not spans:
            raise DataError(f"{place} has no span of {', '.join(KINDS)}: there is nothing to learn")
        plain = list(self._plain(workshop))
        lexicon = Lexicon.count(plain)
        sentences = ordinary_sentences(plain, self.ordinary, lexicon)
        ordinary = [tagged(text, (), lexicon, self.buckets) for text in sentences]
        told = {"texts": len(marked), "spans": spans, "ordinary": len(ordinary), "words": len(lexicon)}
        workshop.output.print(f"  {len(marked):,} marked texts, {spans:,} spans to learn, {len(lexicon):,} words known")

        def trained(texts: "Sequence[Marked]", folder: Path) -> Tagger:
            model = TaggerModel.Config(self.buckets, self.dropout).build()
            texts = [*texts, *swapped(texts, self.swapped, workshop.recipe.seed)]
            items = [tagged(text.text, text.spans, lexicon, self.buckets) for text in texts] + ordinary
            self._train(workshop, folder, model, [item for item in items if item.labels])
            return Tagger(model.eval(), lexicon, caution=self.caution)

        measured: dict[str, Any] = {}
        if self.folds:
            pairs = list(folds(marked, self.folds, workshop.recipe.seed))
            taggers = [trained(part, workshop.folder / f"fold-{n}") for n, (part, _) in enumerate(pairs, 1)]
            measured = compared(taggers, [test for _, test in pairs])
            write_json(workshop.folder / "measured.json", measured)
            for name, of in measured["by_finder"].items():
                one = of["any_kind"]
                told_of = f"F1 {one['f1']:.3f} (precision {one['precision']:.3f}, recall {one['recall']:.3f})"
                workshop.output.print(
                    f"  {name}: {told_of}, right kinds {of['typed']['f1']:.3f}, on templates never seen"
                )
        tagger = trained(marked, workshop.folder / "training")
        tagger.facts = {"trained_on": told, "measured": measured}
        tagger.save(workshop.folder / "model")
        return {**told, **measured}

    def _train(self, workshop: Workshop, folder: Path, model: Any, items: "list[Tagged]") -> None:
        """The one Trainer."""
        from penjing.alignment.loader import ItemLoader
        from penjing.serving.safety.tagger import Tagging, collate

        batched: Any = collate
        loader = ItemLoader(items, self.training.batch, batched, workshop.recipe.seed)
        trainer = self.training.trainer(workshop.recipe.seed).build(
            model, Tagging(), loader, folder, console=workshop.output
        )
        if trainer.run().stopped == "interrupted":
            raise Interrupted

    def _plain(self, workshop: Workshop) -> Iterator[str]:
        """Ordinary text: the user's, or what people say in the generated world."""
        from penjing.data.world import dialogue
        from penjing.serving.safety.everyday import read_texts

        for file in self.texts:
            yield from read_texts(Path(file), _LINES)
        if not self.texts:
            start = workshop.recipe.seed * 1_000_000_000 + _FRESH
            for number in range(self.ordinary):
                for message in dialogue(start + number, language="en").messages[-2:]:
                    yield message.get("content") or ""
