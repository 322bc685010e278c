"""A look inside: what a model saw as possible at each token of a reply, and where each head was looking.

One pass over the conversation gives it all, exactly as the model computes it:

    p(token | before)  = softmax(logits)            how probable what was written was, and what else might have been
    surprise           = -log2 p                    in bits: 0 where nothing else was possible, 10 for one in 1,024
    uncertainty        = -sum p log2 p              what the surprise would be on average: was there a choice at all?
    weights[l, h, q]   = softmax(scale q_q . k)   how much token q takes from each token up to it, in head h of layer l

Probabilities are the model's own, before temperature, top-p and the rest have changed them. Attention says what was
read, not what it was read for: see Jain and Wallace, "Attention is not Explanation", 2019, arXiv:1902.10186, and the
answer by Wiegreffe and Pinter, 2019, arXiv:1908.04626.

The weights are taken by a state in the place of the layer's memory (`nn.state.KeyValueState`), so no module is changed
and others may use the model meanwhile. The reply is tokenized anew from its text: a model that spelled a word in other
tokens than its tokenizer does is shown as if it had not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penjing.errors import PenjingError
from penjing.inference.text import decoder_of
from penjing.nn.attention import Attention
from penjing.nn.kernels import attention_weights
from penjing.nn.mode import evaluation_mode
from penjing.nn.sequence import Sequence as Places
from penjing.nn.state import KeyValueState, LayerState

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

ALTERNATIVES = 12
"""How many alternatives are shown for each token."""


class LookError(PenjingError):
    """A look inside that is not possible: no such layer or token, or a model that runs elsewhere."""


class Inside(Protocol):
    """A model that can be looked into: one of this server's, wherever its weights are."""

    async def run(self, work: Callable[..., Any], **arguments: Any) -> Any:
        """`work(model, tokenizer, **arguments)`, of JSON values, while no one else uses the model."""


@dataclass(frozen=True)
class Reading:
    """A conversation as the model read it."""

    ids: list[int]
    text: list[str]
    """What each token adds: a character of several tokens comes with its last one; special tokens are written out."""
    reply: list[int]
    """The places of the last message's tokens, the one that ends its turn included."""


@dataclass(frozen=True)
class Possible:
    """A token that might have been written."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Seen:
    """A token of a reply, and what the model expected in its place."""

    place: int
    """Where it stands in the conversation, in tokens."""
    id: int
    text: str
    probability: float
    surprise: float
    """-log2 of its probability."""
    uncertainty: float
    """The distribution's entropy, in bits."""
    rank: int
    """How many tokens were more probable."""
    top: list[Possible]
    """The most probable tokens, the most probable first."""


@dataclass(frozen=True)
class Attending:
    """Where a token looks, in one layer, head by head; and how sharply each head of every layer does."""

    place: int
    text: list[str]
    """The tokens up to the one that looks."""
    layer: int
    weights: list[list[float]]
    """For each head of the layer, how much it takes from each token; a head's weights add up to 1."""
    sharpest: list[list[float]]
    """For each layer and head, the largest weight; no heads where a layer is no attention."""


def read(model: "LanguageModel", tokenizer: "Tokenizer", messages: "Sequence[Message]") -> Reading:
    """The tokens of a conversation that ends in a reply, without its oldest turns where it outgrows the context.

    Raises:
        LookError: the last message is not the assistant's, or alone is longer than the context.
    """
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1].get("content"):
        raise LookError("a look inside is at a reply: the last message must be the assistant's, with some text")
    if tokenizer.chat is None:
        raise LookError("this model has no chat template: it was not trained to answer")
    kept = list(messages)
    while True:
        rendered = tokenizer.chat.render(kept, learned=[len(kept) - 1])
        if len(rendered.ids) <= model.config.context:
            break
        kept = _without_oldest(kept)
    reply = [place for place, own in enumerate(rendered.mask) if own and place > 0]
    return Reading(rendered.ids, _texts(tokenizer, rendered.ids), reply)


def look(model: "LanguageModel", tokenizer: "Tokenizer", reading: Reading, top: int = ALTERNATIVES) -> list[Seen]:
    """What the model expected at each token of the reply.

    Args:
        model: any language model.
        tokenizer: its tokenizer.
        reading: the conversation.
        top: how many alternatives to give for each token.
    """
    before = torch.tensor([place - 1 for place in reading.reply])
    with torch.inference_mode(), evaluation_mode(model):
        device = model.embedding.weight.device
        hidden = model.hidden(torch.tensor([reading.ids], device=device), wanted=before.to(device))
        log_probs = model.head(hidden).float().log_softmax(dim=-1).cpu()  # (reply, vocab)
    chosen = torch.tensor([reading.ids[place] for place in reading.reply])
    own = log_probs.gather(1, chosen[:, None])[:, 0]
    entropy = torch.special.entr(log_probs.exp()).sum(-1) / math.log(2)
    ranks = (log_probs > own[:, None]).sum(-1)
    best = log_probs.topk(min(top, log_probs.shape[-1]), dim=-1)
    return [
        Seen(
            place,
            reading.ids[place],
            reading.text[place],
            math.exp(own[row]),
            -float(own[row]) / math.log(2),
            float(entropy[row]),
            int(ranks[row]),
            [
                Possible(id, _written(tokenizer, id), math.exp(value))
                for id, value in zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
            ],
        )
        for row, place in enumerate(reading.reply)
    ]


