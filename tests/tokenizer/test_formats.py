"""Readers and writers of tokenizer files against tokenizers, tiktoken and transformers."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from penjing.errors import TokenizerError
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.bpe import BYTE_ORDER, BytePairModel
from penjing.tokenizer.formats import gpt2, load, tiktoken
from penjing.tokenizer.sentencepiece import SPACE
from tests.tokenizer.texts import WHOLE_OR_SLICE, corpus, hard_text

TEXT = (
    """Once upon a time there was a tray, and in the tray a landscape: a pine, a stone, some moss. It's 2024.
盆景是把山水放进一个盆里。盆中有松，有石，有苔。 The old gardener doesn't pull; he waits 12 years, 365 days each.
"""
    * 3
)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
LLAMA3 += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def isolated(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(expression), behavior="isolated")


def trained(pre_tokenizer: Any = None, normalizer: Any = None, **model: Any) -> tokenizers.Tokenizer:
    """A byte-level BPE by `tokenizers`, with a special token and an added one."""
    tokenizer = tokenizers.Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens(["<think>", "   "])
    return tokenizer


def saved(tokenizer: tokenizers.Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def same(ours: Tokenizer, theirs: tokenizers.Tokenizer, examples: int = 40) -> None:
    """Ids and text are equal on drawn texts, in which special tokens are tokens."""

    @settings(max_examples=examples, deadline=None, database=None)
    @given(text=hard_text("the ", "tray", "   ", "365"))
    def check(text: str) -> None:
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids, skip_special=True) == theirs.decode(ids, skip_special_tokens=True)

    assert ours.encode(TEXT) == theirs.encode(TEXT, add_special_tokens=False).ids
    check()


# tokenizer.json, real


REAL = ["gpt2/tokenizer.json", "gpt_neox_olmo_dolma_v1_5.json", "minimind/tokenizer.json"]


@pytest.mark.parametrize("name", REAL)
@WHOLE_OR_SLICE
def test_ids_equal_tokenizers_on_real_text(data, name, characters):
    """Oracle: tokenizers (Rust) on the same file, exact, on every text of the data."""
    file = data / "tokenizer" / name
    ours, theirs = Tokenizer.load(file), tokenizers.Tokenizer.from_file(str(file))
    for title, text in corpus(data, characters):
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, title
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), title
    same(ours, theirs)


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in REAL[:2]), REAL[2]])
def test_a_real_file_saved_again_gives_the_same_ids(data, tmp_path, name):
    """Oracle: tokenizers on the original file, exact, for what tokenizers and Penjing read in the saved one."""
    file = data / "tokenizer" / name
    original = tokenizers.Tokenizer.from_file(str(file))
    ours = Tokenizer.load(file)
    ours.save(tmp_path)
    theirs, again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Tokenizer.load(tmp_path)
    assert again.special_tokens == ours.special_tokens
    assert again.added_tokens == ours.added_tokens
    for _, text in corpus(data, 1_000):
        text += "<|endoftext|>    |||IP_ADDRESS|||<think>"
        ids = original.encode(text, add_special_tokens=False).ids
        assert theirs.encode(text, add_special_tokens=False).ids == again.encode(text, allow_special=True) == ids


def test_a_model_folder_opens_alike_in_transformers(data):
    """Oracle: transformers' AutoTokenizer: the roles of tokens, the chat template, the ids."""
    import transformers

    folder = data / "tokenizer" / "minimind"
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocab_size == len(theirs)
    assert ours.chat_template == theirs.chat_template
    assert ours.encode(TEXT) == theirs.encode(TEXT)


# tokenizer.json, part by part

