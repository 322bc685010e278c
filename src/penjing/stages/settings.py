"""What recipes say of a model's shape and of its training, in the words that recipes use."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from penjing.errors import ConfigError, nearest
from penjing.settings import Count, Fraction, Settings

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.training.scaling_laws.transfer import Transfer
    from penjing.training.trainer import Trainer

_Positive = Annotated[float, Field(gt=0)]
_Amount = Annotated[float, Field(ge=0)]
_Part = Annotated[float, Field(ge=0, lt=1)]
"""A part that is not all of it."""


class Model(Settings):
    """The shape of a model. Every setting has the field's usual name."""

    family: Literal["gpt2", "llama", "qwen3"] = "llama"
    """Which family the model belongs to elsewhere; qwen3 is llama with QK-norm."""
    width: Count
    layers: Count
    heads: Count
    kv_heads: Count | None = None
    hidden: Count | None = None
    """Width inside the MLP; by default 4 * width (gpt2), or 8/3 * width rounded up to a multiple of 32."""
    context: Count = 256
    tied: bool = True
    rope_theta: _Positive = 10_000.0
    dropout: _Part = 0.0
    init_std: _Amount = 0.02
    zero_outputs: bool = False
    """Start with blocks that write nothing."""
    tuned_width: Count | None = None
    """Width of a like model that the learning rates are good for; they and the first weights are then fitted to this
    one by muP (`penjing.training.scaling_laws.transfer`). By default they are taken as they are."""

    def tuned(self) -> "Model | None":
        """The like model that the learning rates are good for, if one is named.

        It has heads of the same width; the rest of its widths are in proportion, as far as whole numbers can be.

        Raises:
            ConfigError: heads of that width do not make up its width.
        """
        if self.tuned_width is None:
            return None
        if self.heads * self.tuned_width % self.width:
            raise ConfigError(
                f"tuned_width is {self.tuned_width}, no multiple of the width of a head, {self.width / self.heads:g}: "
                "both models need heads of the same width"
            )
        heads = self.heads * self.tuned_width // self.width
        kv_heads = self.kv_heads
        if kv_heads is not None:
            kv_heads = max(1, round(kv_heads * self.tuned_width / self.width))
            kv_heads = kv_heads if heads % kv_heads == 0 else heads
        hidden = None if self.hidden is None else max(1, round(self.hidden * self.tuned_width / self.width))
        shape = {"width": self.tuned_width, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
        return self.model_copy(update={**shape, "tuned_width": None})

    def transfer(self, vocab: int) -> "Transfer | None":
        """What is done to learning rates and first weights for a vocabulary of that size; None: nothing."""
        from penjing.training.scaling_laws.transfer import transfer

        tuned = self.tuned()
        return None if tuned is None else transfer(tuned.config(vocab), self.config(vocab))

    def config(self, vocab: int) -> "LanguageModel.Config":
        """The model's composition for a vocabulary of that size."""
        from penjing.models.language_model import LanguageModel
        from penjing.nn.attention import Attention
        from penjing.nn.block import Block
        from penjing.nn.mlp import MLP
        from penjing.nn.norms import LayerNorm, RMSNorm
        from penjing.nn.positions import LearnedPositions
        from penjing.nn.rope import Rope
        from penjing.nn.swiglu import SwiGLU

        norm: LayerNorm.Config | RMSNorm.Config
        mlp: MLP.Config | SwiGLU.Config
        if self.family == "gpt2":
            norm = LayerNorm.Config()
            mlp = MLP.Config(hidden=4 * self.width if self.hidden is None else self.hidden, bias=True)
            mixer = Attention.Config(heads=self.heads, bias=True, output_bias=True, dropout=self.dropout)
        else:
            norm = RMSNorm.Config()
            mlp = SwiGLU.Config(hidden=-(-8 * self.width // 96) * 32 if self.hidden is None else self.hidden)
            mixer = Attention.Config(
                heads=self.heads,
                kv_heads=self.kv_heads,
                rope=Rope.Config(theta=self.rope_theta),
                qk_norm=norm if self.family == "qwen3" and isinstance(norm, RMSNorm.Config) else None,
                dropout=self.dropout if self.family == "llama" else 0.0,
            )
        block = Block.Config(mixer=mixer, mlp=mlp, norm=norm, dropout=self.dropout)
        return LanguageModel.Config(
            vocab=vocab,
            width=self.width,
            layers=(block,) * self.layers,
            context=self.context,
            norm=norm,
            tied=self.tied,
            positions=LearnedPositions.Config() if self.family == "gpt2" else None,
            embedding_dropout=self.dropout,
            init_std=self.init_std,
            zero_outputs=self.zero_outputs,
        )


class Training(Settings):
    """How to train: what a stage says of the Trainer."""

    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: _Amount = 0.01
    """Peak, of hidden matrices with Muon, of everything with AdamW."""
    adamw_learning_rate: _Amount | None = None
    """Peak of what Muon leaves to AdamW; by default the same. With AdamW alone it has no part."""
    momentum: _Part = 0.95
    """Muon's."""
    iterations: Count = 5
    """Muon's, of Newton-Schulz."""
    polynomials: Literal["fixed", "minimax"] = "fixed"
    """What these apply: one polynomial, or for each of 3, 4 or 5 iterations the best one; 3 such cost less time."""
    betas: tuple[_Part, _Part] = (0.9, 0.95)
    """AdamW's."""
    weight_decay: _Amount = 0.1
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "wsd"
    warmup: Fraction = 0.02
    """The fraction of the run in which the learning rate rises."""
    decay: Fraction = 0.5
    """wsd: the last fraction of the run, in which it falls."""
    final: Fraction = 0.0
    """What is left of the peak at the end."""
    batch: Count = 16
    """Rows of a micro-batch."""
    accumulate: Count = 1
    """Micro-batches of a step."""
    grow: Fraction = 0.0
    """The fraction of the run over which the micro-batches of a step grow to `accumulate`."""
    steps: Count | None = None
    tokens: Count | None = None
    minutes: _Positive | None = None
    """The budget: steps, tokens or minutes, whichever ends first."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What layers compute in; weights are float32 in any case. auto takes bf16 where it measures faster."""
    float8: bool = False
    """Let the blocks' linear maps multiply numbers of 8 bits, on NVIDIA GPUs from Ada and Hopper on; it pays for wide
    models and with `compile`, and needs `pip install 'penjing[float8]'`."""
    compile: bool = False
    gradient_checkpointing: bool | Literal["none", "selective", "full"] = "none"
    """What is computed again for the backward pass instead of kept, to save memory: nothing; all of a block but the
    results of its linear maps and of attention (little time for much memory); or everything (about a third more time).
    True is full, false is none."""
    clip: _Positive | None = 1.0
    validate_every: Count | None = None
    checkpoint_every: Count | None = None
    keep: Count = 2
    save_in_background: bool = True
    """Train on while a checkpoint is written, from a copy in memory; false for less memory and more waiting."""
    wandb: str | None = None

    def check(self) -> None:
        """Looks whether the numbers fit together, and whether this machine can do what they ask.

        Raises:
            ConfigError: they do not, or it cannot.
        """
        from penjing.device import choose_device
        from penjing.training import float8

        self.trainer(seed=0)
        if self.float8:
            float8.check(choose_device("auto"))

    def trainer(self, seed: int) -> "Trainer.Config":
        """The `Trainer.Config` that this describes."""
        from penjing.training.adamw import AdamW
        from penjing.training.budget import Budget
        from penjing.training.muon import Muon
        from penjing.training.schedules import SCHEDULES
        from penjing.training.trainer import Trainer

        beside_muon = self.learning_rate if self.adamw_learning_rate is None else self.adamw_learning_rate
        adamw = AdamW.Config(
            learning_rate=self.learning_rate if self.optimizer == "adamw" else beside_muon,
            betas=self.betas,
            weight_decay=self.weight_decay,
        )
        shape = {"warmup": self.warmup, "decay": self.decay, "final": self.final}
        kind: Any = SCHEDULES[self.schedule]
        return Trainer.Config(
            budget=Budget(self.steps, self.tokens, self.minutes),
            optimizer=adamw
            if self.optimizer == "adamw"
            else Muon.Config(
                learning_rate=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                iterations=self.iterations,
                polynomials=self.polynomials,
                adamw=adamw,
            ),
            schedule=kind(**{name: value for name, value in shape.items() if name in kind.__dataclass_fields__}),
            accumulate=self.accumulate,
            grow=self.grow,
            clip=self.clip,
            precision=self.precision,
            float8=self.float8,
            compile=self.compile,
            gradient_checkpointing=self.gradient_checkpointing,
            seed=seed,
            validate_every=self.validate_every,
            checkpoint_every=self.checkpoint_every,
            keep=self.keep,
            save_in_background=self.save_in_background,
            wandb=self.wandb,
        )


def check_skills(names: Sequence[str]) -> None:
    """Raises ConfigError when the world has no skill of such a name."""
    from penjing.data.world import skills

    known = [skill.name for skill in skills()]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no skill '{name}'{nearest(name, known)}")
