"""The stages that train: from random weights to a language model, and from that to one that answers."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from penjing.errors import ConfigError, DataError
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.settings import Count
from penjing.stages.data import World, load_tokenizer
from penjing.stages.mixture import Mixed, conversations_of, folders_of, is_path, outside
from penjing.stages.progress import track
from penjing.stages.settings import Model, Training

if TYPE_CHECKING:
    from penjing.data.batch import TokenBatch
    from penjing.data.conversations import Conversation
    from penjing.data.loader import Loader
    from penjing.data.packing import Tokens
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.training.deferred import Fill
    from penjing.training.objectives import Objective
    from penjing.training.scaling_laws.transfer import Transfer

_SAMPLE_TOKENS = 60
_WORTH_PROCESSES = 5_000
"""Conversations from which on it takes longer to render them than to start processes that do."""


class Pretrain(Stage):
    """Trains a language model on the shards."""

    together = True

    model: Model
    training: Training
    packing: Literal["best_fit", "stream", "random"] = "best_fit"
    row: Count | None = None
    """Tokens of a row; by default the model's context. Short documents need no more, and attention costs less."""
    validation_tokens: Count = 50_000
    """How many tokens each validation during training reads, about; they are spread over the held-out text."""
    prompt: str = "\n"
    """What the samples during training begin with."""
    mixture: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Weights of several shards stages, or folders of shards; by default the latest shards stage alone."""

    def check(self) -> None:
        """Looks whether the model's numbers fit together, and the training's."""
        import torch

        with torch.device("meta"):
            self.model.config(vocab=1).build()
        self.model.transfer(vocab=1)
        self.training.check()
        if self.mixture:
            from penjing.data.loader import check_weights

            check_weights(tuple(self.mixture.values()))
        if self.row is not None and self.row > self.model.context:
            raise ConfigError(f"row is {self.row}, and the model's context only {self.model.context}")

    def depends_on(self, workshop: Workshop) -> Any:
        """The shards that no stage of the recipe made."""
        return outside(workshop, self.mixture)

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From random weights to `model/`."""
        return train_on_shards(
            workshop,
            folders_of(workshop, self.mixture),
            self.model,
            self.training,
            row=self.model.context if self.row is None else self.row,
            validation_tokens=self.validation_tokens,
            packing=self.packing,
            prompt=self.prompt,
        )


