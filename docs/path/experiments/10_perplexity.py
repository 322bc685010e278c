"""Perplexity: two vocabularies compared, counting baselines, and what a window's stride is worth."""

import numpy as np
import torch
from common import Stream, arguments, llama, loader, table, texts, train

from penjing.data.loader import validation_batches
from penjing.evaluation.baselines import Baselines, baselines
from penjing.evaluation.perplexity import evaluate, windows
from penjing.tokenizer import Tokenizer
from penjing.training.muon import Muon
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH = 128, 8
WINDOW = 64  # shorter than the context, so that each place in it has been seen often in training
VOCABULARIES = (320, 2048)
STRIDES = (63, 48, 32, 16, 8, 4)


def counted(tokenizer: Tokenizer, training: Stream, documents: list[str]) -> Baselines:
    """What counting makes of the documents."""
    sizes = np.array([len(tokenizer.token_bytes(number)) for number in range(tokenizer.vocab_size)])
    return baselines(training.ids, Stream(tokenizer, documents).ids, sizes, tokenizer.eos_id)


def by_context(model, documents: list[list[int]]) -> list[float]:
    """The mean loss of a token with 1, 2, 3, ... tokens before it, in windows that begin anywhere."""
    rows = [ids[i : i + WINDOW] for ids in documents for i in range(len(ids) % WINDOW, len(ids), WINDOW)]
    losses = []
    for start in range(0, len(rows), 64):
        tokens = torch.tensor(rows[start : start + 64])
        with torch.inference_mode():
            logits = model(tokens)[:, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits.mT, tokens[:, 1:], reduction="none"))
    return torch.cat(losses).mean(0).tolist()


def main() -> None:
    """Prints the losses in all units and by stride; draws the loss by how much of the text has been seen."""
    args = arguments("10-perplexity", __doc__, steps=300, documents=6000)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 3000, first=10**6)
    rows, models = [], {}
    for vocab in VOCABULARIES:
        tokenizer = Tokenizer.train(learn, vocab)
        training, validation = Stream(tokenizer, learn), Stream(tokenizer, unseen[:120])
        model = llama(vocab, CONTEXT)
        batches = loader(training, BATCH, CONTEXT, packing="stream")  # rows begin anywhere in a document

        def held_out(validation=validation):
            return validation_batches(validation, CONTEXT, BATCH)

        train(model, batches, args.steps, Muon.Config(learning_rate=1e-2, precision="fp32"), held_out, checks=1)
        models[vocab] = (tokenizer, training, model)
        counts = counted(tokenizer, training, unseen[:300])
        found = evaluate(model, tokenizer, unseen[:300])
        for name, nats in (("uniform", counts.uniform), ("unigram", counts.unigram), ("bigram", counts.bigram)):
            rows.append([f"{vocab:,}: {name}", nats, f"{np.exp(nats):,.1f}", counts.bits_per_byte(nats)])
        rows.append([f"{vocab:,}: model", found.nats_per_token, f"{found.perplexity:,.1f}", found.bits_per_byte])
    print("Unseen text, by vocabulary")
    table(["", "nats per token", "perplexity", "bits per byte"], rows)

    tokenizer, training, model = models[VOCABULARIES[0]]
    long = [text for text in unseen if len(tokenizer.encode(text)) >= 2 * WINDOW][:300]
    lengths = [len(tokenizer.encode(text)) for text in long]
    rows = []
    for stride in STRIDES:
        found = evaluate(model, tokenizer, long, context=WINDOW, stride=stride)
        read = sum(w.end - w.begin for length in lengths for w in windows(length, WINDOW, stride))
        rows.append([stride, f"{found.tokens:,}", f"{read / found.tokens:.1f}", found.perplexity, found.bits_per_byte])
    which = f"{len(long)} documents of {2 * WINDOW} tokens or more"
    print(f"\n{which} through windows of {WINDOW}, vocabulary {VOCABULARIES[0]}")
    table(["stride", "tokens scored", "read for each", "perplexity", "bits per byte"], rows)

    counts = counted(tokenizer, training, long)
    losses = by_context(model, [tokenizer.encode(text) for text in long])
    print("\nLoss by tokens seen before, in windows that begin anywhere")
    seen = (1, 2, 4, 8, 16, 32, WINDOW - 1)
    table(["", *map(str, seen)], [["nats", *(losses[n - 1] for n in seen)]])
    curve = Curve("model", range(1, WINDOW), losses, points=True)
    levels = {"unigram": counts.unigram, "bigram": counts.bigram}
    title, x_label, y_label = "What a token of context is worth", "tokens seen before", "nats per token"
    Plot(title, x_label, y_label, [curve], levels, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
