"""The stage that measures what the others made."""

from typing import TYPE_CHECKING, Any

import numpy as np

from penjing.recipe import Stage, Workshop
from penjing.settings import Count
from penjing.stages.data import Shards, World
from penjing.stages.training import Instruct, Pretrain

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

_COUNTED = 20_000_000  # tokens that the counting baselines learn from, at most


class Evaluate(Stage):
    """Measures what was made; what the report is written from."""

    items: Count = 50
    """Items per skill and language, of the held-out split."""
    base_items: Count | None = None
    """As `items`, for the base model; by default as many. It knows little, and is asked so that one sees how little."""
    skills: bool = True
    """Whether to measure the world's skills."""

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Bits per byte of the base model, counting baselines, skills of the chat model and of the base."""
        import penjing
        from penjing.data import shards
        from penjing.data.loader import validation_batches
        from penjing.device import choose_device
        from penjing.evaluation.baselines import baselines
        from penjing.evaluation.loss import mean_loss

        device = choose_device()
        base, tokenizer = penjing.load(workshop.made_by(Pretrain) / "model", device=device)
        folder = workshop.made_by(Shards)
        train, held_out = (shards.Shards.open(folder / name, tokenizer) for name in ("train", "validation"))
        counted = baselines(
            np.asarray(train.read(0, min(train.tokens, _COUNTED))),
            np.asarray(held_out.read(0, held_out.tokens)),
            np.array([len(tokenizer.token_bytes(number)) for number in range(tokenizer.vocab_size)]),
            train.eos,
        )
        loss = mean_loss(base, validation_batches(held_out, base.config.context, 16))
        result: dict[str, Any] = {
            "baselines": counted.to_dict(),
            "validation_loss": loss,
            "bits_per_byte": counted.bits_per_byte(loss),
        }
        chat_folder = workshop.find(Instruct)
        if self.skills and chat_folder is not None:
            from penjing.evaluation import skills

            chat, tokenizer = penjing.load(chat_folder / "model", device=device)
            world = workshop.find(World)
            stage = workshop.recipe.stages[world.name] if world else None
            languages = stage.languages if isinstance(stage, World) else ("en", "zh")

            def measure(model: "LanguageModel", base: bool) -> dict[str, Any]:
                items = (base and self.base_items) or self.items
                return skills.evaluate(
                    model, tokenizer, items_per_skill=items, languages=languages, base=base
                ).to_dict()

            result["skills"], result["base_skills"] = measure(chat, False), measure(base, True)
        return result
