"""Choices in instruction tuning: what is learned of a tool dialogue, how rows are filled, how large noise is."""

import json

import torch
from common import arguments, llama, table, texts

from penjing.alignment.sft import for_thinking, noisy_embeddings
from penjing.data.batch import TokenBatch
from penjing.data.conversations import Conversation
from penjing.data.inspection import pieces
from penjing.data.instructions import InstructionLoader, RenderedConversations
from penjing.data.loader import validation_batches
from penjing.data.messages import turns
from penjing.data.world import dialogue
from penjing.evaluation.loss import mean_loss
from penjing.tokenizer import Tokenizer

CONTEXT, BATCH, WIDTH = 128, 8, 64
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
        print("".join(written).replace("⟧⟦", "").rstrip(), end="\n\n")


def fillings(tokenizer: Tokenizer, model, count: int) -> None:
    """The same conversations once through in three kinds of rows: what is computed, and what the loss is."""
    rendered = RenderedConversations(conversations(count), tokenizer, CONTEXT)
    rows = []
    for packing in ("padded", "grouped", "best_fit"):
        batches = InstructionLoader.Config(BATCH, CONTEXT, seed=1, packing=packing).over([rendered])
        places = learned = 0
        while batches.epoch < 1:
            batch = next(batches)
            places, learned = places + batch.tokens.numel(), learned + batch.weight
        loss = mean_loss(model, validation_batches(rendered, CONTEXT, BATCH, packing=packing))
        rows.append((packing, batches.efficiency, places / learned, loss))
    table(
        ["rows", "places filled", "places for a learned token", "loss"],
        [[name, f"{full:.0%}", f"{places:.1f}", f"{loss:.5f}"] for name, full, places, loss in rows],
    )


def noise(tokenizer: Tokenizer, model, alpha: float) -> None:
    """How long the noise on a whole conversation is, and on one of its tokens, for short and for long ones."""
    rows = []
    for repeat in (1, 4, 16):
        message = {"role": "assistant", "content": "A hen is a bird, and a bird has wings. " * repeat}
        ids = torch.tensor([tokenizer.chat.render([message]).ids])
        batch = TokenBatch(ids[:, :-1], ids[:, 1:], ids[:, 1:] >= 0)
        with torch.no_grad(), noisy_embeddings(model, batch, alpha):
            added = model.embedding(batch.tokens)
        added -= torch.nn.functional.embedding(batch.tokens, model.embedding.weight)
        rows.append([str(batch.tokens.shape[1]), added.norm().item(), added[0].norm(dim=-1).mean().item()])
    table(["tokens", "length of the noise", "of a token's"], rows)


def main() -> None:
    """Prints a dialogue's mask, a table of ways to fill rows, and one of noise."""
    args = arguments("11-tuning-choices", __doc__, documents=1500, dialogues=400)
    tokenizer = Tokenizer.train(texts(args.data, args.documents), 768)
    show(tokenizer)
    model = llama(tokenizer.vocab_size, CONTEXT, WIDTH)
    model.initialise(torch.Generator().manual_seed(1))
    fillings(tokenizer, model.eval(), args.dialogues)
    print(f"\nnoise with alpha = 5; 5 / sqrt(3) = {5 / 3**0.5:.3f}")
    noise(tokenizer, model, 5.0)


if __name__ == "__main__":
    torch.manual_seed(1)
    main()
