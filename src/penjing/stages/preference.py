"""The stage that learns from preferences: DPO and its kin, from a chat model to one that answers as was preferred.

    [dpo]
    kind = "preference"
    method = "dpo"                # or ipo, kto, orpo, simpo, ...: penjing.alignment.preference and .kto
    data = "preferences.jsonl"    # without it the model answers the world's questions, and what is right is preferred
    settings = { beta = 0.1 }

    [dpo.training]
    steps = 200
    learning_rate = 0.0005
    optimizer = "adamw"

Pairs that the model makes itself lie in `pairs.jsonl`, the reference's log-probabilities in `reference.safetensors`.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.errors import ConfigError, DataError, nearest
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.settings import Count
from penjing.stages.progress import track
from penjing.stages.reward import known_world
from penjing.stages.settings import Training, check_skills
from penjing.stages.training import Instruct

if TYPE_CHECKING:
    from penjing.alignment.kto import KTO
    from penjing.alignment.pairs import JudgedAnswer, Pair, Rendering
    from penjing.alignment.preference import Preference as Objective
    from penjing.data.preferences import Comparison, Judged
    from penjing.tokenizer import Tokenizer

_FRESH = 700_000_000
"""Items of the world from this seed on are asked: of the training split, and in no dialogue that was trained on."""
_ASKED = 5_000_000
"""Questions that a stage may ask, at most, before the next one's begin."""
_PLOTS = {
    "margin": ("Reward of the chosen answer over the rejected one", "reward"),
    "accuracy": ("Pairs in which the chosen answer has the higher reward", "share"),
    "kl": ("Divergence from the reference along the answers", "nats an answer"),
}


