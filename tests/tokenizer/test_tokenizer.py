import json
import re

import pytest
from hypothesis import given, settings
from transformers import AutoTokenizer

from penjing.errors import TokenizerError
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.bpe import BytePairModel
from penjing.tokenizer.formats import gpt2
from penjing.tokenizer.patterns import PATTERNS
from penjing.tokenizer.statistics import CHINESE, ENGLISH
from penjing.tokenizer.tables import MOST_TOKENS
from tests.tokenizer.texts import corpus, hard_text

TEXT = [ENGLISH, CHINESE, "12 + 30 = 42\n\n\n  done"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, 400)


def test_special_tokens_come_last_and_have_their_roles(tokenizer):
    assert tokenizer.vocab_size == 400
    assert tokenizer.special_tokens == {"<|endoftext|>": 397, "<|im_start|>": 398, "<|im_end|>": 399}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 397, 397)
    assert tokenizer.end_of_turn_id == 399


@settings(max_examples=300, deadline=None)
@given(text=hard_text())
def test_text_never_forges_a_special_token_and_comes_back(tokenizer, text):
    """Special tokens written in text are text; decoding gives exactly the text."""
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_read_where_they_are_allowed(tokenizer):
    ids = tokenizer.encode("a<|im_end|>b", allow_special=True)
    assert ids == [*tokenizer.encode("a"), 399, *tokenizer.encode("b")]
    assert tokenizer.decode(ids) == "a<|im_end|>b"
    assert tokenizer.decode(ids, skip_special=True) == "ab"
    assert tokenizer.token_bytes(399) == b""


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_transformers_opens_what_is_saved_and_gives_the_same_ids(data, tmp_path, pattern):
    """Oracle: `AutoTokenizer`, on the beginning of every text, with and without special tokens. Exact."""
    tokenizer = Tokenizer.train((text for _, text in corpus(data, 5000)), 1000, pattern=pattern)
    tokenizer.save(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for _, text in corpus(data, 2000)]
    for text in [*texts, "  \n \n", "a \n", "<|endoftext|>", "It'S 2024!\u3000\n\n"]:
        assert tokenizer.encode(text, allow_special=True) == peer.encode(text, add_special_tokens=False)
    assert peer.eos_token_id == tokenizer.eos_id
    assert peer.pad_token_id == tokenizer.pad_id
    assert len(peer) == tokenizer.vocab_size
    assert peer.decode(tokenizer.encode(texts[0])) == texts[0]
    again = Tokenizer.load(tmp_path)
    assert again.model.pattern.rules == tokenizer.model.pattern.rules
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("size", [5000, pytest.param(None, marks=pytest.mark.slow)])
def test_a_vocabulary_of_ranks_is_saved_so_that_transformers_gives_the_same_ids(data, tmp_path, size):
    """Oracle: `AutoTokenizer`; the first of cl100k's ranks, or all, become the merges of a tokenizer.json. Exact."""
    ranks = {token: number for number, token in enumerate(_cl100k(data).tokens[:size])}
    tokenizer = Tokenizer.around(BytePairModel.from_ranks(ranks, "cl100k"))
    tokenizer.save(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    for _, text in corpus(data, 2000):
        assert tokenizer.encode(text, allow_special=True) == peer.encode(text, add_special_tokens=False)


def _cl100k(data) -> BytePairModel:
    model = Tokenizer.load(data / "tokenizer" / "cl100k_base.tiktoken").model
    assert isinstance(model, BytePairModel)
    return model


def test_a_batch_is_encoded_by_threads_as_one_by_one(tokenizer):
    texts = [f"{text} {number}" for number in range(50) for text in TEXT]
    assert tokenizer.encode_batch(texts, workers=4) == [tokenizer.encode(text) for text in texts]


def test_the_longest_added_token_is_found_first():
    model = BytePairModel([bytes([byte]) for byte in range(256)], [], "gpt2")
    tokenizer = Tokenizer(model, special_tokens={"<|end|>": 258}, added_tokens={"  ": 256, "   ": 257})
    assert tokenizer.encode("a     b") == [97, 257, 256, 98]
    assert tokenizer.decode([97, 257, 258]) == "a   <|end|>"
    assert tokenizer.token_bytes(257) == b"   "


def test_the_saved_file_is_plain_json_and_names_its_parts(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert document["model"]["vocab"]["Ġ"] == 220
    assert len(document["model"]["merges"]) == 400 - 256 - 3
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["eos_token"] == "<|endoftext|>"
    assert "<|im_start|>" in config["chat_template"]


def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    with pytest.raises(TokenizerError, match="outside the vocabulary of 400"):
        tokenizer.decode([400])
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        tokenizer.token_bytes(-1)


def test_two_tokens_with_one_id_are_refused(tokenizer):
    with pytest.raises(TokenizerError, match="share the id 300"):
        Tokenizer(tokenizer.model, special_tokens={"<a>": 300, "<b>": 300})


def test_a_role_needs_a_token(tokenizer):
    with pytest.raises(TokenizerError, match="'<s>' is not a token"):
        Tokenizer(tokenizer.model, bos="<s>")


def test_a_special_token_that_text_gives_is_refused(tmp_path):
    """Learned from the text, or a byte, which is refused before anything is read; text could forge it once saved."""
    with pytest.raises(TokenizerError, match="'###' is a token of ordinary text as well"):
        Tokenizer.train(["### one ### two ###"] * 9, 300, special_tokens=("###",))
    with pytest.raises(TokenizerError, match="'a' is a token of ordinary text"):
        Tokenizer.train(iter(()), 300, special_tokens=("a",))


@pytest.mark.parametrize("name", ["Ġthe", "the"])
def test_two_tokens_that_a_file_would_write_alike_are_not_saved(tmp_path, name):
    """A space is written Ġ: the special token "Ġthe" would be that of the text " the"."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the"]
    model = BytePairModel(tokens, [(116, 104, 256), (256, 101, 257), (32, 257, 258)], "gpt2")
    tokenizer = Tokenizer(model, special_tokens={name: 259})
    for save in (tokenizer.save, lambda folder: gpt2.write(tokenizer, folder)):
        with pytest.raises(TokenizerError, match=f"'{name}' is the name of token 259"):
            save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("special", "given", "eos"),
    [
        (("<|im_start|>", "<|im_end|>"), None, None),
        (("<a>", "<b>"), None, None),
        (("<a>", "<b>"), "<b>", "<b>"),
        (("<s>", "</s>"), None, "</s>"),
        (("<a>", "<|endoftext|>"), None, "<|endoftext|>"),
        ((), None, None),
    ],
)
def test_a_document_ends_with_what_is_made_for_it(tmp_path, special, given, eos):
    """Never with the first token that happens to be there; and the same after saving."""
    tokenizer = Tokenizer.train(TEXT, 300, special_tokens=special, eos=given)
    assert (tokenizer.eos, tokenizer.pad) == (eos, eos)
    tokenizer.save(tmp_path)
    assert (Tokenizer.load(tmp_path).eos, Tokenizer.load(tmp_path).pad) == (eos, eos)


@pytest.mark.parametrize("eos", ["<|im_end|>", "<b>"])
def test_the_end_of_a_turn_and_what_is_no_special_token_end_no_document(eos):
    with pytest.raises(TokenizerError, match=f"eos is '{re.escape(eos)}'"):
        Tokenizer.train(iter(()), 300, special_tokens=("<a>", "<|im_start|>", "<|im_end|>"), eos=eos)


def test_a_tokenizer_has_a_largest_id():
    model = BytePairModel([bytes([byte]) for byte in range(256)], [], "gpt2")
    assert Tokenizer(model, special_tokens={"<a>": MOST_TOKENS - 1}).vocab_size == MOST_TOKENS
    with pytest.raises(TokenizerError, match="more than the 1,048,575"):
        Tokenizer(model, special_tokens={"<a>": MOST_TOKENS})


def test_a_special_token_is_given_once():
    with pytest.raises(TokenizerError, match="'<a>' is given twice"):
        Tokenizer.train(TEXT, 300, special_tokens=("<a>", "<b>", "<a>"))
