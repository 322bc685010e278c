"""Answers to chapter 12: ours."""

from penjing.data.world.statistics import conditional_entropy as entropy  # noqa: F401
from penjing.evaluation.statistics import wilson as interval  # noqa: F401
