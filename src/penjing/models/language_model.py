"""A causal language model by composition: embedding, a tuple of blocks, a final norm, a head.

    h_0 = embedding[token] (+ position vector)
    h_l = block_l(h_(l-1))
    p(next token) = softmax(head(norm(h_L)))

What the model is, its `Config` says: widths, a tuple of block configs that need not be alike, and how the ends are
tied. Which of these compositions have a name elsewhere (GPT-2, LLaMA, ...) is the business of
`penjing.models.families`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penjing.errors import ConfigError
from penjing.models.reread import ReadTokens, longropes, read_tokens
from penjing.nn.block import Block, LayerConfig
from penjing.nn.dropout import dropout
from penjing.nn.head import Head
from penjing.nn.linear import Embedding, fill_normal, initialise_linear
from penjing.nn.norms import initialise_norms
from penjing.nn.positions import LearnedPositions
from penjing.nn.sequence import Sequence, positions_in_documents
from penjing.nn.state import State


class LanguageModel(nn.Module):
    """Predicts each next token. Its weights are zero until `initialise` or a checkpoint fills them."""

    @dataclass(frozen=True)
    class Config:
        """What a language model is."""

        vocab: int
        """How many token ids there are."""
        width: int
        """Numbers in the residual stream."""
        layers: tuple[Block.Config, ...]
        """The blocks, first to last."""
        context: int
        """The longest text that it is made for, in tokens."""
        norm: LayerConfig
        """The norm before the head."""
        tied: bool = False
        """Whether the head's weight is the embedding's."""
        positions: LearnedPositions.Config | None = None
        """Position vectors added to the embeddings; None when the mixers know positions by themselves."""
        head_bias: bool = False
        """Whether the head has a bias."""
        logit_softcap: float | None = None
        """Logits are kept within this bound."""
        embedding_scale: float = 1.0
        """What embeddings are multiplied by (Gemma: the width's square root)."""
        embedding_dropout: float = 0.0
        """Chance that a number of an embedding is dropped in training."""
        init_std: float = 0.02
        """Standard deviation of the weights at the start."""
        zero_outputs: bool = False
        """Whether what blocks add to the residual stream starts as zero; else as std / sqrt(2 * layers)."""

        def resolved(self) -> "LanguageModel.Config":
            """The same with the numbers that follow from others written out; a model's own config is of this form."""
            return replace(self, layers=tuple(layer.resolved(self.width) for layer in self.layers))

        def build(self) -> "LanguageModel":
            """The model, its weights zero."""
            return LanguageModel(self)

    def __init__(self, config: Config):
        super().__init__()
        if min(config.vocab, config.width, config.context) < 1:
            raise ConfigError(
                f"vocab {config.vocab}, width {config.width} and context {config.context} must all be at least 1"
            )
        self.config = config = config.resolved()
        self.embedding = Embedding(config.vocab, config.width)
        self.learned_positions = config.positions.build(config.context, config.width) if config.positions else None
        self.blocks = nn.ModuleList(layer.build(config.width) for layer in config.layers)
        self.norm = config.norm.build(config.width)
        self.head = self._head(config)
        self._longropes = longropes(config.layers)
        self.tie()

    def tie(self) -> None:
        """Makes a tied head's weight the embedding's own parameter (again, after weights were replaced)."""
        if self.config.tied:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | None = None,
        documents: Int[Tensor, "batch seq"] | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Float32 logits of the token after each. Arguments as of `hidden`."""
        with _gradients_unless(state):
            return self.head(self.hidden(tokens, positions, documents, state))

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "rows seq"] | None = None,
        documents: Int[Tensor, "batch seq"] | None = None,
        state: State | None = None,
        wanted: Int[Tensor, " places"] | None = None,
    ) -> Float[Tensor, "*places width"]:
        """What the head reads: the residual stream after the last block and the final norm.

        Args:
            tokens: ids.
            positions: where each token stands in its document; None counts from each document's start, or goes on from
                the state's last token.
            documents: tokens with the same number in a row see each other; -1 is padding. None: each row is one
                document, or goes on with the state's last one.
            state: what earlier calls read; updated in place. A pass with a state is inference: it has no gradient.
            wanted: tokens, as places in the flattened batch, whose vectors alone are returned, `(places, width)`; the
                last block's perceptron then works on them alone. None for all, `(batch, seq, width)`.

        Raises:
            ConfigError: the text is longer than a model with learned positions can read.
        """
        with _gradients_unless(state):
            sequence = self._sequence(tokens, positions, documents, state)
            read = read_tokens(state) if self._longropes else None
            if read is not None and state is not None and not read.fits(sequence):
                everything, positions, documents = read.taken_out(state, tokens, sequence)
                x = self.hidden(everything, positions, documents, state)[:, -sequence.queries :]
                return x if wanted is None else sequence.ending_in(wanted).select(x)
            x = self.embedded(tokens, sequence)
            for index, block in enumerate(self.blocks):
                if wanted is not None and index == len(self.blocks) - 1:
                    sequence = sequence.ending_in(wanted)
                x = block(x, sequence, None if state is None else state.layers[index])
            if wanted is not None and x.dim() == 3:  # a block of one's own need not know of it
                x = sequence.ending_in(wanted).select(x)
            if state is not None:
                state.advance(sequence)
            if read is not None:
                read.add(tokens, sequence)
            return self.norm(x)

    def embedded(self, tokens: Int[Tensor, "batch seq"], sequence: Sequence) -> Float[Tensor, "batch seq width"]:
        """What the first block reads."""
        x = self.embedding(tokens)  # (batch, seq, width)
        if self.config.embedding_scale != 1:
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype, device=x.device)
        if self.learned_positions is not None:
            self._check_reach(sequence)
            x = x + self.learned_positions(sequence.positions)
        return dropout(x, self.config.embedding_dropout) if self.training and self.config.embedding_dropout else x

    def new_state(
        self,
        batch: int,
        capacity: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> State:
        """An empty state for `batch` rows with room for `capacity` tokens (it grows when they run out)."""
        weight = self.embedding.weight
        dtype, device = dtype or weight.dtype, torch.device(device or weight.device)
        room = min(self.config.context, 256) if capacity is None else capacity
        layers = [block.new_state(batch, room, dtype=dtype, device=device) for block in self._blocks()]
        return State([*layers, ReadTokens(self._longropes)] if self._longropes else layers, batch)

    def initialise(self, generator: torch.Generator) -> None:
        """Fills all weights, whatever they were, from the generator: the same on every device and for every dtype.

        Norms start as 1 and biases as 0. A layer of one's own fills itself; a norm of one's own keeps what it has.

        Args:
            generator: a CPU one.
        """
        config = self.config
        initialise_norms(self)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        output_std = 0.0 if config.zero_outputs else config.init_std / math.sqrt(2 * max(len(self.blocks), 1))
        fill_normal(self.embedding.weight, config.init_std, generator)
        if self.learned_positions is not None:
            self.learned_positions.initialise(generator, config.init_std)
        for block in self._blocks():
            block.initialise(generator, config.init_std, output_std)
        if not config.tied:
            initialise_linear(self.head, config.init_std, generator)

    def parameter_count(self, embeddings: bool = True) -> int:
        """How many weights there are; without `embeddings`, those of the blocks and the final norm alone."""
        parts = [self] if embeddings else [self.blocks, self.norm]
        return sum(weight.numel() for part in parts for weight in part.parameters())

    def _head(self, config: Config) -> Head:
        return Head(config.width, config.vocab, bias=config.head_bias, softcap=config.logit_softcap)

    def _blocks(self) -> Iterator[Block]:
        return (cast(Block, block) for block in self.blocks)

    def _sequence(
        self, tokens: Tensor, positions: Tensor | None, documents: Tensor | None, state: State | None
    ) -> Sequence:
        if state is not None:
            return state.sequence(tokens.shape[1], positions, documents, tokens.device)
        if positions is None and documents is not None:
            positions = positions_in_documents(documents)
        elif positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # (1, seq)
        return Sequence(positions, 0, documents)

    def _check_reach(self, sequence: Sequence) -> None:
        last = int(sequence.positions.max())
        if last >= self.config.context:
            raise ConfigError(
                f"position {last} is beyond the model's context of {self.config.context} tokens; shorten the text"
            )


def _gradients_unless(state: State | None) -> torch.set_grad_enabled:
    """Reading a state is inference: keys and values that it holds have no gradient, so nothing after them has."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and state is None)