PIPELINES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "gpt2": trained,
    "llama3": lambda: trained(pre_tokenizers.Sequence([isolated(LLAMA3), BYTES]), ignore_merges=True),
    "qwen": lambda: trained(pre_tokenizers.Sequence([isolated(LLAMA3.replace("{1,3}", "")), BYTES]), normalizers.NFC()),
    "digits": lambda: trained(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
    "runs of digits": lambda: trained(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "deepseek": lambda: trained(
        pre_tokenizers.Sequence(
            [isolated(r"\p{N}{1,3}"), isolated("[一-龥]+"), isolated(r"\s+$"), isolated(r" ?\p{L}+"), BYTES]
        )
    ),
    "removed gaps": lambda: trained(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(LLAMA3), behavior="removed", invert=True), BYTES]
        )
    ),
    "no split": lambda: trained(BYTES),
    "NFKC in a sequence": lambda: trained(None, normalizers.Sequence([normalizers.NFKC()])),
    "NFD": lambda: trained(None, normalizers.NFD()),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_byte_level_pipeline_that_is_read_gives_the_ids_of_tokenizers(tmp_path, name):
    """Oracle: tokenizers on the same file, and on the one that Penjing saves after reading it; exact."""
    theirs = PIPELINES[name]()
    ours = Tokenizer.load(saved(theirs, tmp_path))
    assert ours.special_tokens == {"<|endoftext|>": theirs.token_to_id("<|endoftext|>")}
    assert ours.added_tokens == {token: theirs.token_to_id(token) for token in ("<think>", "   ")}
    same(ours, theirs)
    ours.save(tmp_path / "again")
    same(Tokenizer.load(tmp_path / "again"), theirs, 20)
    same(ours, tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json")), 20)


def test_an_added_token_is_found_in_what_normalizing_makes_of_the_text(tmp_path):
    """Spaces of other widths become plain ones under NFKC, and three of those are a token; oracle: tokenizers."""
    theirs = PIPELINES["NFKC in a sequence"]()
    ours = Tokenizer.load(saved(theirs, tmp_path))
    for text in ("\u00a0\u2003\u3000", "a\u00a0  b<think>", "\uff1cthink\uff1e", "   "):
        assert ours.encode(text) == theirs.encode(text).ids


def sentencepiece_like(normalizer: Any, pre_tokenizer: Any, strips: bool) -> tokenizers.Tokenizer:
    """A BPE with byte fallback by `tokenizers`, spaces as ▁."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT.split("  "), trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    strip = [decoders.Strip(content=" ", left=1)] if strips else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


SPACES = normalizers.Replace(" ", SPACE)
SENTENCEPIECE: dict[str, tuple[Any, Any, bool]] = {
    "llama2": (normalizers.Sequence([normalizers.Prepend(SPACE), SPACES]), None, True),
    "gemma": (SPACES, pre_tokenizers.Split(" ", behavior="merged_with_previous"), False),
    "metaspace first": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), True),
    "metaspace always": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False), True),
    "metaspace never": (None, pre_tokenizers.Metaspace(prepend_scheme="never", split=False), False),
}


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_every_sentencepiece_style_pipeline_that_is_read_gives_the_ids_of_tokenizers(tmp_path, name):
    """Oracle: tokenizers on the same file, and on the one that Penjing saves after reading it; ids exact.

    Text is compared where bytes form characters; of broken ones tokenizers replaces the whole run.
    """
    theirs = sentencepiece_like(*SENTENCEPIECE[name])
    ours = Tokenizer.load(saved(theirs, tmp_path))
    assert (ours.bos, ours.adds_bos, ours.eos) == ("<s>", True, "</s>")
    same(ours, theirs)
    ours.save(tmp_path / "again")
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    same(ours, written, 20)
    assert written.encode("tray").ids == theirs.encode("tray").ids == [1, *ours.encode("tray")]


@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_added_tokens_swallow_the_spaces_that_they_swallow_in_tokenizers(tmp_path, sides):
    """Oracle: tokenizers, exact, also for the file that is saved again."""
    theirs = trained()
    theirs.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=sides[0], rstrip=sides[1], special=True)])
    ours = Tokenizer.load(saved(theirs, tmp_path))
    ours.save(tmp_path / "again")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    for text in ["a <mask> b", "a  \n<mask>\t b<mask>", "<mask><mask>", " <mask>   <think> <mask> ", "x<mask>y"]:
        ids = theirs.encode(text).ids
        assert ours.encode(text, allow_special=True) == again.encode(text).ids == ids


def test_a_token_that_merging_gives_is_text_even_if_the_file_calls_it_special(tmp_path):
    """Oracle: tokenizers for the ids, exact; decoding without special tokens must not lose words."""
    theirs = trained()
    theirs.add_special_tokens(["in"])
    ours = Tokenizer.load(saved(theirs, tmp_path))
    assert "in" in ours.added_tokens
    assert ours.encode("in the tray") == theirs.encode("in the tray").ids
    assert ours.decode(ours.encode("in the tray"), skip_special=True) == "in the tray"


def set_in(*path: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(document: dict[str, Any], value: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["normalizer"], {"type": "Lowercase"}, "normalizer: Lowercase"),
        (["normalizer"], {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}, r"NFC\+Strip"),
        (["pre_tokenizer"], {"type": "Whitespace"}, "pre_tokenizer: Whitespace"),
        (["pre_tokenizer"], None, "pre_tokenizer: none"),
        (["pre_tokenizer", "add_prefix_space"], True, "add_prefix_space"),
        (
            ["pre_tokenizer"],
            {"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, {"type": "ByteLevel"}]},
            "Punct",
        ),
        (["decoder"], {"type": "WordPiece"}, "decoder: WordPiece"),
        (["decoder"], None, "decoder: none"),
        (["post_processor"], {"type": "BertProcessing"}, "post_processor: BertProcessing"),
        (
            ["post_processor"],
            {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|endoftext|>"}}],
            },
            "only a bos",
        ),
        (["model", "type"], "WordPiece", "model: WordPiece"),
        (["model", "type"], "Unigram", "model: Unigram"),
        (["model", "dropout"], 0.1, "dropout"),
        (["model", "end_of_word_suffix"], "</w>", "end_of_word_suffix"),
        (["model", "byte_fallback"], True, "normalizer none with pre_tokenizer ByteLevel"),
        (["added_tokens", 0, "single_word"], True, "single_word"),
        (["added_tokens", 0, "id"], 401, "share the id 401"),
        (["added_tokens", 0, "id"], 10**9, "is not a token"),
        (["model", "merges", 3], ["a", "nothing"], "needs the token 'nothing'"),
        (["model", "merges", 3], "a b c", "is not two tokens"),
        (["model", "vocab", "a"], -1, "id -1"),
        (["model", "vocab", "a"], 1, "share an id"),
        (["model", "vocab", "一"], 4000, "stands for no byte"),
    ],
)
def test_a_part_that_is_not_understood_is_named(tmp_path, path, value, message):
    document = json.loads(_small_document())
    set_in(*path)(document, value)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=message) as raised:
        load(file)
    assert str(file) in str(raised.value)


@cache
def _small_document() -> str:
    return trained().to_str()


def _places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


@settings(max_examples=100, deadline=None)
@given(data_=st.data())
def test_a_damaged_tokenizer_json_is_an_error_or_a_tokenizer_but_never_a_crash(tmp_path_factory, data_):
    """Any one value in the file is replaced by any other."""
    document = json.loads(_small_document())
    for section in ("vocab", "merges"):  # few of each, so that the rest is hit as well
        whole = document["model"][section]
        document["model"][section] = dict(list(whole.items())[:260]) if section == "vocab" else whole[:4]
    place = data_.draw(st.sampled_from([place for place in _places(document) if place]))
    junk = st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.text(max_size=3), st.just([]), st.just({}))
    set_in(*place)(document, data_.draw(junk))
    file = tmp_path_factory.getbasetemp() / "tokenizer.json"
    file.write_text(json.dumps(document))
    try:
        tokenizer = load(file)
    except TokenizerError:
        return
    assert tokenizer.vocab_size >= 256


# tokenizer_config.json


def test_roles_and_templates_are_read_from_the_config(tmp_path):
    saved(trained(), tmp_path)
    config: dict[str, Any] = {
        "bos_token": {"content": "<|endoftext|>", "lstrip": False},
        "eos_token": "<|endoftext|>",
        "pad_token": None,
        "add_bos_token": True,
        "chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == ("<|endoftext|>", "<|endoftext|>", None)
    assert tokenizer.adds_bos
    assert tokenizer.chat_template == "yes"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.load(tmp_path).chat_template == "file"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": 3}, "3 is not a token"),
        ({"eos_token": "<nothing>"}, "'<nothing>' is not a token of this vocabulary"),
        ({"chat_template": 5}, "chat_template is not a template"),
        ([], "not a JSON object"),
    ],
)
def test_a_config_that_makes_no_sense_is_an_error(tmp_path, config, message):
    saved(trained(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


# tiktoken


def reference(name: str, file: Path) -> Any:
    """tiktoken's own encoding, made from a local file."""
    import tiktoken as library
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext import openai_public

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_args, **_kwargs: load_tiktoken_bpe(str(file)))
        return library.Encoding(**getattr(openai_public, name)())


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
@WHOLE_OR_SLICE
def test_ids_equal_tiktoken_on_real_text(data, name, characters):
    """Oracle: tiktoken, exact, on every text of the data and on drawn strings; the pattern follows from the file."""
    file = data / "tokenizer" / f"{name}.tiktoken"
    ours, theirs = Tokenizer.load(file), reference(name, file)
    assert ours.special_tokens == theirs._special_tokens
    for title, text in corpus(data, characters):
        assert ours.encode(text) == theirs.encode(text, disallowed_special=()), title

    @settings(max_examples=50, deadline=None, database=None)
    @given(text=hard_text())
    def check(text: str) -> None:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text, allowed_special="all")
        assert ours.decode(ids) == theirs.decode(ids) == text

    check()


