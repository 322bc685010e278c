"""Chinchilla's law fitted again to the paper's own runs: what the printed constants, and an unscaled fit, get wrong."""

import argparse
from pathlib import Path

import numpy as np
from common import table
from scipy.optimize import minimize

from penjing.training.plots import Curve, Plot
from penjing.training.scaling_laws import Chinchilla, Points, fit, huber_sum, published
from penjing.training.scaling_laws.parametric import DELTA, huber

PRINTED = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BUDGETS = (1e19, 1e20, 1e21, 1e22)


STARTS = ((20, 20, 1, 1, 1), (5, 5, 0.5, 0.5, 0.5), (6, 6, 0.5, 0.3, 0.3), (25, 25, -1, 2, 2))
"""log A, log B, log E, alpha, beta to begin from."""


def reached(runs: Points, start: tuple[float, ...], scale: float, centred: bool) -> float:
    """The Huber sum that the optimizer ends at, from one start, with the objective times `scale`."""
    n, d, target = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
    middle = (n.mean(), d.mean()) if centred else (0.0, 0.0)

    def objective(raw: np.ndarray) -> tuple[float, np.ndarray]:
        predicted, derivatives = Chinchilla.predict(raw, n - middle[0], d - middle[1])
        residual = predicted - target
        return scale * huber(residual, DELTA).sum(), scale * derivatives @ np.clip(residual, -DELTA, DELTA)

    a, b, e, alpha, beta = start
    raw = np.array([a - alpha * middle[0], b - beta * middle[1], e, alpha, beta])
    return float(minimize(objective, raw, jac=True, method="L-BFGS-B").fun) / scale


def valley(law: Chinchilla, flops: float) -> tuple[list[float], list[float]]:
    """Loss by size, at one budget."""
    best = law.optimum(flops)[0]
    sizes = np.geomspace(best / 20, best * 20, 60)
    return list(sizes), list(law.loss(sizes, flops / (6 * sizes)))


def main() -> None:
    """Prints the fits and what they would spend; draws the valleys of four budgets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="svg_extracted_data.csv of epoch-research/analyzing-chinchilla")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images", help="where the plot goes")
    args = parser.parse_args()

    runs = Points.read(args.runs).without_highest(5)
    ours = fit(runs, Chinchilla).law
    print("1,000 times the Huber sum that one start leads to")
    ways = {"as it is": (1, False), "times 10,000": (1e4, False), "centred": (1, True), "both": (1e4, True)}
    rows = [
        [", ".join(map(str, start)), *(f"{1e3 * reached(runs, start, *way):.4f}" for way in ways.values())]
        for start in STARTS
    ]
    table(["log A, log B, log E, alpha, beta", *ways], rows)

    print(f"\nChinchilla's law, and how far {len(runs)} runs are from it")
    laws = {"printed": PRINTED, "ours": ours}
    rows = [
        [name, *(f"{getattr(law, key):.4g}" for key in law.NAMES), f"{1e3 * huber_sum(law, runs):.4f}"]
        for name, law in laws.items()
    ]
    table(["", *Chinchilla.NAMES, "1000 x Huber"], rows)

    print("\nA budget of 5.76e23 operations, which Chinchilla had")
    rows = []
    for name, law in laws.items():
        n, d = law.optimum(5.76e23)
        rows.append([name, f"{n / 1e9:.1f}B", f"{d / 1e12:.2f}T", f"{d / n:.1f}", f"{law.loss(n, d):.3f}"])
    rows.append(["Chinchilla", "70B", "1.4T", "20.0", ""])
    table(["", "parameters", "tokens", "tokens each", "loss"], rows)

    print("\nThe best size grows as C to the power of")
    others = [law.exponent for law in published()[1]]
    low, high = np.quantile(others, [0.025, 0.975])
    table(["", "power"], [["printed", PRINTED.exponent], ["ours", ours.exponent], ["Kaplan et al.", "0.73"]])
    print(f"ours, 95 %: {low:.3f} to {high:.3f}")

    curves = [Curve(f"{flops:.0e} operations".replace("+", ""), *valley(ours, flops)) for flops in BUDGETS]
    best = [ours.optimum(flops)[0] for flops in BUDGETS]
    lowest = [float(ours.loss(n, flops / (6 * n))) for n, flops in zip(best, BUDGETS, strict=True)]
    curves.append(Curve("best size", best, lowest, only_points=True))
    plot = Plot("Loss by size, at four budgets of compute", "parameters", "nats per token", curves, log_x=True)
    plot.save(args.out / "19-scaling-laws.png")


if __name__ == "__main__":
    main()
