"""Log-probabilities of answers against PyTorch's log_softmax and autograd."""

import pytest
import torch

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.log_probs import answer_log_probs, log_probs
from penjing.errors import DataError
from penjing.nn.head import Head
from penjing.stages.settings import Model
from penjing.tokenizer.chat import ChatTokens


def plain(hidden, head, targets, temperature):
    """The same by definition, with autograd's gradient."""
    logits = head(hidden) / temperature
    every = logits.log_softmax(dim=-1)
    return every.gather(1, targets[:, None]).squeeze(1), -(every.exp() * every).sum(dim=-1)


@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, None), (False, 5.0)])
@pytest.mark.parametrize("scale_of_entropy", [0.0, 1.0])
def test_values_and_gradients_equal_autograd_s(kept, temperature, bias, softcap, scale_of_entropy):
    """float64, so 1e-12 is a few roundings of sums over 37 tokens; chunks of 8 leave a rest of 5."""
    generator = torch.Generator().manual_seed(0)
    head = Head(6, 37, bias=bias, softcap=softcap).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    hidden = torch.randn(21, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(37, (21,), generator=generator)
    scale, other_scale = torch.randn(2, 21, dtype=torch.float64, generator=generator)
    other_scale *= scale_of_entropy
    inputs = [hidden, *head.parameters()]
    mine, entropy = log_probs(hidden, head, targets, temperature, chunk=8, kept=kept)
    gradients = torch.autograd.grad((mine * scale).sum() + (entropy * other_scale).sum(), inputs)
    exact, exact_entropy = plain(hidden, head, targets, temperature)
    wanted = torch.autograd.grad((exact * scale).sum() + (exact_entropy * other_scale).sum(), inputs)
    torch.testing.assert_close(mine, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy, exact_entropy, rtol=0, atol=1e-12)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_the_entropy_alone_has_its_gradient(kept):
    generator = torch.Generator().manual_seed(0)
    head = Head(6, 37).double()
    torch.nn.init.normal_(head.weight, generator=generator)
    hidden = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.zeros(5, dtype=torch.long)
    _, entropy = log_probs(hidden, head, targets, kept=kept)
    _, exact = plain(hidden, head, targets, 1.0)
    (mine,), (wanted,) = (torch.autograd.grad(each.square().sum(), [hidden]) for each in (entropy, exact))
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)


def make_model(**shape):
    model = Model(**{"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "context": 64, **shape}).config(50).build()
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


def make_answers(lengths=((3, 4), (5, 9), (2, 1), (7, 6))):
    generator = torch.Generator().manual_seed(3)
    return [
        ChatTokens(torch.randint(50, (p + a,), generator=generator).tolist(), [False] * p + [True] * a)
        for p, a in lengths
    ]


def test_packed_answers_have_the_log_probs_of_each_alone():
    """float32; attention of rows of other lengths adds in another order: 1e-5 of values to 5, gradients likewise."""
    model, answers = make_model(), make_answers()
    together = pack(answers, AnswerBatch)
    assert len(together.tokens) < len(answers)
    mine, entropy = answer_log_probs(model, together)
    model.zero_grad()
    mine.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for number, answer in enumerate(answers):
        alone = pack([answer], AnswerBatch)
        assert alone.documents is None
        found, its_entropy = answer_log_probs(model, alone)
        torch.testing.assert_close(mine[together.owner == number], found, rtol=0, atol=1e-5)
        torch.testing.assert_close(entropy[together.owner == number], its_entropy, rtol=0, atol=1e-5)
        found.square().sum().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


def test_sums_and_lengths_are_of_each_answer():
    batch = pack(make_answers(), AnswerBatch)
    assert batch.lengths.tolist() == [4, 9, 1, 6]
    sums = batch.per_answer(torch.ones(20))
    assert sums.tolist() == [4, 9, 1, 6]
    assert batch.weight == 20


def test_counts_only_what_the_mask_says():
    """A tool's result between two stretches of the assistant's is read, and not counted."""
    answer = ChatTokens([1, 2, 3, 4, 5, 6], [False, True, False, False, True, True])
    batch = pack([answer], AnswerBatch)
    assert batch.targets.flatten()[batch.counted].tolist() == [2, 5, 6]


def test_refuses_what_cannot_be_learned_from():
    with pytest.raises(DataError, match="no token of the assistant's"):
        pack([ChatTokens([1, 2, 3], [True, False, False])], AnswerBatch)
    with pytest.raises(DataError, match="a row has room for 5"):
        pack(make_answers(), AnswerBatch, row=4)
    with pytest.raises(DataError, match="no answers"):
        pack([], AnswerBatch)