class Instruct(Stage):
    """Instruction tuning: goes on with the pretrained model on conversations."""

    together = True

    training: Training
    data: str | None = None
    """Conversations: a file or folder; by default the world's dialogues."""
    mixture: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Weights of several files or folders of conversations, or of world stages, instead of `data`."""
    model: str | None = None
    """A stage or model folder to start from; by default what the pretrain stage made."""
    row: Count | None = None
    """Tokens of a row; by default the model's context. Longer conversations lose turns at their end."""
    packing: Literal["best_fit", "padded", "grouped"] = "best_fit"
    """Conversations share rows, or each has its own; grouped: in batches of like length."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns are learned."""
    thinking: Literal["last", "all"] = "last"
    """Which turns' thoughts (<think>...</think>) are read and learned."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """NEFTune's alpha: noise on the embeddings in training; 5 is usual."""
    validation: Count = 200
    """How many conversations, the last ones, are kept for validation; of a mixture, by its weights."""
    prompt: str = "Hello!"

    def check(self) -> None:
        """Looks whether the training's numbers fit together, and the mixture's."""
        self.training.check()
        if self.mixture:
            from penjing.data.loader import check_weights

            check_weights(tuple(self.mixture.values()))
            if self.data:
                raise ConfigError("both data and mixture are given; put the data into the mixture, with a weight")

    def named_files(self) -> Sequence[str]:
        """The conversations."""
        return [path for path in (self.data, *filter(is_path, self.mixture)) if path]

    def named_models(self) -> Sequence[str]:
        """The model to start from."""
        return [self.model] if self.model else []

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From a base model to `model/`, which answers."""
        from penjing.alignment.sft import InstructionTuning, for_thinking
        from penjing.data.instructions import InstructionLoader, RenderedConversations, read
        from penjing.data.loader import validation_batches

        base = workshop.model(self.model, Pretrain)
        model, tokenizer, fill = _base(base)
        row = model.config.context if self.row is None else self.row
        weights = self._sources(workshop)
        shares = tuple(weight / sum(weights.values()) for weight in weights.values())
        parts = [
            _parted(workshop, path, list(read(path)), max(1, round(self.validation * share)))
            for path, share in zip(weights, shares, strict=True)
        ]
        tokenizer = for_thinking(tokenizer, chain.from_iterable(chain(*part) for part in parts), self.thinking)
        config = InstructionLoader.Config(
            context=row,
            seed=workshop.recipe.seed,
            packing=self.packing,
            weights=shares if len(shares) > 1 else (),
            **_share(workshop, model, self.training.batch, row),
        )
        total = sum(len(learn) for learn, _ in parts)
        workers = (os.cpu_count() or 1) if total > _WORTH_PROCESSES else 1
        sources: list[RenderedConversations] = []
        with track(workshop.output, "rendering the conversations") as report:
            for learn, _ in parts:
                before = sum(len(part) for part, _ in parts[: len(sources)])
                tell = partial(lambda before, done: report(before + done, total), before)
                how: dict[str, Any] = {"turns": self.turns, "workers": workers, "progress": tell}
                sources.append(RenderedConversations(learn, tokenizer, row, **how))
        loader = config.over(sources)
        workshop.output.print(f"  {loader.rendering}")
        for refusal in (source.refusal for source in sources if source.refusal):
            workshop.output.print(f"  the chat template refuses {refusal}")
        batches = [
            batch
            for _, kept in parts
            for batch in validation_batches(
                RenderedConversations(kept, tokenizer, row, turns=self.turns),
                row,
                self.training.batch,
                packing="best_fit",
            )
        ]
        sample = _answering(tokenizer, self.prompt)
        objective, validate = InstructionTuning(self.noise), _validation(batches)
        result = _train(workshop, self.training, model, tokenizer, loader, validate, sample, fill, objective=objective)
        return {"conversations": loader.rendering.conversations, **result}

    def _sources(self, workshop: Workshop) -> dict[str | Path, float]:
        """Where the conversations are, with weights above 0."""
        if self.mixture:
            return conversations_of(workshop, self.mixture)
        if self.data:
            return {self.data: 1.0}
        world = workshop.find(World)
        if world is None:
            raise ConfigError(
                f"[{workshop.folder.name}] has no conversations: give it data, or a world stage before it"
            )
        return {world / "dialogues.jsonl": 1.0}


def _parted(
    workshop: Workshop, path: str | Path, conversations: "list[Conversation]", kept: int
) -> "tuple[list[Conversation], list[Conversation]]":
    """What is learned and what, at the end, is kept for validation.

    Raises:
        DataError: nothing would be left to learn.
    """
    if len(conversations) <= kept:
        raise DataError(
            f"there are {len(conversations)} conversations in {path}, and {kept} of them are for validation; "
            f"lower it with --set {workshop.folder.name}.validation=N"
        )
    return conversations[:-kept], conversations[-kept:]


def _base(base: Path) -> "tuple[LanguageModel, Tokenizer, Fill | None]":
    """The model to start from, its tokenizer, and what fills it if it has no memory yet.

    What is trained is float32, whatever the file has.
    """
    import torch

    import penjing
    from penjing.models.folder import CONFIG, fill_from
    from penjing.models.formats import load_tokenizer, read_config

    if not (base / CONFIG).is_file():  # another format
        return *penjing.load(base, dtype=torch.float32), None
    config = read_config(base)
    with torch.device("meta"):
        model = config.build()
    return model, load_tokenizer(base, config.vocab), partial(fill_from, base)


def train_on_shards(
    workshop: Workshop,
    shards: Path | Mapping[Path, float],
    shape: Model,
    training: Training,
    *,
    row: int,
    validation_tokens: int,
    packing: Literal["best_fit", "stream", "random"] = "best_fit",
    prompt: str | None = None,
) -> dict[str, Any]:
    """A language model from random weights, trained on token shards into `workshop.folder`.

    `shards` is a folder, or several with weights. `prompt` is what samples begin with; None: there are none.
    """
    import torch

    from penjing.data.loader import PackedLoader

    tokenizer = load_tokenizer(workshop)
    mixed = Mixed.open({shards: 1.0} if isinstance(shards, Path) else shards, tokenizer)
    rule = shape.transfer(tokenizer.vocab_size)

    def fill(model: "LanguageModel") -> None:
        model.initialise(torch.Generator().manual_seed(workshop.recipe.seed))
        if rule is not None:
            rule.scale(model)

    with torch.device("meta"):  # it may be larger than a process's memory; the engine makes room for what it trains
        model = shape.config(tokenizer.vocab_size).build()
    fitted = "" if rule is None else f", learning rates fitted from width {shape.tuned_width} to {shape.width}"
    workshop.output.print(f"  {model.parameter_count():,} parameters ({shape.family}){fitted}")
    share = _share(workshop, model, training.batch, row)
    weights = mixed.shares if len(mixed.train) > 1 else ()
    order = PackedLoader.Config(context=row, seed=workshop.recipe.seed, packing=packing, weights=weights, **share)
    loader = order.build(mixed.train)
    batches = [
        batch
        for held_out, part in zip(mixed.held_out, mixed.shares, strict=True)
        for batch in _spread(held_out, round(validation_tokens * part), row, training.batch)
    ]
    validate = _validation(batches)
    sample = None if prompt is None else _continuing(tokenizer, prompt)
    result = _train(workshop, training, model, tokenizer, loader, validate, sample, fill, rule)
    return {"parameters": model.parameter_count(), **result}


def _share(workshop: Workshop, model: "LanguageModel", batch: int, row: int) -> dict[str, Any]:
    """This process's part of each batch, as loaders are told of it."""
    if workshop.crew is None:
        return {"batch": batch}
    workshop.crew.check(model, batch, row)
    rank, readers = workshop.crew.readers
    return {"batch": batch, "rank": rank, "world_size": readers}


