"""Muon and AdamW on the same tiny model: what orthogonalizing does to a gradient, and the loss by learning rate."""

import torch
from common import arguments, both_sides, llama, loader, table, train

from penjing.training.adamw import AdamW
from penjing.training.muon import Muon, hidden_matrices, orthogonalize
from penjing.training.objectives import next_token
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH, WIDTH = 64, 16, 64
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
QUANTILES = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)
MODELS = (("this experiment's", WIDTH, CONTEXT * BATCH), ("a recipe's", 192, 16 * 256), ("a large one's", 8192, 2**22))


def show_values(model, batch) -> None:
    """Singular values of one matrix's gradient, before and after Newton-Schulz."""
    loss = next_token(model, batch)
    model.zero_grad()
    (loss.total / loss.weight).backward()
    gradient = model.blocks[1].mixer.output.weight.grad
    rows = []
    stages = {"gradient": gradient} | {f"after {n}": orthogonalize(gradient[None], n)[0] for n in (1, 2, 3, 5)}
    for name, matrix in stages.items():
        values = torch.linalg.svdvals(matrix)
        values = values / values.max() if name == "gradient" else values
        rows.append([name, *(values.quantile(q).item() for q in QUANTILES)])
    print(f"Singular values of a gradient of shape {tuple(gradient.shape)}, the gradient's divided by its largest")
    table(["", "largest", *(f"{100 * q:.0f} %" for q in QUANTILES[1:])], rows)


def overhead(width: int, tokens: int, iterations: int = 5) -> float:
    """Multiplications of Newton-Schulz for one square matrix, over those of its forward and backward pass."""
    return iterations * 3 * width**3 / (3 * tokens * width**2)


def main() -> None:
    """Prints singular values, costs and final losses; draws the losses."""
    args = arguments("08-muon", __doc__, steps=200, documents=5000)
    tokenizer, training, held_out = both_sides(args, 120, CONTEXT, BATCH)

    def model_of():
        return llama(tokenizer.vocab_size, CONTEXT, WIDTH)

    model = model_of()
    batches = loader(training, BATCH, CONTEXT)
    train(model, batches, 50, 5e-3, held_out, checks=1)
    show_values(model, next(batches))
    hidden = hidden_matrices(model)
    muons = sum(p.numel() for name, p in model.named_parameters() if name in hidden)
    print(f"\nMuon trains {len(hidden)} matrices, {muons:,} of {model.parameter_count():,} weights; AdamW the others")
    print("What Newton-Schulz adds to the multiplications of a step, for a square matrix")
    head = ["model", "width", "tokens in a step", "added"]
    table(
        head, [[name, f"{width:,}", f"{tokens:,}", f"{overhead(width, tokens):.1%}"] for name, width, tokens in MODELS]
    )

    def final(optimizer) -> float:
        return train(model_of(), loader(training, BATCH, CONTEXT), args.steps, optimizer, held_out, checks=1)[-1][1]

    vectors = AdamW.Config(learning_rate=5e-3)
    losses = {
        "AdamW": [final(AdamW.Config(learning_rate=rate)) for rate in RATES],
        "Muon": [final(Muon.Config(learning_rate=rate, adamw=vectors, precision="fp32")) for rate in RATES],
    }
    print(f"\nValidation loss after {args.steps} steps, by learning rate")
    table(["", *map(str, RATES)], [[name, *row] for name, row in losses.items()])
    curves = [Curve(name, RATES, row, points=True) for name, row in losses.items()]
    x_label, y_label = "peak learning rate (of hidden matrices)", "nats per token of unseen text"
    Plot(f"AdamW and Muon after {args.steps} steps", x_label, y_label, curves, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
