"""What the reference thinks of the answers, computed once: training then needs no second model in memory.

Methods such as DPO compare the policy with the model that it started from, answer by answer, and neither that model nor
the answers ever change. So its log-probability of each token is computed before training, in large batches without a
gradient, and kept in a safetensors file:

    log_probs   all answers' tokens, one answer after the other        lengths   how many are whose
    metadata    a fingerprint of the weights and of the answers: with other ones, all is computed anew

The policy should compute in the precision in which the reference did; else a difference of roundings looks like
something that was learned, and DPO does not begin at ln 2.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.log_probs import answer_log_probs
from penjing.files import atomic_file
from penjing.nn.mode import evaluation_mode
from penjing.tokenizer.chat import ChatTokens
from penjing.training.tensor_files import write_tensors

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

TOKENS = 8192
"""Tokens of a batch, about."""


def reference_log_probs(
    model: "LanguageModel",
    answers: Sequence[ChatTokens],
    *,
    tokens: int = TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """The model's log-probability of each token of each answer that counts, in nats; float32, on the CPU.

    Args:
        model: the reference; its evaluation mode is used.
        answers: whole conversations.
        tokens: how many are read at once, about.
        progress: called with how many answers are done and how many there are.
    """
    found: list[Tensor] = [torch.empty(0)] * len(answers)
    device, done = model.embedding.weight.device, 0
    with torch.inference_mode(), evaluation_mode(model):
        for numbers in _batches(answers, tokens):
            batch = pack([answers[number] for number in numbers], AnswerBatch).to(device)
            assert batch.owner is not None
            log_probs, _ = answer_log_probs(model, batch)
            ordered = log_probs[torch.argsort(batch.owner, stable=True)].float().cpu()
            for number, own in zip(numbers, ordered.split(batch.lengths.tolist()), strict=True):
                found[number] = own.clone()
            done += len(numbers)
            if progress is not None:
                progress(done, len(answers))
    return found


def cached_log_probs(
    path: Path,
    model: "LanguageModel",
    answers: Sequence[ChatTokens],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """As `reference_log_probs`, out of the file if it is of this model and these answers; else written into it.

    Raises:
        CheckpointError, PenjingError: the file could not be written.
    """
    fingerprint = _fingerprint(model, answers)
    known = _read(path, fingerprint)
    if known is not None:
        return known
    found = reference_log_probs(model, answers, progress=progress)
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    tensors = {"log_probs": torch.cat(found), "lengths": torch.tensor([len(one) for one in found])}
    with atomic_file(path) as temporary:
        write_tensors(temporary, tensors, {"fingerprint": fingerprint, "dtype": dtype})
    return found


def computed_in(path: Path) -> str | None:
    """The precision in which the file's log-probabilities were computed, such as "float32"; None: there is no file."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("dtype")
    except (OSError, SafetensorError):
        return None


def _batches(answers: Sequence[ChatTokens], tokens: int) -> Iterator[list[int]]:
    """The answers' numbers, those of like lengths together."""
    numbers: list[int] = []
    used = 0
    for number in sorted(range(len(answers)), key=lambda number: len(answers[number].ids)):
        length = len(answers[number].ids)
        if numbers and used + length > tokens:
            yield numbers
            numbers, used = [], 0
        numbers.append(number)
        used += length
    if numbers:
        yield numbers


def _read(path: Path, fingerprint: str) -> list[Tensor] | None:
    """What the file holds; None where there is none, or it is of something else, or damaged: it can be made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            log_probs, lengths = file.get_tensor("log_probs"), file.get_tensor("lengths")
    except (OSError, SafetensorError):
        return None
    return list(log_probs.split(lengths.tolist()))


def _fingerprint(model: "LanguageModel", answers: Sequence[ChatTokens]) -> str:
    digest = sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for answer in answers:
        digest.update(repr((answer.ids, answer.mask)).encode())
    return digest.hexdigest()[:32]
