"""Speculative decoding: how many guesses are right, what passes they save, and that they change no text."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from common import Stream, arguments, llama, loader, table, texts, train
from torch import Tensor

from penjing.data.loader import validation_batches
from penjing.inference import logits as transform
from penjing.inference.engine.engine import Engine
from penjing.inference.sampling import Sampling
from penjing.inference.speculative import Drafter, DraftModel, PromptLookup
from penjing.models.language_model import LanguageModel
from penjing.tokenizer import Tokenizer
from penjing.training.muon import Muon
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH, NEW, TEXTS = 128, 16, 40, 32
LARGE, SMALL = (96, 4), (48, 1)  # width and layers
GUESSES = (1, 2, 4, 6, 8, 12)
DRAWS, SAMPLES = 20_000, 2000

Prompts = Sequence[Sequence[int]]


@dataclass
class Followed:
    """What became of the guesses in some texts: for each text and pass, how many there were, how many tokens came."""

    passes: list[tuple[int, int]]
    texts: list[list[int]]

    @property
    def acceptance(self) -> float:
        """How many guesses were right of those that were compared."""
        right = sum(tokens - 1 for _, tokens in self.passes)
        wrong = sum(tokens <= guesses for guesses, tokens in self.passes)
        return right / max(right + wrong, 1)

    @property
    def tokens_a_pass(self) -> float:
        """New tokens that a text got from a pass."""
        return sum(tokens for _, tokens in self.passes) / len(self.passes)

    @property
    def guessing(self) -> float:
        """In how many passes there was a guess."""
        return sum(guesses > 0 for guesses, _ in self.passes) / len(self.passes)

    @property
    def expected(self) -> float:
        """Tokens a pass if every guess were right with the same chance, whatever became of others."""
        return sum(formula(self.acceptance, guesses) for guesses, _ in self.passes) / len(self.passes)


def formula(a: float, guesses: int) -> float:
    """1 + a + a^2 + ... + a^guesses."""
    return sum(a**power for power in range(guesses + 1))


def follow(model: LanguageModel, prompts: Prompts, temperature: float, drafter: Drafter | None, stop: int) -> Followed:
    """Continues the prompts, all of them in the same passes."""
    engine = Engine(model, tokens=8192, seats=len(prompts), step=4096, reuse=False, drafter=drafter)
    requests = []
    for seed, prompt in enumerate(prompts):
        sampling = Sampling(temperature=temperature, seed=seed, max_new_tokens=NEW)
        requests += engine.add(prompt, sampling, stop_ids=[stop], row=seed)
    engine.step()  # reads the prompts
    passes = []
    while engine.busy:
        guesses = {request.row: len(request.draft) for request in requests if not request.done}
        tokens = Counter(token.row for token in engine.step())
        passes += [(count, tokens[row]) for row, count in guesses.items()]
    return Followed(passes, [list(request.generated) for request in requests])


def seconds(model: LanguageModel, prompt: Sequence[int], drafter: Drafter | None, stop: int) -> float:
    """The time of one text alone, greedy."""
    engine = Engine(model, tokens=CONTEXT, seats=1, reuse=False, drafter=drafter)
    engine.add(prompt, Sampling(temperature=0, max_new_tokens=NEW), stop_ids=[stop])
    begin = time.perf_counter()
    while engine.busy:
        engine.step()
    return time.perf_counter() - begin


def ratio(model: LanguageModel, prompts: Prompts, drafter: Drafter, stop: int) -> float:
    """The time of a text over that without guesses: each text both ways, one after the other, and the median."""
    pairs = [[seconds(model, prompt, guesser, stop) for guesser in (drafter, None)] for prompt in prompts]
    return statistics.median(guessed / plain for guessed, plain in pairs)


def show_passes(model: LanguageModel, small: LanguageModel, free: Prompts, again: Prompts, stop: int) -> Plot:
    """Passes saved by the small model and by lookup, in free text and in texts that are told again."""
    asked: dict[str, tuple[Prompts, float, Callable[[int], Drafter]]] = {
        "small model, greedy": (free, 0.0, lambda k: DraftModel(small, k)),
        "small model, drawn": (free, 1.0, lambda k: DraftModel(small, k)),
        "lookup, greedy": (free, 0.0, PromptLookup),
        "lookup, drawn": (free, 1.0, PromptLookup),
        "lookup, a text again": (again, 0.0, PromptLookup),
    }
    found, rows, same, number = {}, [], 0, 0
    for name, (prompts, temperature, drafter) in asked.items():
        plain = follow(model, prompts, temperature, None, stop)
        found[name] = {k: follow(model, prompts, temperature, drafter(k), stop) for k in GUESSES}
        for guessed in found[name].values():
            same += sum(map(list.__eq__, guessed.texts, plain.texts))
            number += len(prompts)
        four = found[name][4]
        shares = [f"{share:.0%}" for share in (four.guessing, four.acceptance)]
        rows.append([name, *shares, *(f"{count:.2f}" for count in (four.tokens_a_pass, four.expected))])
    print(f"\nAt most 4 guesses a pass, in {len(free)} texts of at most {NEW} new tokens; right: of those compared")
    table(["", "passes with guesses", "right", "tokens a pass", "by the formula"], rows)
    print(f"texts that are the same without guesses: {same} of {number}")
    times = [
        ratio(model, prompts, drafter(4), stop) for prompts, temperature, drafter in asked.values() if not temperature
    ]
    names = [name for name, (_, temperature, _) in asked.items() if not temperature]
    print(
        "time of a text alone, over that without guesses:",
        ", ".join(f"{n} {t:.2f}" for n, t in zip(names, times, strict=True)),
    )

    greedy, cost = found["small model, greedy"], small.parameter_count() / model.parameter_count()
    by_formula = [formula(greedy[4].acceptance, k) for k in GUESSES]
    print(f"\nThe small model, greedy; it has {cost:.1%} of the weights")
    lines = {
        "tokens a pass": [greedy[k].tokens_a_pass for k in GUESSES],
        "by the formula": by_formula,
        "weights read a token": [(1 + k * cost) / greedy[k].tokens_a_pass for k in GUESSES],
    }
    table(["guesses", *map(str, GUESSES)], [[name, *(f"{x:.2f}" for x in line)] for name, line in lines.items()])
    curves = [Curve(name, GUESSES, [f[k].tokens_a_pass for k in GUESSES], points=True) for name, f in found.items()]
    curves.append(Curve("small model, greedy, by the formula", GUESSES, by_formula))
    return Plot("What guesses save", "guesses a pass", "new tokens for each pass of the model", curves)


def overlap(p: Tensor, q: Tensor) -> Tensor:
    """The chance that one uniform number draws the same token from both `(..., vocab)`: where their parts overlap."""
    ends = p.cumsum(-1), q.cumsum(-1)
    first = torch.maximum(ends[0] - p, ends[1] - q)
    return (torch.minimum(*ends) - first).clamp(min=0).sum(-1)


def race(p: Tensor, q: Tensor) -> Tensor:
    """The chance that exponential numbers, one a token, choose alike from both `(places, vocab)`: the least e / p."""

    def same(p: Tensor, q: Tensor) -> Tensor:
        ratios = torch.maximum(p[:, None] / p[..., None], q[:, None] / q[..., None])  # (places, token, other)
        return (1 / ratios.sum(-1)).sum(-1)

    return torch.cat([same(a, b) for a, b in zip(p.split(16), q.split(16), strict=True)])


def show_certain_guesses(logits: Tensor) -> None:
    """One guess, kept by our rule and by the papers', and the distributions that come out; `logits` is `(vocab,)`."""
    p = logits.double().softmax(-1)
    generator = torch.Generator().manual_seed(1)

    def uniform() -> Tensor:
        return torch.rand(DRAWS, generator=generator, dtype=torch.float64)

    def draws(probabilities: Tensor) -> Tensor:
        return transform.draw(probabilities.log().expand(DRAWS, -1), uniform())

    def distance(found: Tensor) -> str:
        return f"{(found.bincount(minlength=len(p)) / DRAWS - p).abs().sum() / 2:.3f}"

    rows = []
    for rank in (1, 2, 5, 20):
        guess = int(p.argsort(descending=True)[rank - 1])
        ours = draws(p)
        others = p.clone()
        others[guess] = 0
        kept = uniform() < p[guess]
        theirs = torch.where(kept, guess, draws(others / others.sum()))
        shares = [f"{share:.3f}" for share in (p[guess], (ours == guess).double().mean(), kept.double().mean())]
        rows.append([f"the token of rank {rank}", *shares, distance(ours), distance(theirs)])
    print(f"\nA certain guess, {DRAWS:,} times: how often it is kept, how far the outcome is from p")
    table(["guess", "p", "kept by ours", "by the papers'", "ours - p", "theirs - p"], rows)


