"""A language model that judges instead of writing: in the place of the head, one number for each token.

    score(text) = w . hidden(last token),      w: (1, width), no bias

The body is a language model's, as a rule one that has learned to chat; the vocabulary's head makes room for a row of
weights. Read at an answer's last token, the number is the reward of the answer; read at each token, the value of how
far the text has come (PPO), or whether a step of a solution is right (process rewards).

A row that starts as zeros gives every text the score 0, so a reward model begins at a loss of exactly ln 2.

Source: Stiennon et al., "Learning to summarize from human feedback", 2020, arXiv:2009.01325, section 3.4 (the head and
what it is put on); the stored form is transformers' `...ForSequenceClassification` with one label.
Departs from it: the row starts as zeros, not random.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penjing.models.language_model import LanguageModel
from penjing.nn.head import Head


class ScoredModel(LanguageModel):
    """Gives each token a score. Shapes: `forward` gives `(batch, seq, 1)`, float32.

    Its config is that of the language model, without what concerns logits only: a tied head, its bias, a softcap.
    """

    offset: float = 0.0
    """The mean score of reference answers: rewards are scores less it (`alignment.reward_model`)."""

    def __init__(self, config: LanguageModel.Config):
        super().__init__(replace(config, tied=False, head_bias=False, logit_softcap=None))

    @classmethod
    def of(cls, model: LanguageModel) -> "ScoredModel":
        """A model with copies of another one's weights, and a row of zeros for its head."""
        scored = cls(model.config).to(model.embedding.weight.device, model.embedding.weight.dtype)
        weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("head.")}
        scored.load_state_dict({**weights, "head.weight": scored.head.weight})
        return scored.train(model.training)

    def scores(
        self,
        tokens: Int[Tensor, "batch seq"],
        places: Int[Tensor, " places"],
        positions: Int[Tensor, "rows seq"] | None = None,
        documents: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, " places"]:
        """The scores at some tokens, float32; arguments as of `hidden`, `places` in the flattened batch."""
        return self.head(self.hidden(tokens, positions, documents, wanted=places)).squeeze(-1)

    def _head(self, config: LanguageModel.Config) -> Head:
        return Head(config.width, 1)

    def initialise(self, generator: torch.Generator) -> None:
        """Fills all weights but the head's row, which is zero."""
        super().initialise(generator)
        torch.nn.init.zeros_(self.head.weight)
