"""How many bytes a token covers, by size of the vocabulary, by language, and by what the vocabulary was learnt from."""

import re

from common import arguments, table, texts

from penjing.tokenizer import Tokenizer
from penjing.training.plots import Curve, Plot

SIZES = (259, 320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)  # 256 bytes and 3 special tokens come first
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def by_language(documents: list[str]) -> dict[str, list[str]]:
    """Documents without and with Chinese characters; a language that has none is left out."""
    parts: dict[str, list[str]] = {"English": [], "Chinese": []}
    for text in documents:
        parts["Chinese" if CHINESE.search(text) else "English"].append(text)
    return {language: some for language, some in parts.items() if some}


def bytes_per_token(tokenizer: Tokenizer, documents: list[str]) -> float:
    """UTF-8 bytes of the documents over their tokens."""
    return sum(len(text.encode()) for text in documents) / sum(len(tokenizer.encode_array(text)) for text in documents)


def show(token: bytes) -> str:
    """A token as text, or in hexadecimal where it is a part of a character."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return token.hex(" ")


def main() -> None:
    """Trains vocabularies, prints what they do to text that they have not seen, and draws it."""
    args = arguments("01-bytes-and-bpe", __doc__, documents=20_000)
    learn = by_language(texts(args.data, args.documents, None))
    unseen = by_language(texts(args.data, 2000, None, first=10**6))
    both = [text for documents in learn.values() for text in documents]

    curves: list[Curve] = []
    for language, documents in unseen.items():
        measured = [bytes_per_token(Tokenizer.train(both, size), documents) for size in SIZES]
        curves.append(Curve(f"{language}", SIZES, measured, points=True))
    foreign = [Tokenizer.train(learn["English"], size) for size in SIZES] if len(learn) > 1 else []
    if foreign:
        measured = [bytes_per_token(tokenizer, unseen["Chinese"]) for tokenizer in foreign]
        curves.append(Curve("Chinese, by a vocabulary from English", SIZES, measured, points=True))

    tokenizers = {"both": Tokenizer.train(both, max(SIZES))} | ({"English": foreign[-1]} if foreign else {})
    print("The first merges:", ", ".join(show(token) for token in tokenizers["both"].model.tokens[256:272]))
    print("\nBytes per token of unseen text")
    head = ["vocabulary", *(curve.label for curve in curves)]
    table(head, [[size, *(curve.y[i] for curve in curves)] for i, size in enumerate(SIZES)])
    for text in ("She walked to the kitchen with 12 red apples.", "她拿着12个红苹果走到厨房。"):
        print()
        for source, tokenizer in tokenizers.items():
            ids = tokenizer.encode(text)
            print(f"{source}, {len(ids)} tokens: ", " ".join(show(tokenizer.token_bytes(number)) for number in ids))

    title, y_label = "What a larger vocabulary saves", "bytes per token of unseen text"
    Plot(title, "tokens in the vocabulary", y_label, curves, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