class Preference(Stage):
    """Goes on with a chat model on preferences."""

    training: Training
    method: str = "dpo"
    settings: dict[str, bool | float] = Field(default_factory=dict)
    """What the method's objective has, such as beta."""
    data: str | None = None
    """Preferences: a file or folder; by default pairs of the model's own answers to the world's questions."""
    model: str | None = None
    """A stage or model folder to start from; by default the latest instruct or preference stage before this one."""
    row: Count | None = None
    """Tokens of a row; by default the model's context. Longer answers are left out."""
    validation: Count = 100
    """How many preferences, the last ones, are kept for validation, about: those of a prompt stay together."""
    questions: Annotated[int, Field(ge=1, le=_ASKED)] = 2_000
    """How many of the world's questions the model answers."""
    answers: Count = 8
    """How many times it answers each."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """At which it answers; lower, and what is rejected is what it would really say, not what it hardly ever does."""
    pairs: Count = 2
    """How many pairs are made of a question's answers, at most."""
    skills: tuple[str, ...] = ()
    """Of which skills the questions are; by default of all."""

    def check(self) -> None:
        """Looks whether the training's numbers fit together, and the method's."""
        self.training.check()
        self.objective()
        check_skills(self.skills)

    def objective(self) -> "Objective | KTO":
        """The method with its settings.

        Raises:
            ConfigError: there is no such method or setting, or its value cannot be.
        """
        from penjing.alignment.kto import KTO
        from penjing.alignment.preference import METHODS

        kinds: dict[str, Any] = {**METHODS, "kto": KTO}
        if self.method not in kinds:
            raise ConfigError(f"there is no method '{self.method}'{nearest(self.method, kinds)}")
        known = {field.name: field.default for field in fields(kinds[self.method])}
        for name, value in self.settings.items():
            if name not in known:
                raise ConfigError(f"{self.method} has no setting '{name}'{nearest(name, known)}")
            if isinstance(value, bool) != isinstance(known[name], bool):
                raise ConfigError(f"{self.method}: {name} is {value!r}; it is like {known[name]!r}")
        made: Objective | KTO = kinds[self.method](**self.settings)
        return made

    def named_files(self) -> Sequence[str]:
        """The preferences."""
        return [self.data] if self.data else []

    def named_models(self) -> Sequence[str]:
        """The model to start from."""
        return [self.model] if self.model else []

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From a chat model to `model/`, with plots of margin, accuracy and divergence."""
        import penjing

        base = workshop.model(self.model or _latest(workshop), Instruct)
        return self._train(workshop, base, self._preferences(workshop, base), penjing.load(base)[1])

    def _preferences(self, workshop: Workshop, base: Path) -> "list[Comparison] | list[Judged]":
        from penjing.data import preferences

        made = workshop.folder / "pairs.jsonl"
        if self.data is None and not made.is_file():
            preferences.write(made, self._draw(workshop, base))
        source = made if self.data is None else self.data
        if self.method == "kto":
            return list(preferences.judged(source))
        return list(preferences.comparisons(source))

    def _draw(self, workshop: Workshop, base: Path) -> "list[Comparison]":
        """Pairs of the model's own answers, right ones over wrong ones."""
        import penjing
        from penjing.alignment import sampled
        from penjing.alignment.rollouts import Rollouts
        from penjing.data.world import calculator
        from penjing.device import choose_device

        turn = list(workshop.recipe.stages).index(workshop.folder.name)  # each stage asks questions of its own
        seed = workshop.recipe.seed * 1_000_000_000 + _FRESH + turn * _ASKED
        items = sampled.world_items(self.questions, seed=seed, skills=self.skills, **known_world(workshop))
        model, tokenizer = penjing.load(base, device=choose_device())
        rollouts = Rollouts(n=self.answers, temperature=self.temperature, tools={"calculator": calculator})
        with track(workshop.output, "answering the world's questions") as report:
            found = sampled.sample(
                model,
                tokenizer,
                sampled.prompts_of(items),
                sampled.checked(items),
                rollouts=rollouts,
                seed=seed,
                progress=report,
            )
        pairs = sampled.pairs_of(found, self.pairs)
        right = sum(one.mean for one in found) / len(found)
        workshop.output.print(
            f"  {right:.0%} of the answers are right; {len(pairs):,} pairs of a right and a wrong one"
        )
        return pairs

    def _train(
        self, workshop: Workshop, base: Path, preferences: "list[Comparison] | list[Judged]", tokenizer: "Tokenizer"
    ) -> dict[str, Any]:
        import torch

        import penjing
        from penjing.alignment.loader import ItemLoader
        from penjing.alignment.pairs import pack_judged, pack_pairs
        from penjing.alignment.preference import mean_values
        from penjing.training.plots import plot_curves

        model, _ = penjing.load(base, dtype=torch.float32)
        row = model.config.context if self.row is None else self.row
        objective = self.objective()
        pack: Any = pack_judged if self.method == "kto" else pack_pairs
        learned, held_out, rendering = self._rendered(preferences, tokenizer, row)
        workshop.output.print(f"  {rendering}", soft_wrap=True)
        config = self.training.trainer(workshop.recipe.seed)
        if objective.needs_reference:
            config = replace(config, precision=self._compare(workshop, base, [learned, held_out], config.precision))
        size = self.training.batch
        batches = [pack(held_out[start : start + size], "validation") for start in range(0, len(held_out), size)]
        loader = ItemLoader(learned, size, lambda items, origin: pack(items, origin), workshop.recipe.seed)
        before = mean_values(objective, model, batches)
        trainer = config.build(
            model,
            objective,
            loader,
            workshop.folder,
            tokenizer=tokenizer,
            validate=lambda trained: mean_values(objective, trained, batches),
            console=workshop.output,
        )
        result = trainer.run()
        if result.stopped == "interrupted":
            raise Interrupted
        plot_curves(workshop.folder, _PLOTS)
        return {
            "method": self.method,
            "preferences": rendering.used,
            "left_out": {"equal": rendering.equal, "empty": rendering.empty, "too_long": rendering.too_long},
            "epochs": loader.epoch,
            "steps": result.step,
            "tokens": result.tokens,
            "loss": result.loss,
            "validation_before": before,
            "validation": dict(result.validation),
            "validation_loss": result.validation["loss"],
            "training_seconds": result.seconds,
        }

    def _rendered(
        self, preferences: "list[Comparison] | list[Judged]", tokenizer: "Tokenizer", row: int
    ) -> "tuple[list[Any], list[Any], Rendering]":
        """What is learned from, what is kept for validation, and what became of all."""
        from penjing.alignment.pairs import render_judged, render_pairs

        render: Any = render_judged if self.method == "kto" else render_pairs
        border = _border(preferences, self.validation)
        if not border:
            raise DataError(
                f"there are {len(preferences)} preferences, and {self.validation} of them are for validation; lower "
                "'validation', or ask more questions"
            )
        learned, first = render(preferences[:border], tokenizer, row)
        held_out, second = render(preferences[border:], tokenizer, row)
        return learned, held_out, first + second

    def _compare(self, workshop: Workshop, base: Path, parts: "list[list[Pair | JudgedAnswer]]", precision: str) -> str:
        """Gives every answer the reference's log-probabilities; the precision in which they were computed."""
        import torch

        import penjing
        from penjing.alignment.reference import cached_log_probs, computed_in
        from penjing.device import choose_device, choose_precision

        cache = workshop.folder / "reference.safetensors"
        device = choose_device()
        before = computed_in(cache)
        if precision == "auto" and before is not None:
            precision = {"bfloat16": "bf16"}.get(before, "fp32")
        dtype, _ = choose_precision(precision, device)
        model, _ = penjing.load(base, device=device, dtype=dtype)
        answers = [answer for part in parts for item in part for answer in item.answers]
        with track(workshop.output, "asking the reference") as report:
            found = cached_log_probs(cache, model, answers, progress=report)
        both = iter(zip(found[::2], found[1::2], strict=True))
        for part in parts:
            part[:] = [replace(item, reference=next(both)) for item in part]
        return "bf16" if dtype == torch.bfloat16 else "fp32"


def _latest(workshop: Workshop) -> str | None:
    """The latest stage before this one that made a chat model."""
    stages = workshop.recipe.stages
    before = workshop.recipe.before(workshop.folder.name)
    return next((name for name in reversed(before) if isinstance(stages[name], Instruct | Preference)), None)


def _border(preferences: "Sequence[Comparison] | Sequence[Judged]", kept: int) -> int:
    """Where validation begins: at most `kept` from the end, at another prompt's; 0 where nothing would be left."""
    border = max(len(preferences) - kept, 0)
    while 0 < border < len(preferences) and preferences[border - 1].prompt == preferences[border].prompt:
        border -= 1
    return border
