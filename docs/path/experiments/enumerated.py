"""A world of short answers over few letters, so that whatever a policy expects can be summed over all of them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from common import llama
from torch import Tensor

from penjing.alignment.batch import pack
from penjing.alignment.rollout_loader import RolloutBatch, frozen_log_probs
from penjing.models.language_model import LanguageModel
from penjing.tokenizer.chat import ChatTokens


def every(letters: int, length: int) -> Tensor:
    """All words of a length, in the order of a dictionary; `(words, length)`."""
    return torch.cartesian_prod(*[torch.arange(letters)] * length).view(-1, length)


class Answers:
    """All answers of `length` letters to some prompts. Prompts are made of the same letters."""

    def __init__(self, letters: int, length: int, prompts: Tensor):
        self.letters, self.length, self.prompts = letters, length, prompts
        self.words = every(letters, length)  # (answers, length)

    def model(self, seed: int) -> LanguageModel:
        """A policy that has learned nothing: nearly every letter is as likely as every other one."""
        found = llama(self.letters, context=self.prompts.shape[1] + self.length + 1, width=32, layers=1)
        found.initialise(torch.Generator().manual_seed(seed))
        return found.eval()

    def conversation(self, prompt: int, word: int) -> ChatTokens:
        """A prompt and an answer, by their numbers."""
        asked, said = self.prompts[prompt].tolist(), self.words[word].tolist()
        return ChatTokens([*asked, *said], [False] * len(asked) + [True] * len(said))

    @torch.no_grad()
    def log_probs(self, model: LanguageModel) -> Tensor:
        """Of each letter of each answer to each prompt, in nats; `(prompts, answers, length)`, float64."""
        begun = every(self.letters, self.length - 1)  # what can stand before the last letter
        asked = self.prompts.repeat_interleave(len(begun), dim=0)
        rows = torch.cat([asked, begun.repeat(len(self.prompts), 1)], dim=1)
        found = model(rows)[:, self.prompts.shape[1] - 1 :].double().log_softmax(dim=-1)
        found = found.view(len(self.prompts), len(begun), self.length, self.letters)
        found = found.repeat_interleave(self.letters, dim=1)
        return found.gather(3, self.words.expand(len(self.prompts), -1, -1)[..., None]).squeeze(3)

    @torch.no_grad()
    def draw(self, model: LanguageModel, prompts: Tensor, generator: torch.Generator) -> list[int]:
        """The number of an answer to each prompt, drawn letter by letter."""
        rows = self.prompts[prompts]
        number = torch.zeros(len(prompts), dtype=torch.long)
        for _ in range(self.length):
            letter = torch.multinomial(model(rows)[:, -1].softmax(dim=-1), 1, generator=generator)
            rows = torch.cat([rows, letter], dim=1)
            number = number * self.letters + letter.squeeze(1)
        return number.tolist()

    def rollout(
        self,
        policy: LanguageModel,
        reference: LanguageModel,
        prompts: Sequence[int],
        n: int,
        rewards: Tensor,
        generator: torch.Generator,
    ) -> RolloutBatch:
        """`n` answers to each of some prompts, as a `RolloutLoader` would give them; `rewards` are of all answers."""
        asked = torch.tensor(prompts).repeat_interleave(n)
        drawn = self.draw(policy, asked, generator)
        batch = pack(
            [self.conversation(prompt, word) for prompt, word in zip(asked.tolist(), drawn, strict=True)],
            RolloutBatch,
            rewards=rewards[asked, drawn].float(),
            groups=torch.arange(len(prompts)).repeat_interleave(n),
            truncated=torch.zeros(len(drawn), dtype=torch.bool),
        )
        own = frozen_log_probs(policy, batch, 1.0)
        known = frozen_log_probs(reference, batch, 1.0)
        return replace(batch, sampled_log_probs=own, old_log_probs=own, reference_log_probs=known)


def expected(log_probs: Tensor, values: Tensor) -> float:
    """What a policy expects of `values`, `(prompts, answers)`, exactly; the mean over prompts."""
    return float((log_probs.sum(-1).exp() * values).sum(-1).mean())


def divergence(log_probs: Tensor, reference: Tensor) -> float:
    """KL(policy || reference) of whole answers in nats, exactly; the mean over prompts."""
    return expected(log_probs, (log_probs - reference).sum(-1))