def attention(model: "LanguageModel", reading: Reading, place: int, layer: int) -> Attending:
    """Where the token at a place looks.

    Args:
        model: a language model, some of whose layers are attention.
        reading: the conversation.
        place: the token that looks, as `Seen.place` says.
        layer: the layer whose weights are wanted, from 0.

    Raises:
        LookError: there is no such token or layer, or the layer has no attention.
    """
    mixers = [getattr(block, "mixer", None) for block in model.blocks]
    if not 0 <= place < len(reading.ids):
        raise LookError(f"token {place} is wanted of {len(reading.ids)}")
    if not 0 <= layer < len(mixers):
        raise LookError(f"layer {layer} is wanted of {len(mixers)}; the first is 0")
    if not isinstance(mixers[layer], Attention):
        raise LookError(f"layer {layer} is no attention ({type(mixers[layer]).__name__}): it has no weights to show")
    with torch.inference_mode(), evaluation_mode(model):
        device = model.embedding.weight.device
        state = model.new_state(1, place + 1)
        watched: dict[int, Watched] = {}
        for index, mixer in enumerate(mixers):
            if isinstance(mixer, Attention):
                watched[index] = Watched(state.layers[index])
                state.layers[index] = watched[index]
        model.hidden(torch.tensor([reading.ids[: place + 1]], device=device), state=state)
    rows = {index: one.weights() for index, one in watched.items()}
    return Attending(
        place,
        reading.text[: place + 1],
        layer,
        [[round(weight, 6) for weight in head] for head in rows[layer].tolist()],
        [
            [round(float(weight), 6) for weight in rows[index].amax(-1)] if index in rows else []
            for index in range(len(mixers))
        ],
    )


def tokens_in(
    model: "LanguageModel", tokenizer: "Tokenizer", messages: "list[Message]", top: int = ALTERNATIVES
) -> dict[str, Any]:
    """`look` at a conversation, as JSON. Arguments as of `read` and `look`."""
    tokens = look(model, tokenizer, read(model, tokenizer, messages), top)
    return {
        "tokens": [asdict(token) for token in tokens],
        "layers": len(model.blocks),
        "vocabulary": model.config.vocab,
    }


def attention_in(
    model: "LanguageModel", tokenizer: "Tokenizer", messages: "list[Message]", place: int, layer: int
) -> dict[str, Any]:
    """`attention` in a conversation, as JSON. Arguments as of `read` and `attention`."""
    return asdict(attention(model, read(model, tokenizer, messages), place, layer))


class Watched:
    """An attention layer's memory that keeps how much the last query takes from each key."""

    def __init__(self, memory: LayerState):
        self._memory = memory
        self._weights: Tensor | None = None

    def weights(self) -> Float[Tensor, "heads keys"]:
        """What was seen, in float32."""
        assert self._weights is not None
        return self._weights

    def attend(
        self,
        layer: Attention,
        query: Float[Tensor, "batch heads queries head_dim"],
        key: Float[Tensor, "batch kv_heads queries head_dim"],
        value: Float[Tensor, "batch kv_heads queries head_dim"],
        sequence: Places,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        """See `KeyValueState`."""
        visible = sequence.mask(layer.config.window)
        row = None if visible is None else visible[..., -1:, :]
        scale, softcap = layer.scale, layer.config.softcap
        self._weights = attention_weights(query[:, :, -1:].float(), key.float(), row, scale, softcap)[0, :, 0].cpu()
        return cast(KeyValueState, self._memory).attend(layer, query, key, value, sequence)

    def truncate(self, length: int) -> None:
        """See `LayerState`."""
        self._memory.truncate(length)

    def select(self, rows: Int[Tensor, " new"]) -> None:
        """See `LayerState`."""
        self._memory.select(rows)

    @property
    def nbytes(self) -> int:
        """See `LayerState`."""
        return self._memory.nbytes


def _without_oldest(messages: "list[Message]") -> "list[Message]":
    """Without the oldest turn; the system message stays."""
    turns = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if len(turns) < 2:
        raise LookError("the last turn alone is longer than the model's context; there is no looking at all of it")
    return messages[: turns[0]] + messages[turns[1] :]


def _texts(tokenizer: "Tokenizer", ids: list[int]) -> list[str]:
    """What each token adds to the text, special tokens written out."""
    decoder = decoder_of(tokenizer, at_start=True)
    texts: list[str] = []
    for id in ids:
        shown = decoder.push(id)
        texts.append(shown + tokenizer.decode([id]) if tokenizer.is_special(id) else shown)
    if texts:
        texts[-1] += decoder.flush()
    return texts


def _written(tokenizer: "Tokenizer", id: int) -> str:
    """A token by itself; a piece of a character as its bytes, in hexadecimal."""
    text = tokenizer.decode([id], at_start=False)
    if "\ufffd" not in text:
        return text
    return "".join(f"\\x{byte:02x}" for byte in tokenizer.token_bytes(id))