def test_rank_files_are_read_by_tiktoken_and_written_as_they_were(data, tmp_path):
    """Oracle: the original files line by line, blank ones apart."""
    for name in ("r50k_base", "cl100k_base"):
        file = data / "tokenizer" / f"{name}.tiktoken"
        tiktoken.write(Tokenizer.load(file), tmp_path / "again.tiktoken")
        assert (tmp_path / "again.tiktoken").read_bytes().split() == file.read_bytes().split()


def test_a_trained_vocabulary_goes_through_a_rank_file(tmp_path):
    """Oracles: the tokenizer itself, and tiktoken on the written file; exact."""
    import tiktoken as library
    from tiktoken.load import load_tiktoken_bpe

    original = Tokenizer.train([TEXT], 350, pattern="cl100k", special_tokens=[])
    file = tmp_path / "own.tiktoken"
    tiktoken.write(original, file)
    with pytest.raises(TokenizerError, match=r"350 tokens are no encoding that is known here.*give the pattern"):
        load(file)
    ours = load(file, pattern="cl100k")
    theirs = library.Encoding("own", pat_str=LLAMA3, mergeable_ranks=load_tiktoken_bpe(str(file)), special_tokens={})

    @settings(max_examples=50, deadline=None, database=None)
    @given(text=hard_text("tray", "landscape"))
    def check(text: str) -> None:
        assert ours.encode(text) == original.encode(text)
        assert ours.encode(text.strip()) == theirs.encode_ordinary(text.strip())

    check()


