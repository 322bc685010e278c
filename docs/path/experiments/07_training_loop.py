"""The training loop: the loss before the first step, accumulation, bfloat16, resuming, and four schedules."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from common import Stream, arguments, both_sides, llama, loader, table, train

from penjing.data.batch import TokenBatch
from penjing.evaluation.loss import mean_loss
from penjing.models.folder import load_model
from penjing.models.language_model import LanguageModel
from penjing.tokenizer import Tokenizer
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from penjing.training.plots import Curve, Plot
from penjing.training.schedules import WSD, Constant, Cosine, Linear
from penjing.training.trainer import Trainer

CONTEXT, BATCH = 64, 16
RATES = (1e-2, 2e-4)
RATE = RATES[0]
PARTS = 4


def rows(batch: TokenBatch, start: int, stop: int) -> TokenBatch:
    """Some rows of a batch."""
    names = ("tokens", "targets", "mask", "positions", "documents")
    return replace(batch, **{n: None if getattr(batch, n) is None else getattr(batch, n)[start:stop] for n in names})


def gradient(model: LanguageModel, batches: list[TokenBatch], shares: list[float]) -> torch.Tensor:
    """All gradients of the batches' summed losses, each times its share, as one vector."""
    model.zero_grad()
    for batch, share in zip(batches, shares, strict=True):
        (next_token(model, batch).total * share).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def accumulation(model: LanguageModel, batch: TokenBatch) -> None:
    """Compares two ways of adding up micro-batches with one large batch."""
    parts = [rows(batch, i, i + BATCH // PARTS) for i in range(0, BATCH, BATCH // PARTS)]
    whole = gradient(model, [batch], [1 / batch.weight])
    ways = {
        "divided by all tokens": [1 / batch.weight] * PARTS,
        "mean of the parts' means": [1 / (PARTS * part.weight) for part in parts],
    }
    print(f"\nThe gradient of {PARTS} micro-batches of {', '.join(str(p.weight) for p in parts)} tokens: distance from")
    print("that of all their rows at once, relative to its length")
    far = {way: ((gradient(model, parts, shares) - whole).norm() / whole.norm()).item() for way, shares in ways.items()}
    table(["", "distance"], [[way, f"{distance:.0e}"] for way, distance in far.items()])


def resuming(data: Stream, tokenizer: Tokenizer, folder: Path, steps: int) -> None:
    """Stops a run half-way and compares what becomes of it with a run that was never stopped."""

    def run(name: str, budget: int, *, forget: bool = False) -> torch.Tensor:
        model = llama(tokenizer.vocab_size, CONTEXT)
        model.initialise(torch.Generator().manual_seed(1))
        config = Trainer.Config(
            Budget(steps=budget),
            optimizer=AdamW.Config(learning_rate=RATE),
            schedule=Constant(),  # any other would be over after half of the steps
            precision="fp32",
            device="cpu",
            display="quiet",
        )
        batches = loader(data, BATCH, CONTEXT)
        if forget:  # the weights alone, as if they were all of a run; the data goes on where it was
            saved = next((folder / name / "checkpoints").glob(f"step-*{steps // 2}"))
            model = load_model(saved)
            for _ in range(steps // 2):
                next(batches)
            Trainer(replace(config, budget=Budget(steps=budget // 2)), model, next_token, batches, folder / "new").run()
        else:
            Trainer(config, model, next_token, batches, folder / name, tokenizer=tokenizer).run()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = run("whole", steps)
    run("halves", steps // 2)
    without = run("halves", steps, forget=True)
    halves = run("halves", steps)
    print(f"\n{steps} steps in two runs of {steps // 2}, compared with one run: weights that differ, of {len(whole):,}")
    table(
        ["resumed from", "different", "largest difference"],
        [
            [name, f"{int((whole != other).sum()):,}", f"{(whole - other).abs().max():.0e}"]
            for name, other in (("a checkpoint", halves), ("its weights alone", without))
        ],
    )


def rounded(
    model: LanguageModel, batches, steps: int, held_out, rate: float, dtype: torch.dtype, masters: bool
) -> float:
    """The validation loss after training in `dtype`; without masters, weights are rounded to it after each step."""
    model.initialise(torch.Generator().manual_seed(1))
    engine, schedule = Engine(model, next_token, AdamW.Config(learning_rate=rate), dtype=dtype), WSD(0.1)
    for step in range(1, steps + 1):
        engine.step([next(batches)], schedule((step - 0.5) / steps))
        if not masters:
            for weight in engine.weights.trained.values():
                weight.data.copy_(weight.data.to(dtype))
    engine.weights.restore()
    return mean_loss(model, held_out())


def precisions(training: Stream, steps: int, held_out) -> None:
    """Trains with float32 and bfloat16 weights, at a large learning rate and at a small one."""
    print(f"\nValidation loss after {steps} steps, by what weights and products are kept in, and the learning rate")
    kinds = {
        "float32": (torch.float32, True),
        "bfloat16, float32 masters": (torch.bfloat16, True),
        "bfloat16 alone": (torch.bfloat16, False),
    }
    rows = [
        [
            name,
            *(rounded(llama(512, CONTEXT), loader(training, BATCH, CONTEXT), steps, held_out, r, *kind) for r in RATES),
        ]
        for name, kind in kinds.items()
    ]
    table(["", *(f"{rate:g}" for rate in RATES)], rows)


def main() -> None:
    """Prints what each part of the loop does and draws the four schedules' losses."""
    args = arguments("07-training-loop", __doc__, steps=240, documents=5000)
    tokenizer, training, held_out = both_sides(args, 120, CONTEXT, BATCH)

    print("Before the first step")
    starts = []
    for vocab in (320, 512, 1024):
        *_, unseen = both_sides(args, 120, CONTEXT, BATCH, vocab)
        model = llama(vocab, CONTEXT)
        model.initialise(torch.Generator().manual_seed(1))
        starts.append([vocab, torch.tensor(vocab).log().item(), mean_loss(model, unseen())])
    table(["vocabulary", "ln(vocabulary)", "loss"], starts)

    model = llama(512, CONTEXT)
    model.initialise(torch.Generator().manual_seed(1))
    accumulation(model, next(loader(training, BATCH, CONTEXT, packing="padded")))
    with tempfile.TemporaryDirectory() as folder:
        resuming(training, tokenizer, Path(folder), 20)

    precisions(training, args.steps, held_out)

    schedules = {
        "constant": Constant(0.1),
        "cosine to 10 %": Cosine(0.1),
        "linear to 0": Linear(0.1),
        "WSD": WSD(0.1),
    }
    curves = []
    for name, schedule in schedules.items():
        batches = loader(training, BATCH, CONTEXT)  # the same batches for each
        measured = train(llama(512, CONTEXT), batches, args.steps, RATE, held_out, schedule=schedule, checks=12)
        curves.append(Curve(name, *zip(*measured[1:], strict=True), points=True))
    print("\nValidation loss by schedule")
    middle = min(range(len(curves[0].x)), key=lambda i: abs(curves[0].x[i] - 0.6 * args.steps))
    head = ["", f"step {curves[0].x[middle]}", f"step {args.steps}"]
    table(head, [[curve.label, curve.y[middle], curve.y[-1]] for curve in curves])
    Plot("One budget, four schedules", "step", "nats per token of unseen text", curves).save(args.image)


if __name__ == "__main__":
    main()
