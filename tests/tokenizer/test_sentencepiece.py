"""SentencePiece BPE against Google's library, on the vocabularies of Llama 2 and Mistral and on fresh ones."""

import json
import pickle
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.errors import TokenizerError
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.formats import load
from penjing.tokenizer.sentencepiece import SentencePieceModel, merges_of_scores
from tests.tokenizer.texts import WHOLE_OR_SLICE, corpus, hard_text

TEXT = """Once upon a time there was a tray, and in the tray a landscape: a pine, a stone, some moss.
The old gardener said: "A tree does not grow faster when you pull it." 盆景是把山水放进一个盆里。盆中有松，有石，有苔。
He cut 12 twigs on Monday, 24 on Tuesday and 2,400 in all; the pine did not mind.    It had time.
def grow(tree):
    for branch in tree:
        branch.length += 1
    return tree
"""


@cache
def processor(file: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


@cache
def penjing(file: Path) -> Tokenizer:
    return Tokenizer.load(file)


@pytest.fixture(scope="module", params=["llama2/tokenizer.model", "mistral_tokenizer.model"])
def real(request: pytest.FixtureRequest, data: Path) -> Path:
    return data / "tokenizer" / request.param


def train(folder: Path, **options: object) -> Path:
    """A small model by Google's trainer, in Llama 2's setting but for `options`."""
    usual = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    usual |= {"vocab_size": 400, "remove_extra_whitespaces": False, "character_coverage": 0.98, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_prefix=str(folder / "m"), **(usual | options)
    )
    return folder / "m.model"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("small"))


@WHOLE_OR_SLICE
def test_ids_and_text_equal_sentencepiece_on_real_text(real, data, characters):
    """Oracle: Google's library, exact, on every text of the data."""
    for name, text in corpus(data, characters):
        ids = penjing(real).encode(text)
        assert ids == processor(real).encode(text), name
        assert penjing(real).decode(ids) == processor(real).decode(ids) == text, name


@settings(max_examples=60, deadline=None)
@given(text=hard_text("the ", "▁the", "    "))
def test_ids_and_text_equal_sentencepiece_on_hard_strings(real, text):
    """Oracle: Google's library, exact; ▁ in the text comes back as a space there and here."""
    ids = penjing(real).encode(text)
    assert ids == processor(real).encode(text)
    assert penjing(real).decode(ids) == processor(real).decode(ids) == text.replace("▁", " ")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_dummy_prefix": False},
        {"split_by_whitespace": False, "vocab_size": 450},  # pieces across spaces
        {"user_defined_symbols": ["<tool>", "the", "th", "盆景", "  "]},
        {"user_defined_symbols": ["<tool>"], "control_symbols": ["<sep>"], "pad_id": 3},
        {"split_by_unicode_script": False, "split_digits": True, "max_sentencepiece_length": 4},
    ],
    ids=str,
)
def test_ids_equal_sentencepiece_whatever_the_model_was_trained_with(tmp_path, options):
    """Oracle: Google's library, exact, on 300 drawn texts and the training text itself."""
    file = train(tmp_path, **options)
    theirs, ours = processor(file), Tokenizer.load(file)
    assert ours.encode(TEXT) == theirs.encode(TEXT)
    assert [ours.bos_id, ours.eos_id, ours.pad_id if ours.pad_id is not None else -1] == [
        theirs.bos_id(),
        theirs.eos_id(),
        theirs.pad_id(),
    ]

    @settings(max_examples=60, deadline=None, database=None)
    @given(text=hard_text("<tool>", "<sep>", "the", "th", "  ", "tree"))
    def check(text):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)

    check()


@settings(max_examples=50, deadline=None)
@given(data_=st.data())
def test_any_ids_decode_as_sentencepiece_does(small, data_):
    """Oracle: Google's library, exact, on ids in any order; no byte pieces, as it shows broken ones in its own way."""
    theirs, ours = processor(small), penjing(small)
    known = [number for number in range(ours.vocab_size) if not theirs.is_byte(number) and number != theirs.unk_id()]
    ids = data_.draw(st.lists(st.sampled_from(known), max_size=12))
    assert ours.decode(ids, skip_special=True) == theirs.decode(ids)


