"""Scores of steps: where they are read, and their cross-entropy."""

import pytest
import torch

from penjing.alignment.process_reward import (
    Steps,
    labelled,
    pack_steps,
    solution_reward,
    step_cross_entropy,
    step_ends,
)
from penjing.errors import DataError
from penjing.models.scored import ScoredModel
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from tests.data.conftest import BYTES

TOKENIZER = Tokenizer.around(BYTES)
LABELS = ([1.0, 0.0, 0.5], [0.0], [1.0, 1.0])
TEXTS = ("a\nbc\nd", "ef", "ghij\nk")


def make_model(dtype=torch.float32):
    model = ScoredModel(Model(width=16, layers=2, heads=2, context=64).config(TOKENIZER.vocab_size))
    model.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    return model.to(dtype).eval()


def make_items():
    items = []
    for text, labels in zip(TEXTS, LABELS, strict=True):
        said = TOKENIZER.encode(text)
        items.append(labelled(TOKENIZER, ChatTokens([1, 2, *said], [False, False] + [True] * len(said)), labels))
    return items


def test_a_step_ends_at_a_line_s_end_and_with_the_answer():
    said = TOKENIZER.encode("a\nbc\nd")
    answer = ChatTokens([10, *said, 10], [False] + [True] * len(said) + [False])  # 10 is a line's end, too
    assert step_ends(TOKENIZER, answer) == [1, 4, 5]


def test_loss_and_gradient_equal_the_formula_in_float64():
    """Each text by itself: -(y log s + (1 - y) log(1 - s)) at the tokens that end steps; 1e-7: labels are float32."""
    model, items = make_model(torch.float64), make_items()
    batch = pack_steps(items)
    loss = step_cross_entropy(model, batch)
    assert loss.weight == 6
    loss.total.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = 0.0
    for item, labels in zip(items, LABELS, strict=True):
        scores = model(torch.tensor([item.tokens.ids]))[0, 2:, 0]  # of the assistant's tokens
        chances = scores[step_ends(TOKENIZER, item.tokens)].sigmoid()
        y = torch.tensor(labels, dtype=torch.float64)
        total = total - (y * chances.log() + (1 - y) * (1 - chances).log()).sum()
    total.backward()
    torch.testing.assert_close(loss.total, total, rtol=0, atol=1e-7)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-7)


def test_a_step_is_the_same_however_its_batch_is_divided():
    """Weights within 1e-6 after a step on one batch, and on three whose gradients are added up."""
    items, stepped = make_items(), []
    for split in ([items], [[item] for item in items]):
        model = make_model()
        engine = Engine(model, step_cross_entropy, AdamW.Config(learning_rate=1e-3), clip=None)
        outcome = engine.step([pack_steps(part) for part in split])
        stepped.append((outcome.read()[0], [p.detach().clone() for p in model.parameters()]))
    assert stepped[0][0] == pytest.approx(stepped[1][0], abs=1e-5)
    for weight, other in zip(stepped[0][1], stepped[1][1], strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-5)


def test_a_solution_is_worth_the_product_or_the_least_of_its_steps():
    """Oracle: the sigmoids of the scores at the ends of its steps; float32, 1e-5."""
    model, items = make_model(), make_items()
    products, least = (solution_reward(model, items, by) for by in ("product", "minimum"))
    for number, item in enumerate(items):
        scores = model(torch.tensor([item.tokens.ids]))[0, 2:, 0]
        chances = scores[step_ends(TOKENIZER, item.tokens)].sigmoid()
        assert products[number].item() == pytest.approx(chances.prod().item(), abs=1e-5)
        assert least[number].item() == pytest.approx(chances.min().item(), abs=1e-5)


def test_learns_to_tell_right_steps_from_wrong_ones():
    """A step that ends after "x" is right, one after "y" wrong: 60 steps of training judge 95 % of unseen ones."""
    generator = torch.Generator().manual_seed(0)

    def item():
        steps = ["".join("abcxy"[i] for i in torch.randint(5, (3,), generator=generator).tolist()) for _ in range(4)]
        steps = [step[:2] + "xy"[int(torch.randint(2, (), generator=generator))] for step in steps]
        said = TOKENIZER.encode("\n".join(steps) + "\n")
        answer = ChatTokens([1, *said], [False] + [True] * len(said))
        return labelled(TOKENIZER, answer, [float(step.endswith("x")) for step in steps])

    model = make_model()
    engine = Engine(model, step_cross_entropy, AdamW.Config(learning_rate=1e-2))
    for _ in range(60):
        engine.step([pack_steps([item() for _ in range(8)])])
    loss = step_cross_entropy(model, pack_steps([item() for _ in range(50)]))
    assert loss.metrics["accuracy"] / loss.weight > 0.95


def test_refuses_labels_that_do_not_fit():
    answer = ChatTokens([1, *TOKENIZER.encode("a\nb")], [False, True, True, True])
    with pytest.raises(DataError, match="2 steps has 1 labels"):
        labelled(TOKENIZER, answer, [1.0])
    with pytest.raises(DataError, match="from 0"):
        labelled(TOKENIZER, answer, [1.0, 2.0])
    with pytest.raises(DataError, match="2 labels for 3 tokens"):
        pack_steps([Steps(answer, (1.0, None))])