def test_llama3_calls_its_rank_file_a_model(tmp_path):
    """The content decides, not the name; 128,000 ranks are Llama 3's, with its 256 special tokens after them."""
    ranks = [bytes([byte]) for byte in BYTE_ORDER] + [b"%06d" % number for number in range(128_000 - 256)]
    model = BytePairModel(ranks, [], "gpt2")
    tiktoken.write(Tokenizer(model), tmp_path / "tokenizer.model")
    tokenizer = load(tmp_path)
    assert tokenizer.vocab_size == 128_256
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (128_000, 128_001, True)
    assert tokenizer.special_tokens["<|eot_id|>"] == 128_009
    assert tokenizer.special_tokens["<|reserved_special_token_250|>"] == 128_255
    assert tokenizer.model.pattern.name == "llama3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"IQ== 0\nI!== 1\n", "line 2: not a token in base 64"),
        (b"IQ== 0\nIg==\n", "line 2"),
        (b"IQ== 0\nIg== x\n", "line 2"),
        (b"IQ== 0\nIQ== 1\n", "line 2: the token b'!' comes twice"),
        (b"IQ== 0\nIg== 0\n", "line 2: the rank 0 comes twice"),
        (b"IQ== 0\nIg== 1048575\n", r"a\.tiktoken, line 2: .* a number from 0 to 1048574"),
        (b"", "holds no tokens"),
    ],
)
def test_a_damaged_rank_file_is_an_error_with_its_line(tmp_path, content, message):
    (tmp_path / "a.tiktoken").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load(tmp_path / "a.tiktoken", pattern="gpt2")


# GPT-2's pair, llama2.c


def test_the_pair_of_gpt2_is_read_and_written_as_it_was(data, tmp_path):
    """Oracles: tokenizers on GPT-2's tokenizer.json for the ids, the original pair for what is written."""
    folder = data / "tokenizer" / "gpt2"
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = load(folder / "encoder.json")
    assert ours.special_tokens == {"<|endoftext|>": 50256}
    for _, text in corpus(data, 500):
        assert ours.encode(text, allow_special=True) == theirs.encode(text).ids
    gpt2.write(ours, tmp_path)
    assert (tmp_path / "vocab.bpe").read_bytes() == (folder / "vocab.bpe").read_bytes()
    assert json.loads((tmp_path / "encoder.json").read_bytes()) == json.loads((folder / "encoder.json").read_bytes())


