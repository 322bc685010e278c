"""Sampling: what each cut keeps, variety against fidelity, beams, and rows that do not disturb one another."""

import math

import torch
from common import Stream, arguments, llama, loader, table, texts, train

from penjing.data.loader import validation_batches
from penjing.evaluation.perplexity import token_losses
from penjing.inference import logits as transform
from penjing.inference.beam import BeamSearch, beam_search
from penjing.inference.generate import generate, generate_ids
from penjing.inference.sampling import Sampling
from penjing.tokenizer import Tokenizer
from penjing.training.muon import Muon
from penjing.training.plots import Curve, Plot

CONTEXT, BATCH, WIDTH = 128, 16, 96
GIVEN, NEW, GRAM = 12, 48, 4
CUTS = {
    "top-k 10": lambda logits: transform.top_k(logits, 10),
    "top-p 0.9": lambda logits: transform.top_p(logits, 0.9),
    "min-p 0.1": lambda logits: transform.min_p(logits, 0.1),
}
SWEEPS = {
    "temperature": [{"temperature": t} for t in (0.01, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6)],
    "top-k": [{"top_k": k} for k in (1, 2, 4, 10, 40, 1000)],
    "top-p": [{"top_p": p} for p in (0.05, 0.5, 0.7, 0.8, 0.9, 0.97)],
    "temperature 1.6 and min-p": [{"temperature": 1.6, "min_p": p} for p in (0.9, 0.3, 0.1, 0.05, 0.02, 0.005)],
}


def show_cuts(model, tokenizer, text: str) -> None:
    """The surest and the least sure place of a text: the first tokens there, and how many each cut keeps."""
    ids = tokenizer.encode(text)[:CONTEXT]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))[0]  # (seq, vocab)
    entropies = torch.distributions.Categorical(logits=logits).entropy()[3:]
    for place in (int(entropies.argmin()) + 3, int(entropies.argmax()) + 3):
        row = logits[place : place + 1]
        best = row.softmax(-1)[0].topk(5)
        shown = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        words = [f"{tokenizer.decode([number])!r} {share:.3f}" for number, share in shown]
        kept = [f"{name} {int((cut(row) > -math.inf).sum())}" for name, cut in CUTS.items()]
        before = tokenizer.decode(ids[max(0, place - 14) : place + 1])
        print(f"... {before!r}\n    {', '.join(words)}\n    tokens kept: {', '.join(kept)}")


def grams(sequences) -> list[tuple[int, ...]]:
    """All runs of `GRAM` tokens."""
    return [tuple(ids[i : i + GRAM]) for ids in sequences for i in range(len(ids) - GRAM + 1)]


def measure(sequences, known: set[tuple[int, ...]]) -> tuple[float, float]:
    """In %: how many runs of tokens are different ones, and how many are known from real text."""
    runs = grams(sequences)
    return 100 * len(set(runs)) / len(runs), 100 * sum(run in known for run in runs) / len(runs)


def main() -> None:
    """Trains a model, draws from it in many ways, prints and draws what comes of them."""
    args = arguments("09-sampling", __doc__, steps=400, documents=8000)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 600, first=10**6)
    tokenizer = Tokenizer.train(learn, 1024)
    training, validation = Stream(tokenizer, learn), Stream(tokenizer, unseen[:120])
    model = llama(tokenizer.vocab_size, CONTEXT, WIDTH)
    batches = loader(training, BATCH, CONTEXT)
    rates = Muon.Config(learning_rate=1e-2, precision="fp32")
    train(model, batches, args.steps, rates, lambda: validation_batches(validation, CONTEXT, BATCH), checks=1)

    show_cuts(model, tokenizer, unseen[0] if args.data is None else unseen[0][:400])

    encoded = [ids for text in unseen if len(ids := tokenizer.encode(text)) >= GIVEN + NEW]
    prompts, real = [ids[:GIVEN] for ids in encoded[:64]], [ids[GIVEN : GIVEN + NEW] for ids in encoded[:64]]
    known = set(grams(tokenizer.encode(text) for text in learn))
    curves, rows = [], []
    for name, sweep in SWEEPS.items():
        points = []
        for options in sweep:
            settings = Sampling.of(max_new_tokens=NEW, seed=1, **options)
            made = generate_ids(model, prompts, settings, stop_ids=[tokenizer.eos_id])
            points.append(measure([completion.ids for completion in made], known))
            rows.append([", ".join(f"{key} {value}" for key, value in options.items()), *points[-1]])
        curves.append(Curve(name, *zip(*points, strict=True), points=True))
    print(f"\nRuns of {GRAM} tokens in {len(prompts)} continuations, in %")
    points = [measure(real, known)]
    rows.append(["the real continuations", *points[-1]])
    table(["", "different", "known from the training text"], [[n, f"{a:.1f}", f"{b:.1f}"] for n, a, b in rows])
    curves.append(Curve("the real continuations", *zip(*points, strict=True), points=True))

    print("\nMean log-probability of a continuation of at most 24 tokens, and different runs in %")
    rows = []
    for beams in (1, 2, 4, 8):
        search = BeamSearch(beams=beams, length_penalty=0.0, early_stopping="never", max_new_tokens=24)
        found = beam_search(model, prompts[:24], search, stop_ids=[tokenizer.eos_id])
        different = measure([completion.ids for completion in found], known)[0]
        rows.append([f"{beams} beams", sum(sum(c.logprobs) for c in found) / len(found), f"{different:.1f}"])
    table(["", "log-probability", "different"], rows)

    words = [tokenizer.decode(prompt) for prompt in prompts[:16]]
    settings = Sampling(max_new_tokens=NEW, seed=7)
    together = generate(model, tokenizer, words, sampling=settings)
    alone = [generate(model, tokenizer, prompt, sampling=settings) for prompt in words]
    print(f"\nOf {len(words)} sampled texts the same alone and in one batch: {sum(map(str.__eq__, together, alone))}")
    scored = generate_ids(model, prompts[:16], Sampling(max_new_tokens=NEW, seed=7, logprobs=0))
    full = [prompt + list(made.ids) for prompt, made in zip(prompts, scored, strict=False)]
    read = [losses[GIVEN - 1 :] for losses in token_losses(model, full)]
    pairs = [zip(made.logprobs, losses, strict=True) for made, losses in zip(scored, read, strict=True)]
    far = max(abs(written + loss) for pair in pairs for written, loss in pair)
    print(f"Largest difference between a log-probability as written and as read: {far:.0e}")

    title, x_label = "Variety against fidelity", f"different runs of {GRAM} tokens, %"
    Plot(title, x_label, "runs known from the training text, %", curves).save(args.image)


if __name__ == "__main__":
    main()
