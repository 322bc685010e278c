"""One pass of the model over parts of several requests, and the memory that it works with.

    PagedRunner   all mixers are attention: keys and values in shared pages, all parts in one row (`nn.paged`)
    PlainRunner   memories of other kinds, or texts that may have to be read again from their beginning (LongRoPE):
                  a `State` for each request, one part after the other

Both give the same logits; both are tested against whole sequences without any memory.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakKeyDictionary

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from penjing.inference.blocks import Blocks, plain
from penjing.inference.direct import PACKED_MOST, Fast
from penjing.inference.engine.cache import Pages, Window, pages_for
from penjing.inference.engine.scheduler import Work
from penjing.inference.threads import Threads
from penjing.models.reread import longropes
from penjing.nn.attention import Attention
from penjing.nn.mode import evaluation_mode
from penjing.nn.paged import PagedKV, PagedState, Ragged, Span
from penjing.nn.state import State

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

PAGE = 16
"""Tokens of a page: what a text reads anew of a beginning that it shares with running ones is less than that."""

MEMORY_SHARE = 0.25
"""Of the free memory, what the pages may take when nothing else is said."""


class Runner(Protocol):
    """Runs passes of one model."""

    sizes: dict[Window, int]
    """How many pages each pool has."""
    can_copy: bool
    """Whether a text's memory can be handed on to another that continues it differently."""
    can_reuse: bool
    """Whether a new text can use what is there of its beginning."""

    def run(
        self, work: Sequence[Work], wanted: Sequence[Sequence[int]], passes: int = 0
    ) -> Float[Tensor, "rows vocab"]:
        """Reads each request's next tokens; gives the float32 logits after those that are wanted.

        Args:
            work: the parts of the pass.
            wanted: of each part, which of its tokens, counted from the part's first.
            passes: how many passes like this one are to come.
        """

    def copy(self, window: Window, source: int, target: int) -> None:
        """Makes one page equal to another."""


def runner_for(model: "LanguageModel", tokens: int, seats: int, step: int, steady: bool = False) -> "Runner":
    """The runner for a model's layers.

    Args:
        model: any.
        tokens: how many tokens the memory holds, of all texts together.
        seats: how many texts are read at once.
        step: tokens that one pass reads at most.
        steady: whether how a pass is computed depends on the passes before it alone.
    """
    attention = all(isinstance(getattr(block, "mixer", None), Attention) for block in model.blocks)
    if attention and not longropes(model.config.layers):
        return PagedRunner(model, tokens, seats, step, steady)
    return PlainRunner(model, tokens)


class PagedRunner:
    """Runs a model of attention layers. Arguments as of `runner_for`."""

    can_copy = can_reuse = True

    def __init__(self, model: "LanguageModel", tokens: int, seats: int, step: int, steady: bool = False):
        self.model = model
        weight = model.embedding.weight
        self.device = weight.device
        mixers = attention_of(model)
        whole = -(-tokens // PAGE)
        self.sizes = {
            window: min(whole, (seats + 1) * pages_for(tokens, window, PAGE, step))
            for window in dict.fromkeys(mixer.config.window for mixer in mixers)
        }
        dtype, device = weight.dtype, weight.device

        def pages(mixer: Attention) -> PagedKV:
            window = mixer.config.window
            size = self.sizes[window]
            return PagedKV(size, mixer.kv_heads, PAGE, mixer.head_dim, window, dtype=dtype, device=device)

        self.state = PagedState(list(map(pages, mixers)))
        self.copy = self.state.copy
        self._fast = Fast(model, anew=steady)
        self._steady = steady
        self._choices: dict[int, Threads] = {}  # by the number of tokens
        self._blocks = Blocks(model, self.state.layers) if plain(model) and not steady else None

    def _threads(self, tokens: int) -> AbstractContextManager[None]:
        """The threads of a pass: a choice where it is short."""
        if self.device.type != "cpu" or tokens > PACKED_MOST or self._steady:
            return nullcontext()
        return self._choices.setdefault(tokens, Threads()).chosen()

    @torch.inference_mode()
    def run(
        self, work: Sequence[Work], wanted: Sequence[Sequence[int]], passes: int = 0
    ) -> Float[Tensor, "rows vocab"]:
        """See `Runner.run`."""
        spans: list[Span] = []
        tokens: list[int] = []
        places: list[int] = []
        for part, own in zip(work, wanted, strict=True):
            assert part.request.pages is not None
            places += [len(tokens) + index for index in own]
            tokens += part.tokens
            spans.append(Span(part.request.computed, part.count, part.request.pages.tables()))
        self.state.prepare(Ragged(spans, PAGE, self.device))
        ids = torch.tensor(tokens, device=self.device)[None]  # (1, tokens)
        index = torch.tensor(places or [0], device=self.device)
        with evaluation_mode(self.model), self._fast.using(len(tokens), passes), self._threads(len(tokens)):
            directly = self._blocks is not None and self._fast.reads_directly(len(tokens))
            x = self._blocks(ids, self.state.sequence(), passes) if self._blocks is not None and directly else None
            if x is not None:
                hidden = self.model.norm(x[0, index].to(self.model.embedding.weight.dtype))
            else:
                state = cast(State, self.state)  # as far as a model asks one
                hidden = self.model.hidden(ids, state=state, wanted=index)  # (rows, width)
            return self.model.head(hidden)[: len(places)]


class PlainRunner:
    """Runs any model, each request by itself. Arguments as of `runner_for`."""

    can_copy = can_reuse = False

    def __init__(self, model: "LanguageModel", tokens: int):
        self.model = model
        self.sizes: dict[Window, int] = {None: -(-tokens // PAGE)}  # counted only, so that memory stays bounded
        self._states: WeakKeyDictionary[Pages, State] = WeakKeyDictionary()

    @torch.inference_mode()
    def run(
        self, work: Sequence[Work], wanted: Sequence[Sequence[int]], passes: int = 0
    ) -> Float[Tensor, "rows vocab"]:
        """See `Runner.run`."""
        device = self.model.embedding.weight.device
        logits = []
        with evaluation_mode(self.model):
            for part, own in zip(work, wanted, strict=True):
                assert part.request.pages is not None
                state = self._states.get(part.request.pages)
                if state is None:
                    state = self._states[part.request.pages] = self.model.new_state(1)
                if state.length > part.request.computed:  # guesses that were wrong
                    state.truncate(part.request.computed)
                hidden = self.model.hidden(torch.tensor([part.tokens], device=device), state=state)
                logits.append(self.model.head(hidden[0, torch.tensor(own, device=device, dtype=torch.long)]))
        return torch.cat(logits)

    def copy(self, window: Window, source: int, target: int) -> None:
        """Never asked."""
        raise AssertionError("a request's state is its own")


def attention_of(model: "LanguageModel") -> list[Attention]:
    """The attention layers of a model, first to last."""
    return [mixer for block in model.blocks if isinstance(mixer := getattr(block, "mixer", None), Attention)]


def bytes_per_token(model: "LanguageModel") -> int:
    """Memory that one token takes in the pages of all layers."""
    size = model.embedding.weight.element_size()
    return sum(2 * mixer.kv_heads * mixer.head_dim * size for mixer in attention_of(model))


def tokens_that_fit(model: "LanguageModel") -> int:
    """How many tokens the pages can hold in the share of the free memory that they may take."""
    device = model.embedding.weight.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(PAGE, int(MEMORY_SHARE * free) // max(bytes_per_token(model), 1))
