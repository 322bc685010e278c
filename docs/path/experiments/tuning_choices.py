"""Choices in instruction tuning: what is learned of a tool dialogue, how rows are filled, noise on embeddings."""

import copy
import json
import time

import torch
from common import Stream, arguments, llama, loader, table, texts, train

from penjing.alignment.sft import InstructionTuning, for_thinking
from penjing.data.conversations import Conversation
from penjing.data.inspection import pieces
from penjing.data.instructions import InstructionLoader, RenderedConversations
from penjing.data.loader import validation_batches
from penjing.data.messages import turns
from penjing.data.world import dialogue
from penjing.evaluation.loss import mean_loss
from penjing.tokenizer import Tokenizer
from penjing.training.engine import Engine
from penjing.training.muon import Muon
from penjing.training.objectives import next_token
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH, WIDTH = 160, 16, 96
SKILLS = ("facts", "reading", "location", "refusal")
DIALOGUE = [
    {"role": "user", "content": "What is 12 * 12?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "A tool knows.",
        "tool_calls": [{"function": {"name": "calculator", "arguments": json.dumps({"expression": "12*12"})}}],
    },
    {"role": "tool", "content": "144"},
    {"role": "assistant", "content": "144."},
    {"role": "user", "content": "Is that even?"},
    {"role": "assistant", "content": "Yes.", "reasoning_content": "4 is."},
]


def conversations(count: int, split: str = "train") -> list[Conversation]:
    """English dialogues of a few skills."""
    return [
        Conversation(dialogue(seed, split=split, language="en", skill=SKILLS[seed % len(SKILLS)]).messages)
        for seed in range(count)
    ]


def show(tokenizer: Tokenizer) -> None:
    """A dialogue with thoughts and a tool, what is learned in brackets: of all turns, and of the last alone."""
    talk = Conversation(tuple(turns(DIALOGUE, "the dialogue", "messages")))
    chat = for_thinking(tokenizer, [talk], "last").chat
    for which in ("all", "last"):
        print(f"turns = {which!r}:")
        written = (f"⟦{piece.text}⟧" if piece.learned else piece.text for piece in pieces(chat, talk, which))
        print("".join(written).replace("⟧⟦", ""))


def fillings(tokenizer: Tokenizer, start, count: int) -> None:
    """The same conversations once through in three kinds of rows: places filled, loss, and time."""
    rows = []
    talks = conversations(count)
    rendered = RenderedConversations(talks, tokenizer, CONTEXT)
    for packing in ("padded", "grouped", "best_fit"):
        model = copy.deepcopy(start)
        engine = Engine(model.train(), next_token, Muon.Config(learning_rate=0.0, precision="fp32"))
        batches = InstructionLoader.Config(BATCH, CONTEXT, seed=1, packing=packing).over([rendered])
        engine.step([next(batches)])
        steps, begun = 0, time.perf_counter()
        epoch = batches.epoch
        while batches.epoch - epoch < 1:
            engine.step([next(batches)])
            steps += 1
        seconds = time.perf_counter() - begun
        loss = mean_loss(model, validation_batches(rendered, CONTEXT, BATCH, packing=packing))
        rows.append((packing, steps, batches.efficiency, loss, seconds))
    table(
        ["rows", "steps of an epoch", "places filled", "loss", "time of an epoch"],
        [[name, n, f"{full:.0%}", f"{loss:.6f}", f"{s / rows[0][-1]:.2f}"] for name, n, full, loss, s in rows],
    )


def main() -> None:
    """Prints a dialogue's mask and a table of ways to fill rows; tunes with noise and without on few dialogues."""
    args = arguments("11-tuning-choices", __doc__, steps=300, tuning=240, documents=6000, few=240)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 60, first=10**6)
    tokenizer = Tokenizer.train(learn, 1024)
    show(tokenizer)
    base = llama(tokenizer.vocab_size, CONTEXT, WIDTH)
    validation = Stream(tokenizer, unseen)
    rates = Muon.Config(learning_rate=1e-2, precision="fp32")
    batches = loader(Stream(tokenizer, learn), BATCH, CONTEXT)
    train(base, batches, args.steps, rates, lambda: validation_batches(validation, CONTEXT, BATCH), checks=1)
    print()
    fillings(tokenizer, base, 1200)

    few, held_out = (
        RenderedConversations(conversations(*of), tokenizer, CONTEXT) for of in ((args.few,), (400, "heldout"))
    )
    kept = [list(validation_batches(part, CONTEXT, BATCH, packing="best_fit")) for part in (few, held_out)]
    curves, rows = [], []
    for noise in (0.0, 5.0, 15.0):
        model = copy.deepcopy(base)
        rate = Muon.Config(learning_rate=5e-3, precision="fp32")
        found = train(
            model,
            InstructionLoader.Config(BATCH, CONTEXT, seed=1).over([few]),
            args.tuning,
            rate,
            lambda: kept[1],
            objective=InstructionTuning(noise),
            start=False,
            checks=12,
        )
        curves.append(Curve(f"noise {noise:g}", *zip(*found, strict=True), points=True))
        rows.append([f"noise {noise:g}", mean_loss(model, kept[0]), min(loss for _, loss in found), found[-1][1]])
    print(f"\n{few.rendering.conversations} dialogues, {args.tuning} steps: nats per token of answers")
    table(["", "learned", "held out, best", "held out, at the end"], rows)
    Plot("Noise on embeddings, few dialogues", "step of tuning", "nats per token, held out", curves).save(args.image)


if __name__ == "__main__":
    torch.manual_seed(1)
    main()