@settings(max_examples=50, deadline=None)
@given(text=hard_text())
def test_text_comes_back_and_its_tokens_spell_it(small, text):
    """Any text survives, but for ▁, which is the space; the bytes of its tokens are those of the normalized text."""
    ours = penjing(small)
    ids = ours.encode(text)
    assert ours.decode(ids) == text.replace("▁", " ")
    spelt = b"".join(ours.token_bytes(number) for number in ids)
    assert spelt == ours.model.normalize(text).replace("▁", " ").encode()
    assert (
        ours.encode(text, at_start=False) == ids
    )  # the space comes before every stretch, as in Llama 2's tokenizer.json


def test_a_lone_surrogate_is_read_as_the_replacement_character(small):
    assert penjing(small).encode("a\ud800b") == penjing(small).encode("a\ufffdb")


def check_saved(file: Path, folder: Path, samples: list[str]) -> None:
    import transformers

    ours = penjing(file)
    ours.save(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs, again = transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    for text in [*samples, "", " ", "  a", "▁", "<s>a</s> b", "a<unk>", "\n\n  \t x", "盆景🎍", "a" * 50, " " * 37]:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, allow_special=True) == again.encode(text, allow_special=True) == ids
        assert ours.decode(ids) == again.decode(ids) == theirs.decode(ids)
    assert theirs.encode("tray") == [ours.bos_id, *ours.encode("tray")]
    assert (again.bos_id, again.eos_id, again.adds_bos) == (ours.bos_id, ours.eos_id, True)


def test_a_saved_model_opens_in_transformers_with_the_same_ids(small, tmp_path):
    """Oracle: transformers' AutoTokenizer on the saved model folder, exact, special tokens in text included."""
    check_saved(small, tmp_path, TEXT.splitlines())


@pytest.mark.slow
def test_saved_real_models_open_in_transformers_with_the_same_ids(real, data, tmp_path):
    """As above, on stretches of all texts of the data."""
    check_saved(real, tmp_path, [text for _, text in corpus(data, 2_000)])


def test_a_model_without_dummy_space_is_saved_with_its_user_defined_pieces(tmp_path):
    """Oracle: Google's library on the original, `tokenizers` on the saved file; exact."""
    import tokenizers

    file = train(tmp_path, add_dummy_prefix=False, user_defined_symbols=["<tool>", "te"])
    ours = Tokenizer.load(file)
    ours.save(tmp_path / "saved")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    again = Tokenizer.load(tmp_path / "saved")
    for text in [TEXT, "a <tool> b", "<tool><tool>", "   x  y"]:
        assert ours.encode(text) == processor(file).encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == again.encode(text) == ours.encode(text)


def test_what_no_tokenizer_json_can_say_is_not_saved(tmp_path):
    tokenizer = Tokenizer.load(train(tmp_path, user_defined_symbols=["<tool>"]))
    with pytest.raises(TokenizerError, match=r"user-defined.*<tool>"):
        tokenizer.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_merges_of_characters_that_are_no_pieces_are_read_but_not_saved():
    """SentencePiece joins any neighbours that are a piece; a tokenizer.json lists merges of tokens only."""
    pieces = ["", "▁", "ab", "b", *[""] * 256]
    model = SentencePieceModel(pieces, merges_of_scores({"▁": -1.0, "ab": -2.0, "b": -3.0}), range(4, 260))
    assert model.encode("ab").tolist() == [1, 2]
    with pytest.raises(TokenizerError, match="merges of 'a', which is not a piece"):
        model.sections()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 320}, "of type unigram; only BPE"),
        ({"byte_fallback": False, "vocab_size": 150}, "without byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalizes text"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_models_that_would_be_read_wrongly_are_refused(tmp_path, options, message):
    with pytest.raises(TokenizerError, match=message):
        load(train(tmp_path, **options))


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 10**6), byte=st.integers(0, 255), place=st.integers(0, 10**6))
def test_a_damaged_file_is_an_error_or_a_tokenizer_but_never_a_crash(small, tmp_path_factory, cut, byte, place):
    content = bytearray(small.read_bytes())
    content[place % len(content)] = byte
    file = tmp_path_factory.getbasetemp() / "damaged.model"
    file.write_bytes(content[: cut % len(content)])
    try:
        tokenizer = load(file)
    except TokenizerError:
        return
    assert tokenizer.decode(tokenizer.encode("a tray")) == "a tray"


def test_models_are_pickled_without_what_they_remember(small):
    tokenizer = Tokenizer.load(small)
    fresh = len(pickle.dumps(tokenizer))
    ids = tokenizer.encode(TEXT)
    assert len(pickle.dumps(tokenizer)) < fresh + 20_000
    assert pickle.loads(pickle.dumps(tokenizer)).encode(TEXT) == ids
