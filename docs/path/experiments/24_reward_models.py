"""A reward learned from judgements of a known one: how good and how sure it is, and what a search finds in it."""

from collections.abc import Sequence
from statistics import fmean

import torch
from common import arguments, llama, table
from torch import Tensor

from penjing.alignment.calibration import calibration
from penjing.alignment.loader import ItemLoader
from penjing.alignment.reward_model import BradleyTerry, Ranked, differences, pack_ranked
from penjing.alignment.scores import score_all
from penjing.models.scored import ScoredModel
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from penjing.training.plots import Curve, Plot
from penjing.training.schedules import Linear

PROMPTS, LETTERS, LONGEST, RANKED = 8, 12, 12, 4
END = PROMPTS + LETTERS
LIKES_LENGTH = 1.0
"""What a letter more is worth to judges who take length for quality."""
CANDIDATES = 2048
TRIED = [2**power for power in range(11)]


class World:
    """Prompts, answers of one to twelve letters, and what each is worth in truth."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.values = 0.5 * torch.randn(PROMPTS, LETTERS, generator=generator)

    def answers(self, count: int, prompt: int) -> list[ChatTokens]:
        """Answers as a writer gives them who knows nothing: mostly four to eight letters, any of them."""
        lengths = 1 + torch.binomial(
            torch.full((count,), LONGEST - 1.0), torch.full((count,), 0.45), generator=self.generator
        )
        letters = torch.randint(LETTERS, (count, LONGEST), generator=self.generator).tolist()
        return [
            ChatTokens([prompt, *(PROMPTS + letter for letter in row[:length]), END], [False] + [True] * (length + 1))
            for row, length in zip(letters, lengths.int().tolist(), strict=True)
        ]

    def worth(self, answer: ChatTokens) -> float:
        """The true reward: each letter suits the prompt or does not, and about six are enough."""
        prompt, *letters, _ = answer.ids
        suits = sum(float(self.values[prompt, letter - PROMPTS]) for letter in letters)
        return suits - 0.06 * (len(letters) - 6) ** 2

    def ranked(self, count: int, likes_length: float = 0.0) -> list[Ranked]:
        """Prompts with four answers each. With Gumbel's noise on every worth, each pair of an order is as Bradley and
        Terry have it.
        """
        found = []
        for number in range(count):
            answers = self.answers(RANKED, number % PROMPTS)
            noise = -torch.empty(RANKED).exponential_(generator=self.generator).log()
            seen = (self.worth(a) + likes_length * len(a.ids) + n for a, n in zip(answers, noise.tolist(), strict=True))
            found.append(Ranked(tuple(answers), tuple(seen)))
        return found


def trained(items: Sequence[Ranked], steps: int, batch: int) -> ScoredModel:
    """A reward model after some steps on rankings, or on single pairs."""
    body = llama(END + 1, context=LONGEST + 4, width=32, layers=1)
    body.initialise(torch.Generator().manual_seed(1))
    model = ScoredModel.of(body)
    loader = ItemLoader(items, min(batch, len(items)), lambda some, origin: pack_ranked(some, origin=origin), seed=1)
    engine = Engine(model, BradleyTerry(), AdamW.Config(learning_rate=5e-3, weight_decay=0.0))
    schedule = Linear(warmup=0.05)
    for step in range(steps):
        engine.step([next(loader)], schedule((step + 0.5) / steps))
    return model.eval()


def single_pairs(items: Sequence[Ranked]) -> list[Ranked]:
    """The same judgements, each by itself."""
    return [Ranked((item.answers[a], item.answers[b]), (1.0, 0.0)) for item in items for a, b in item.pairs]


def best_of(scores: Tensor, worth: Tensor, tried: Sequence[int]) -> list[float]:
    """The worth of that of n answers which scores best, the mean over all draws of n out of the candidates.

    The i-th best by score is chosen when it is drawn and none of those before it is: C(N - 1 - i, n - 1) / C(N, n).
    """
    count = scores.shape[1]
    ordered = worth.gather(1, scores.argsort(dim=1, descending=True)).double()  # (prompts, candidates)
    found = []
    for n in tried:
        below = torch.arange(count - 1, n - 2, -1, dtype=torch.float64)  # how many candidates score less
        weights = (log_choose(below, n - 1) - log_choose(torch.tensor(count), n)).exp()
        found.append(float((ordered[:, : len(weights)] * weights).sum(1).mean()))
    return found


def log_choose(many: Tensor, few: int) -> Tensor:
    """The logarithm of how many ways there are to choose a few of many."""
    many, few_ = many.double(), torch.tensor(float(few), dtype=torch.float64)
    return torch.lgamma(many + 1) - torch.lgamma(few_ + 1) - torch.lgamma(many - few_ + 1)


def main() -> None:
    """Prints what reward models learn from how many judgements, and draws what the best of n by them is worth."""
    args = arguments("24-reward-models", __doc__, rankings=3200, steps=400)
    torch.set_num_threads(1)
    world = World(torch.Generator().manual_seed(1))
    unseen = world.ranked(500)
    candidates = [world.answers(CANDIDATES, prompt) for prompt in range(PROMPTS)]
    worth = torch.tensor([[world.worth(answer) for answer in row] for row in candidates])
    everything = world.ranked(args.rankings)
    true_gaps = torch.tensor(
        [world.worth(i.answers[a]) - world.worth(i.answers[b]) for i in unseen for a, b in i.pairs]
    )

    def scores_of(model: ScoredModel) -> Tensor:
        return score_all(model, [a for row in candidates for a in row]).view(PROMPTS, CANDIDATES)

    models = {
        f"{6 * count:,} pairs": trained(everything[:count], args.steps, 32) for count in (50, 200, 800, args.rankings)
    }
    pairs = single_pairs(everything[:200])
    models[f"{len(pairs):,}, one by one"] = trained(pairs, args.steps, 192)
    biased = trained(world.ranked(args.rankings, LIKES_LENGTH), args.steps, 32)
    models[f"{6 * args.rankings:,}, length liked"] = biased

    rows, curves = [], []
    for name, model in models.items():
        gaps, scores = differences(model, unseen), scores_of(model)
        within = [float(torch.corrcoef(torch.stack(one))[0, 1]) for one in zip(scores, worth, strict=True)]
        across = float(torch.corrcoef(torch.stack([scores.flatten(), worth.flatten()]))[0, 1])
        rows.append((name, *judged(gaps), float(scores.std(dim=1).mean()), fmean(within), across))
        if "one by one" not in name:
            curves.append(Curve(name, TRIED, best_of(scores, worth, TRIED), points=True))
    rows.append(("the true reward", *judged(true_gaps), float(worth.std(dim=1).mean()), 1.0, 1.0))
    table(["learned from", "accuracy", "loss", "calibration", "spread", "alike", "over all prompts"], rows)
    print()
    ideal = Curve("the true reward itself", TRIED, best_of(worth, worth, TRIED))
    curves = [ideal, *curves]
    at = [TRIED.index(n) for n in (1, 4, 16, 64, 256, 1024)]
    table(
        ["true reward of the best of", *(str(TRIED[i]) for i in at)], [(c.label, *(c.y[i] for i in at)) for c in curves]
    )
    Plot("What the best of n is worth", "answers tried", "true reward", curves, log_x=True).save(args.image)


def judged(gaps: Tensor) -> tuple[float, float, float]:
    """Accuracy, loss in nats and calibration error of score differences between the preferred and the other one."""
    loss = float(-torch.nn.functional.logsigmoid(gaps).mean())
    return float((gaps > 0).float().mean()), loss, calibration(gaps).error


if __name__ == "__main__":
    main()