def _train(
    workshop: Workshop,
    training: Training,
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    loader: "Loader",
    validate: Callable[[Any], Mapping[str, float]],
    sample: Callable[[Any], str] | None,
    fill: "Fill | None",
    rule: "Transfer | None" = None,
    *,
    objective: "Objective | None" = None,
) -> dict[str, Any]:
    """Training into the stage's folder, by default on next tokens, from where an interrupted one stopped."""
    from penjing.data.prefetch import Prefetch
    from penjing.training.crew import Crew
    from penjing.training.objectives import next_token

    config = training.trainer(workshop.recipe.seed)
    if rule is not None:
        config = replace(config, optimizer=rule.optimizer(config.optimizer))
    device = (workshop.crew or Crew()).device(config.device)
    # on a CPU a batch takes a thousandth of its step, and the thread that makes it would take it from the same cores
    with nullcontext(loader) if device.type == "cpu" else closing(Prefetch(loader, device)) as batches:
        trainer = config.build(
            model,
            objective or next_token,
            batches,
            workshop.folder,
            tokenizer=tokenizer,
            validate=validate,
            sample=sample,
            console=workshop.output,
            crew=workshop.crew,
            fill=fill,
        )
        result = trainer.run()
    if result.stopped == "interrupted":
        raise Interrupted
    return {
        "steps": result.step,
        "tokens": result.tokens,
        "loss": result.loss,
        "validation_loss": result.validation["loss"],
        "training_seconds": result.seconds,
        "epochs": batches.epoch,
    }


def _spread(held_out: "Tokens", tokens: int, row: int, batch: int) -> "Iterator[TokenBatch]":
    """About so many tokens of the held-out text: all if it has no more, else rows from its beginning to its end."""
    from penjing.data.loader import validation_batches, windows

    count = max(1, tokens // row)
    if held_out.tokens <= count * row:
        return validation_batches(held_out, row, batch)
    return windows(held_out, count, row, batch)


def _validation(batches: "Iterable[TokenBatch]") -> Callable[[Any], Mapping[str, float]]:
    from penjing.evaluation.loss import mean_loss

    return lambda model: {"loss": mean_loss(model, batches)}


def _continuing(tokenizer: "Tokenizer", prompt: str) -> Callable[[Any], str]:
    """A sample of what the model writes after a prompt."""
    from penjing.inference.generate import generate

    def sample(model: "LanguageModel") -> str:
        text = generate(model, tokenizer, prompt, max_new_tokens=_SAMPLE_TOKENS, temperature=0.8, top_p=0.95, seed=1)
        return prompt + str(text)

    return sample


def _answering(tokenizer: "Tokenizer", prompt: str) -> Callable[[Any], str]:
    """A sample of what the model answers."""
    from penjing.inference.chat_model import Text
    from penjing.inference.local import LocalChatModel
    from penjing.inference.sampling import Sampling

    def sample(model: "LanguageModel") -> str:
        chat = LocalChatModel(model, tokenizer)
        pieces = chat.stream([{"role": "user", "content": prompt}], Sampling(0.0, max_new_tokens=_SAMPLE_TOKENS))
        return f"> {prompt}\n" + "".join(piece.text for piece in pieces if isinstance(piece, Text))

    return sample
