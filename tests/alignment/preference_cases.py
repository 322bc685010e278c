"""What the tests of preferences share: every objective, answers to pack, and plain gradient descent."""

import torch

from penjing.alignment import preference
from penjing.alignment.kto import KTO
from penjing.alignment.pairs import JudgedAnswer, Pair, pack_judged, pack_pairs
from penjing.alignment.reference import reference_log_probs
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from tests.alignment.test_log_probs import make_model

EVERY = {
    **{name: method() for name, method in preference.METHODS.items()},
    "cdpo": preference.DPO(smoothing=0.1),
    "dpo_per_token": preference.DPO(beta=2.0, per_token=True),
    "dpo_margin": preference.DPO(margin=0.5),
    "dpo_reference_free": preference.DPO(reference_free=True),
    "ipo_per_token": preference.IPO(per_token=True),
    "rpo": preference.DPO(sft=0.7),
    "kto": KTO(desirable_weight=1.2, undesirable_weight=0.8),
    "kto_zero": KTO(expectation=False),
}
"""One of each objective and of each of its variants."""


def answer(prompt: int, length: int, seed: int) -> ChatTokens:
    ids = torch.randint(50, (prompt + length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ChatTokens(ids, [False] * prompt + [True] * length)


def moved_model(seed: int = 7):
    """The tiny model after it has moved away from where it began, so that log-ratios are not zero."""
    model = make_model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def items_for(objective, count: int = 6):
    """Pairs or judged answers of several lengths, with the log-probabilities of the model that is not moved.

    To the reference, mismatched answers are a nat a token less likely, so that KTO's point is above 0.
    """
    shapes = [(3 + i % 4, 2 + 3 * i % 7, 4 + i % 3) for i in range(count)]
    if isinstance(objective, KTO):
        made = [
            JudgedAnswer(answer(p, a, 10 * i), answer(p, b, 10 * i + 5), i % 3 != 0)
            for i, (p, a, b) in enumerate(shapes)
        ]
    else:
        made = [Pair(answer(p, a, 10 * i), answer(p, b, 10 * i + 5), i / 2) for i, (p, a, b) in enumerate(shapes)]
    flat = reference_log_probs(make_model(), [one for item in made for one in item.answers])
    found = []
    for number, item in enumerate(made):
        values = {name: value for name, value in vars(item).items() if name != "reference"}
        second = flat[2 * number + 1] - float(isinstance(objective, KTO))
        found.append(type(item)(**values, reference=(flat[2 * number], second)))
    return found


def packed(objective, items, **options):
    return (pack_judged if isinstance(objective, KTO) else pack_pairs)(items, **options)


def descended(objective, batches):
    """Loss, gradient norm and the weights after one step of plain gradient descent with a rate of 1, unclipped."""
    engine = Engine(moved_model(), objective, AdamW.Config(), clip=None)
    parameters = list(engine.weights.trained.values())
    engine.optimizer = torch.optim.SGD([{"params": parameters, "peak": 1.0}], lr=1.0)
    outcome = engine.step(batches)
    return outcome, [parameter.detach().clone() for parameter in parameters]
