"""The stage that makes a reward model: from a chat model to one that scores answers as people, or a checker, would.

    [reward]
    data = "preferences.jsonl"    # without it the model answers the world's questions, and what is right is preferred

    [reward.training]
    steps = 300
    learning_rate = 0.001
    optimizer = "adamw"

What it makes is a folder that transformers opens as sequence classification. `calibration.png` shows whether its
confidence can be believed; answers that were drawn lie in `answers.jsonl` and `held_out.jsonl`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.errors import DataError
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.settings import Count
from penjing.stages.data import World
from penjing.stages.progress import track
from penjing.stages.settings import Training, check_skills
from penjing.stages.training import Instruct
from penjing.training.plots import plot_curves

if TYPE_CHECKING:
    from penjing.alignment.reward_model import Ranked
    from penjing.tokenizer import Tokenizer

_FRESH = 800_000_000
"""Items of the world from this seed on are asked: in no dialogue that was trained on, and in no other stage."""
_REFERENCES = 200
_ROOM = 32  # tokens that an answer needs; longer prompts are left out
_PLOTS = {
    "accuracy": ("Pairs in which the better answer has the higher score", "share"),
    "margin": ("Score of the better answer over the worse one", "score"),
}


class Reward(Stage):
    """Trains a reward model on preferences."""

    training: Training
    data: str | None = None
    """Preferences: a file or folder; by default the model's own answers to the world's questions, right over wrong."""
    model: str | None = None
    """A stage or model folder to start from; by default what the latest instruct stage made."""
    answered_by: str | None = None
    """The stage or model folder whose answers are judged; by default the one to start from."""
    row: Count | None = None
    """Tokens of a row; by default the model's context. Longer answers are left out."""
    validation: Count = 200
    """How many preferences, the last ones, or prompts of the held-out split, are kept for validation."""
    questions: Count = 2_000
    """How many of the world's questions the model answers."""
    answers: Annotated[int, Field(ge=2)] = 8
    """How many times it answers each; all pairs are learned from together."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """At which it answers."""
    skills: tuple[str, ...] = ()
    """Of which skills the questions are; by default of all."""
    centre: Annotated[float, Field(ge=0)] = 0.01
    """How strongly scores are drawn to 0 in training."""
    margins: bool = False
    """Whether scores must be as far apart as the preferences' own margins."""

    def check(self) -> None:
        """Looks whether the training's numbers fit together, and whether there are such skills."""
        self.training.check()
        check_skills(self.skills)

    def named_files(self) -> Sequence[str]:
        """The preferences."""
        return [self.data] if self.data else []

    def named_models(self) -> Sequence[str]:
        """The model to start from, and the one that answers."""
        return [name for name in (self.model, self.answered_by) if name]

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From a chat model to `model/`, which scores answers."""
        import torch

        import penjing
        from penjing.alignment.loader import ItemLoader
        from penjing.alignment.reward_model import BradleyTerry, mean_loss, pack_ranked
        from penjing.models.scored import ScoredModel

        base = workshop.model(self.model, Instruct)
        chat, tokenizer = penjing.load(base, dtype=torch.float32)
        row = chat.config.context if self.row is None else self.row
        learned, held_out, told = self._ranked(workshop, base, tokenizer, row)
        pairs, others = (sum(len(item.pairs) for item in part) for part in (learned, held_out))
        workshop.output.print(
            f"  {len(learned):,} prompts ({pairs:,} pairs), {len(held_out):,} held out ({others:,} pairs)"
        )
        size = self.training.batch
        batches = [pack_ranked(held_out[at : at + size], origin="validation") for at in range(0, len(held_out), size)]
        loader = ItemLoader(
            learned, size, lambda items, origin: pack_ranked(items, origin=origin), workshop.recipe.seed
        )
        model = ScoredModel.of(chat)
        trainer = self.training.trainer(workshop.recipe.seed).build(
            model,
            BradleyTerry(self.centre),
            loader,
            workshop.folder,
            tokenizer=tokenizer,
            validate=lambda trained: mean_loss(trained, batches),
            console=workshop.output,
        )
        result = trainer.run()
        if result.stopped == "interrupted":
            raise Interrupted
        plot_curves(workshop.folder, _PLOTS)
        measured = self._measured(workshop, tokenizer, held_out, row)
        return {
            **told,
            "prompts": len(learned),
            "pairs": pairs,
            "epochs": loader.epoch,
            "steps": result.step,
            "tokens": result.tokens,
            "loss": result.loss,
            "validation": dict(result.validation),
            "validation_loss": result.validation["loss"],
            "training_seconds": result.seconds,
            **measured,
        }

    def _measured(
        self, workshop: Workshop, tokenizer: "Tokenizer", held_out: "Sequence[Ranked]", row: int
    ) -> dict[str, Any]:
        """Centres the model's rewards, and says how often it is right on what is held out, and how well it knows."""
        from penjing.alignment.calibration import calibration
        from penjing.alignment.ranked import reference_answers
        from penjing.alignment.reward_model import centred_on, differences
        from penjing.alignment.sampled import world_items
        from penjing.models.scored_folder import load_scored, save_scored

        model = load_scored(workshop.folder / "model")
        better = [item.answers[item.ranks.index(max(item.ranks))] for item in held_out]
        if self.data is None:
            items = world_items(_REFERENCES, seed=self._seed(workshop), skills=self.skills)
            better = reference_answers(items, tokenizer, row) or better
        centred_on(model, better)
        save_scored(workshop.folder / "model", model, tokenizer)
        found = differences(model, held_out)
        curve = calibration(found)
        curve.save(workshop.folder / "calibration.png")
        accuracy = held_out_accuracy(found.tolist(), len(held_out))
        low, high = accuracy["interval"]
        workshop.output.print(
            f"  held out: {accuracy['accuracy']:.1%} of the pairs ({low:.1%} to {high:.1%}), "
            f"calibration error {curve.error:.3f}"
        )
        return {"held_out": accuracy, "calibration": curve.to_dict(), "offset": model.offset}

    def _ranked(
        self, workshop: Workshop, base: Path, tokenizer: "Tokenizer", row: int
    ) -> "tuple[list[Ranked], list[Ranked], dict[str, Any]]":
        """What is learned from, what is held out, and what there is to tell of it."""
        from penjing.alignment import ranked
        from penjing.alignment.pairs import render_pairs
        from penjing.data import preferences

        if self.data is not None:
            comparisons = list(preferences.comparisons(self.data))
            border = _border([one.prompt for one in comparisons], self.validation)
            if not border:
                raise DataError(
                    f"there are {len(comparisons)} preferences, and {self.validation} of them are for validation; "
                    f"lower it with --set {workshop.folder.name}.validation=N"
                )
            parts = [render_pairs(part, tokenizer, row) for part in (comparisons[:border], comparisons[border:])]
            rendering = parts[0][1] + parts[1][1]
            workshop.output.print(f"  {rendering}", soft_wrap=True)
            left_out = {"equal": rendering.equal, "empty": rendering.empty, "too_long": rendering.too_long}
            learned, held_out = (ranked.of_pairs(part, margins=self.margins) for part, _ in parts)
            return learned, held_out, {"left_out": left_out}
        found = {}
        for name, split, count in (("answers", "train", self.questions), ("held_out", "heldout", self.validation)):
            file = workshop.folder / f"{name}.jsonl"
            if not file.is_file():
                answering = workshop.model(self.answered_by, Instruct) if self.answered_by else base
                ranked.write_sampled(file, self._draw(workshop, answering, split, count))
            drawn = ranked.read_sampled(file)
            kept = [one for one in ranked.of_sampled(drawn, tokenizer, row) if one is not None]
            if not kept:
                raise DataError(
                    f"the model's answers to {count} questions of the {split} split are all right or all wrong; "
                    f"ask about other skills with --set {workshop.folder.name}.skills=..."
                )
            found[name] = kept, sum(one.mean for one in drawn) / len(drawn)
        (learned, right), (held_out, right_held_out) = found["answers"], found["held_out"]
        return learned, held_out, {"right": right, "right_held_out": right_held_out}

    def _draw(self, workshop: Workshop, base: Path, split: str, count: int) -> Any:
        """The model's answers to questions of a split of the world, and whether each is right."""
        import penjing
        from penjing.alignment import sampled
        from penjing.alignment.ranked import answerable
        from penjing.alignment.rollouts import Rollouts
        from penjing.data.world import calculator
        from penjing.device import choose_device

        seed = self._seed(workshop) + _REFERENCES
        items = sampled.world_items(count, seed=seed, split=split, skills=self.skills, **known_world(workshop))
        model, tokenizer = penjing.load(base, device=choose_device())
        items = answerable(items, tokenizer, model.config.context, _ROOM)
        rollouts = Rollouts(n=self.answers, temperature=self.temperature, tools={"calculator": calculator})
        with track(workshop.output, f"answering questions of the {split} split") as report:
            return sampled.sample(
                model,
                tokenizer,
                sampled.prompts_of(items),
                sampled.checked(items),
                rollouts=rollouts,
                seed=seed,
                progress=report,
            )

    def _seed(self, workshop: Workshop) -> int:
        return workshop.recipe.seed * 1_000_000_000 + _FRESH


def _border(prompts: Sequence[Any], kept: int) -> int:
    """Where validation begins: at most `kept` from the end, at another prompt's; 0 where nothing would be left."""
    border = max(len(prompts) - kept, 0)
    while 0 < border < len(prompts) and prompts[border - 1] == prompts[border]:
        border -= 1
    return border


def held_out_accuracy(differences: Sequence[float], prompts: int) -> dict[str, Any]:
    """The share of right pairs, equal scores being half right; and its interval.

    The pairs of a prompt have answers in common, so they say less than as many pairs of different prompts. Wilson's
    95 % interval is therefore that of as many items as there are prompts, which is rather too wide than too narrow.
    """
    from penjing.evaluation.statistics import wilson

    share = sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences) / max(len(differences), 1)
    return {
        "accuracy": share,
        "interval": list(wilson(round(share * prompts), prompts)),
        "pairs": len(differences),
        "prompts": prompts,
    }


def known_world(workshop: Workshop) -> Mapping[str, Any]:
    """What the run's world stage says of items: languages, and whether answers begin with notes."""
    world = workshop.find(World)
    stage = workshop.recipe.stages[world.name] if world else None
    return {"languages": stage.languages, "notes": stage.notes} if isinstance(stage, World) else {}
