"""The stage that sets assistants side by side: one recipe's model before and after each method of alignment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.files import atomic_file
from penjing.recipe import Stage, Workshop
from penjing.settings import Count
from penjing.stages.bars import Bars
from penjing.stages.progress import track
from penjing.stages.settings import check_skills
from penjing.stages.training import Instruct

if TYPE_CHECKING:
    from penjing.alignment.comparison import Answered


class Compare(Stage):
    """Asks every assistant the same held-out questions: who is right how often, and who beats the first one.

    Writes `samples.md`, the answers side by side, and `accuracy.png`.
    """

    models: Annotated[list[str], Field(min_length=2)]
    """Stages that made a chat model, or folders of models; the first is what the others are compared with."""
    skills: list[str] = Field(default_factory=list)
    """Skills of the world that are asked about; by default all."""
    items: Count = 40
    """Questions per skill and language, of the held-out split."""
    languages: list[str] = Field(default_factory=lambda: ["en", "zh"])
    samples: Count = 20
    """Questions whose answers are shown side by side."""

    def check(self) -> None:
        """Looks whether there are such skills."""
        check_skills(self.skills)

    def named_models(self) -> Sequence[str]:
        """The assistants."""
        return self.models

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """The accuracy of each, its win rate and its divergence from the first."""
        import penjing
        from penjing.alignment import comparison
        from penjing.data.world import dialogue, skills
        from penjing.device import choose_device

        names = self.skills or [skill.name for skill in skills()]
        items = [
            dialogue(seed, split="heldout", language=language, skill=skill)
            for skill in names
            for language in self.languages
            for seed in range(self.items)
        ]
        device = choose_device()
        first, tokenizer = penjing.load(workshop.model(self.models[0], Instruct), device=device)
        found: list[Answered] = []
        result: dict[str, Any] = {"questions": len(items), "skills": names, "assistants": {}}
        with track(workshop.output, "asking") as report:
            for number, name in enumerate(self.models):
                model, its_tokenizer = (
                    penjing.load(workshop.model(name, Instruct), device=device) if number else (first, tokenizer)
                )
                one = comparison.answered(name, model, its_tokenizer, items)
                found.append(one)
                told = result["assistants"][name] = {"accuracy": one.share.to_dict()}
                if number:
                    base = [float(right) for right in found[0].right]
                    told["win_rate"] = comparison.win_rate([float(right) for right in one.right], base).to_dict()
                    mean, error = comparison.divergence(model, first, its_tokenizer, items)
                    told["kl"] = {"mean": mean, "error": error}
                report(number + 1, len(self.models))
        by_skill = comparison.accuracies(found, items)
        for name, shares in by_skill.items():
            result["assistants"][name]["skills"] = {skill: share.to_dict() for skill, share in shares.items()}
        Bars(
            "Held-out questions answered exactly right",
            [*names, "all"],
            {one.name: [*(by_skill[one.name][skill].accuracy for skill in names), one.share.accuracy] for one in found},
        ).save(workshop.folder / "accuracy.png")
        with atomic_file(workshop.folder / "samples.md") as temporary:
            page = comparison.side_by_side(items, found, self.samples)
            temporary.write_text(f"# Answers side by side\n\n{page}", encoding="utf-8")
        return result