def test_a_folder_with_vocab_and_merges_is_completed_by_its_companions(tmp_path):
    """Hugging Face's older layout: further tokens in added_tokens.json, roles in special_tokens_map.json."""
    original = Tokenizer.train([TEXT], 300, pattern="gpt2", special_tokens=["<|endoftext|>"])
    gpt2.write(original, tmp_path)
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<think>": 300}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    ours = Tokenizer.load(tmp_path)
    assert ours.encode(TEXT) == original.encode(TEXT)
    assert ours.encode("a<think>b") == [*original.encode("a"), 300, *original.encode("b")]
    assert (ours.pad_id, ours.eos_id) == (299, 299)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": [{"content": "<a>"}]},
            "tokenizer_config.json: added_tokens_de",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"300": "<a>"}},
            "added_tokens_decoder is not an object that",
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": {"300": {"content": 3}}}, "{'content': 3} is not a token"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<a>"}}}, "id 'x', not a number"),
        ("added_tokens.json", {"<a>": 1_048_575}, "'<a>' has the id 1048575, not a number from 0 to 1048574"),
        ("added_tokens.json", {"<a>": "9" * 5000}, "not a number from 0 to 1048574"),
        (
            "vocab.json",
            {"a": 1_048_575},
            "vocab.json: the token 'a' has the id 1048575, not a number from 0 to 1048574",
        ),
    ],
)
def test_a_damaged_companion_is_an_error_that_names_it(tmp_path, name, content, message):
    gpt2.write(Tokenizer.train([TEXT], 300, pattern="gpt2", special_tokens=["<|endoftext|>"]), tmp_path)
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=re.escape(message)):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_json_has_no_larger_ids_either(tmp_path):
    Tokenizer.train([TEXT], 300).save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_bytes())
    document["added_tokens"][0]["id"] = 1_048_575
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: added_tokens: .* with the id 1048575 is not a token"):
        Tokenizer.load(tmp_path)


def test_llama2c_files_give_the_ids_of_the_sentencepiece_model(data):
    """Oracle: Google's library on the model that llama2.c's file was made from, exact."""
    import sentencepiece

    folder = data / "tokenizer" / "llama2"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ours = load(folder / "tokenizer.bin")
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (32_000, 1, 2)
    for title, text in corpus(data, 1_000):
        ids = ours.encode(text)
        assert ids == theirs.encode(text), title
        assert ours.decode(ids) == text, title


def test_the_vocabulary_of_stories260k_is_read(data):
    """The first ids are those that llama2.c prints for this prompt."""
    tokenizer = load(data / "weights" / "stories260K" / "tok512.bin")
    assert tokenizer.encode("Once upon a time") == [403, 407, 261, 378]
    assert tokenizer.decode([403, 407, 261, 378]) == "Once upon a time"


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 6226), byte=st.integers(0, 255), place=st.integers(0, 6226))
def test_a_damaged_llama2c_file_is_an_error_or_a_tokenizer_but_never_a_crash(data, tmp_path_factory, cut, byte, place):
    content = bytearray((data / "weights" / "stories260K" / "tok512.bin").read_bytes())
    content[place] = byte
    file = tmp_path_factory.getbasetemp() / "damaged.bin"
    file.write_bytes(content[:cut])
    try:
        assert load(file).vocab_size >= 259
    except TokenizerError:
        return


# what is no tokenizer


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.json", None, "there is no tokenizer at"),
        ("tokenizer.json", b"{", "line 1: not valid JSON"),
        ("tokenizer.json", b"\xff", "not UTF-8"),
        ("tokenizer.json", b"[]", "not a tokenizer.json"),
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("notes.txt", b"hello", "not a tokenizer file"),
        ("tokenizer.model", b"hello", "not a SentencePiece model"),
        ("tokenizer.model", b"\x0a\x03\x0a\x01a\x12\x03\x1a\x01x", "damaged: a setting of the wrong type"),
        ("tokenizer.bin", b"hello", "not a llama2.c tokenizer"),
        ("tokenizer.bin", b"", "not a llama2.c tokenizer"),
        ("vocab.bpe", b"a b", "there is no file"),
    ],
)
def test_what_is_no_tokenizer_is_an_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load(tmp_path / name)


def test_a_folder_without_a_tokenizer_says_what_was_looked_for(tmp_path):
    with pytest.raises(TokenizerError, match=r"holds no tokenizer; looked for tokenizer\.json"):
        Tokenizer.load(tmp_path)
