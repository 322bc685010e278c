r"""Instruction tuning: next-token prediction on conversations, of which only the assistant's words count.

    loss = - sum_i mask_i ln p(token_i | token_1 .. token_(i-1)) / sum_i mask_i

    mask_i = 1 where the assistant wrote token_i, or token_i ends its turn      (tokenizer.chat, data.instructions)

Two things of tuning's own are here. The first keeps a model from learning a small set of answers by heart: NEFTune adds
noise to the embeddings, less to each number the longer the conversation and the wider the model,

    x_i = embedding[token_i] + alpha / sqrt(L d) * u_i,      u_i ~ Uniform(-1, 1)^d

for the L tokens of a conversation and width d. So the noise of a whole conversation has the length alpha / sqrt(3),
whatever its size. Where several share a row, each has its own L; padding has none. In evaluation there is no noise.

The second is thinking. A model that thinks before it answers writes `<think>...</think>` first. It learns to in the
last turn; the thoughts of earlier turns are dropped from what it reads, in training as in use, for they are long and
the answers say what came of them. That is a chat template's business, as only a template is alike in training and in
every program that serves the model: where one would keep them, a few lines are put before it (`DROPPING`).

Sources: Ouyang et al., "Training language models to follow instructions with human feedback", 2022, arXiv:2203.02155,
section 3; Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", 2023, arXiv:2310.05914, algorithm 1;
Qwen Team, "Qwen3 Technical Report", 2025, arXiv:2505.09388, section 4.3 (thinking in templates).
Departs from them: L counts the tokens that are read, so not the last one; noise reaches no layer divided by tensor,
context or pipeline parallelism, which is refused.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError
from penjing.training.objectives import Loss, next_token

if TYPE_CHECKING:
    from penjing.data.conversations import Conversation
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer.chat import ChatTemplate, Message
    from penjing.tokenizer.tokenizer import Tokenizer

THINK, THOUGHT = "<think>", "</think>"

DROPPING = (
    "{%- set known = namespace(last=-1, messages=[]) %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{% set known.last = loop.index0 %}{% endif %}"
    "{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and loop.index0 < known.last and '</think>' in (message.content or '') %}"
    "{%- set rest = message.content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- set shortened = {'role': 'assistant', 'content': rest, 'tool_calls': message.tool_calls} %}"
    "{%- set known.messages = known.messages + [shortened] %}"
    "{%- else %}{% set known.messages = known.messages + [message] %}{% endif %}"
    "{%- endfor %}"
    "{%- set messages = known.messages %}"
)
"""Goes before a chat template: what it then sees of earlier turns of the assistant begins after `</think>`."""

_PROBED: "list[Message]" = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": f"{THINK}\nprobed\n{THOUGHT}\n\nx"},
    {"role": "user", "content": "x"},
]


@dataclass(frozen=True)
class InstructionTuning:
    """The objective: cross-entropy of what counts in a batch, in nats, with noise on the embeddings in training."""

    noise: float = 0.0
    """NEFTune's alpha: 5, 10 and 15 are usual; 0 for none."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ConfigError(f"noise is {self.noise}; it is a number from 0, which is none")

    def __call__(self, model: "LanguageModel", batch: TokenBatch) -> Loss:
        """The summed loss and how many tokens it is of."""
        if not self.noise or not model.training:
            return next_token(model, batch)
        with noisy_embeddings(model, batch, self.noise):
            return next_token(model, batch)


@contextmanager
def noisy_embeddings(model: "LanguageModel", batch: TokenBatch, alpha: float) -> Iterator[None]:
    """Adds NEFTune's noise to what the model's embedding gives while it reads this batch.

    Raises:
        ConfigError: layers are divided among processes, and another one has the embedding.
    """
    embedding = getattr(model, "embedding", None)
    if embedding is None:
        raise ConfigError("noise on embeddings works with data and shard parallelism only; set noise = 0")

    def add(_: Any, __: Any, embedded: Tensor) -> Tensor:
        draw = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + draw * noise_scale(batch, embedded.shape[-1], alpha).to(embedded.dtype)[..., None]

    handle = embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def noise_scale(batch: TokenBatch, width: int, alpha: float) -> Float[Tensor, "batch seq"]:
    """How large each token's noise may be: alpha / sqrt(L d) with the L tokens of its own document; 0 for padding."""
    rows, seq = batch.tokens.shape
    if batch.documents is None:
        return torch.full((rows, seq), alpha / math.sqrt(seq * width), device=batch.tokens.device)
    number = batch.documents.clamp(min=0)  # (rows, seq)
    present = (batch.documents >= 0).float()
    lengths = torch.zeros(rows, seq, device=number.device).scatter_add_(1, number, present)  # (rows, documents)
    return alpha * present / (lengths.gather(1, number).clamp(min=1) * width).sqrt()


# thinking


def thinks(message: "Message") -> bool:
    """Whether a message of the assistant begins with a whole block of thoughts."""
    return (
        message["role"] == "assistant"
        and message["content"].lstrip().startswith(THINK)
        and THOUGHT in message["content"]
    )


def keeps_thoughts(chat: "ChatTemplate") -> bool:
    """Whether a template writes what the assistant thought in earlier turns."""
    return "probed" in chat.text(_PROBED)


def for_thinking(
    tokenizer: "Tokenizer", conversations: "Iterable[Conversation]", thinking: Literal["last", "all"]
) -> "Tokenizer":
    """The tokenizer whose chat template treats thoughts as asked for, which is to be saved with the model.

    Args:
        tokenizer: has a chat template.
        conversations: what is learned; where nobody thinks, nothing is changed.
        thinking: "last": thoughts of the last turn alone are read and learned; "all": those of all turns.

    Raises:
        ConfigError: all thoughts are asked for, and the template drops some; or its prompts leave no room for any.
    """
    chat = tokenizer.chat
    if chat is None or not any(thinks(message) for one in conversations for message in one.messages):
        return tokenizer
    if not chat.text(_PROBED[:2]).startswith(chat.text(_PROBED[:1], add_generation_prompt=True)):
        raise ConfigError(
            "the assistant thinks in these conversations (<think>...</think>), and prompts of the chat template leave "
            "no room for thoughts: a model would be asked in another way than it has learned. Leave out the thoughts, "
            "or use another template"
        )
    keeps = keeps_thoughts(chat)
    if thinking == "all" and not keeps:
        raise ConfigError(
            'the chat template drops what the assistant thought in earlier turns, so thinking = "all" cannot be had; '
            'use thinking = "last" or another template'
        )
    if thinking == "all" or not keeps:
        return tokenizer
    changed = copy.copy(tokenizer)
    for found in ("chat", "stop_ids"):  # of the template before
        changed.__dict__.pop(found, None)
    changed.chat_template = DROPPING + chat.source
    return changed
