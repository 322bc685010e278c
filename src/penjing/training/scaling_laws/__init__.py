"""Scaling laws: what loss a model of a size, trained on so much text, will have, and how to spend a budget best.

`points` reads finished runs; `parametric` fits Chinchilla's and Kaplan's formulas to them; `compute_optimal` finds the
best size for a budget without a formula; `plan` turns a law into a plan for a run; `ladder` trains small runs, fits
them, and holds the prediction for a larger one against what it really does. `transfer` fits the learning rates of a
small model to a wider one; it needs PyTorch, and is imported by itself.
"""

from penjing.training.scaling_laws.compute_optimal import PowerLaw, envelope, isoflop
from penjing.training.scaling_laws.parametric import Chinchilla, Fit, Kaplan, bootstrap, fit, huber_sum, interval
from penjing.training.scaling_laws.plan import Estimate, Machine, Plan, plan, published
from penjing.training.scaling_laws.points import Points

__all__ = [
    "Chinchilla",
    "Estimate",
    "Fit",
    "Kaplan",
    "Machine",
    "Plan",
    "Points",
    "PowerLaw",
    "bootstrap",
    "envelope",
    "fit",
    "huber_sum",
    "interval",
    "isoflop",
    "plan",
    "published",
]