def show_uncertain_guesses(model: LanguageModel, small: LanguageModel, ids: Tensor) -> None:
    """How often a guess that was drawn is kept, over the places of some rows."""
    with torch.inference_mode():
        both = [m(ids)[:, 16:].flatten(0, 1).double() for m in (model, small)]  # (places, vocab)
    rows = []
    for temperature in (1.0, 0.5):
        p, q = ((logits / temperature).softmax(-1).clamp(min=1e-30) for logits in both)
        found = {
            "numbers of its own": (p * q).sum(-1),
            "the same number (ours)": overlap(p, q),
            "the same number for each token": race(p, q),
            "the papers' rule": torch.minimum(p, q).sum(-1),
        }
        rows.append([f"temperature {temperature:g}", *(share.mean().item() for share in found.values())])
    print(f"\nA guess that the small model draws: how often it is kept, over {len(both[0]):,} places")
    table(["drawn by", *found], rows)


def two_tokens(model: LanguageModel, prompt: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The exact distribution of the next token, `(vocab,)`, and after each that of the one after, `(vocab, vocab)`."""
    with torch.inference_mode():
        first = model(torch.tensor([prompt]))[0, -1].double().softmax(-1)
        after = torch.tensor([[*prompt, id] for id in range(len(first))])
        return first, torch.cat([model(part)[:, -1].double().softmax(-1) for part in after.split(64)])


def show_distribution(model: LanguageModel, small: LanguageModel, prompts: Prompts) -> None:
    """Second tokens that were guessed before they were drawn, against the model's exact distribution of them."""

    def chance_of_agreement(prompt: Sequence[int]) -> float:
        (first, p), (_, q) = (two_tokens(m, prompt) for m in (model, small))
        return (first @ overlap(p, q)).item()

    best = max(prompts, key=chance_of_agreement)  # where the most guesses are right, the test is hardest
    first, second = two_tokens(model, best)
    expected = SAMPLES * first @ second
    engine = Engine(model, tokens=20_000, seats=500, step=2048, drafter=DraftModel(small, 1))
    counts = torch.zeros(len(first))
    for seed in range(SAMPLES // 500):
        requests = engine.add(best, Sampling(seed=seed, max_new_tokens=3), samples=500)
        while engine.busy:
            engine.step()
        for request in requests:
            counts[request.generated[1]] += 1
    often = expected > 5  # cells too rare for the test go together
    observed, wanted = (torch.cat([x[often].double(), x[~often].sum()[None].double()]) for x in (counts, expected))
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    chance = torch.special.gammaincc(torch.tensor((len(wanted) - 1) / 2, dtype=torch.float64), statistic / 2)
    right, predicted = engine.metrics.accepted / engine.metrics.drafted, chance_of_agreement(best)
    print(f"\n{SAMPLES:,} second tokens; guesses right: {right:.1%}, where the parts overlap {predicted:.1%}")
    shown = expected.topk(6).indices.tolist()
    rows = [["expected", *(f"{expected[id]:.0f}" for id in shown), f"{wanted[-1]:.0f}"]]
    rows.append(["found", *(f"{counts[id]:.0f}" for id in shown), f"{observed[-1]:.0f}"])
    table(["", *(f"token {id}" for id in shown), "all rare ones"], rows)
    print(f"chi-square {statistic:.1f} of {len(wanted) - 1} degrees of freedom: as far off by chance in {chance:.0%}")


def main() -> None:
    """Trains two models, follows guesses, compares rules; prints all of it and draws the tokens a pass."""
    args = arguments("15-speculative-decoding", __doc__, steps=400, documents=8000)
    learn = texts(args.data, args.documents)
    unseen = texts(args.data, 600, first=10**6)
    tokenizer = Tokenizer.train(learn, 512)
    twice = [f"{text}\n{text}" if number % 2 else text for number, text in enumerate(learn)]  # to learn copying
    training, validation = Stream(tokenizer, twice), Stream(tokenizer, unseen[:100])
    models = []
    for width, layers in (LARGE, SMALL):
        model = llama(tokenizer.vocab_size, CONTEXT, width, layers)
        rates = Muon.Config(learning_rate=1e-2, precision="fp32")
        batches = loader(training, BATCH, CONTEXT)
        losses = train(
            model, batches, args.steps, rates, lambda: validation_batches(validation, CONTEXT, BATCH), checks=1
        )
        models.append(model)
        print(f"{model.parameter_count():,} weights: validation loss {losses[-1][1]:.3f}")
    model, small = models

    encoded = [tokenizer.encode(text) for text in unseen]
    free = [ids[:12] for ids in encoded if len(ids) >= 60][:TEXTS]
    line = tokenizer.encode("\n")
    again = [[*ids, *line, *ids[:6]] for ids in encoded if 40 <= len(ids) <= 60][:TEXTS]
    show_passes(model, small, free, again, tokenizer.eos_id).save(args.image)

    ids = torch.tensor([ids[:64] for ids in encoded if len(ids) >= 64][:16])
    with torch.inference_mode():
        logits = model(ids)[:, 16:].flatten(0, 1)
    entropies = torch.distributions.Categorical(logits=logits).entropy()
    show_certain_guesses(logits[int((entropies - math.log(8)).abs().argmin())])  # a place with about eight choices
    show_uncertain_guesses(model, small, ids)
    show_distribution(model, small, free[:8])


if __name__ == "__main__":
    main()
