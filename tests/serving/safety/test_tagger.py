"""The tagger: what is read of a text, how it is learned and measured, what it leaves to rules, and its folder."""

import json
import random

import pytest
import torch

from penjing.errors import CheckpointError, ConfigError, DataError
from penjing.serving.safety.findings import Finding
from penjing.serving.safety.personal import KINDS, TAGGED, find_personal
from penjing.serving.safety.pii_agreement import agreement, alike, folds, harmless, joined, template_of
from penjing.serving.safety.pii_measure import Marked, read_presidio
from penjing.serving.safety.policy import Policy
from penjing.serving.safety.tagger import LABELS, RECORD, WEIGHTS, Tagger, TaggerModel, labels_of, spans_of
from penjing.serving.safety.tagger_data import ordinary_sentences, swapped
from penjing.serving.safety.token_features import Lexicon, features_of, shape_of, tokens_of
from penjing.stages.personal import PersonalStage
from penjing.stages.settings import Training
from penjing.training.tensor_files import read_tensors, write_tensors
from tests.stages.test_stages import workshop

STEPS = Training(
    steps=100, batch=32, optimizer="adamw", learning_rate=0.1, betas=(0.9, 0.99), precision="fp32", clip=1000.0
)
TEMPLATES = (
    "the letter to {NAME} came late",
    "we saw {NAME} at the old station",
    "please ask {NAME} about the bill",
    "our train stops near {PLACE} every morning",
    "it rains in {PLACE} today",
    "nobody wants to leave {PLACE} now",
    "this is a plain sentence about bread",
    "there was nothing to see here",
)


def drawn_word(chance):
    return "".join(chance.choice("bdfgklmnprst") + chance.choice("aeiou") for _ in range(3)).capitalize()


def write_marked(path, copies=12):
    """Sentences of templates: names are two words, places are one that ends in -ville."""
    chance, rows = random.Random(0), []
    for number, template in enumerate(TEMPLATES):
        for _ in range(copies):
            kind = next((k for k in ("NAME", "PLACE") if k in template), "")
            name = f"{drawn_word(chance)} {drawn_word(chance)}" if kind == "NAME" else drawn_word(chance) + "ville"
            start = template.find("{")
            text = template.replace(f"{{{kind}}}", name) if kind else template
            theirs = {"NAME": "PERSON", "PLACE": "GPE"}.get(kind, "")
            span = {"entity_type": theirs, "start_position": start, "end_position": start + len(name)}
            rows.append({"full_text": text, "spans": [span] if kind else [], "template_id": number})
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A stage that was run on made-up texts: its folder, its result, its data."""
    place = tmp_path_factory.mktemp("personal")
    marked = write_marked(place / "marked.json")
    stage = PersonalStage(training=STEPS, data=str(marked), buckets=2**14, ordinary=100, folds=2, swapped=2)
    shop = workshop(place, {"personal": stage}, "personal")
    return shop.folder, stage.run(shop), marked


def words(text, sure=()):
    return [text[one.start : one.end] for one in tokens_of(text, sure)]


def test_tokens_are_words_numbers_signs_and_line_ends_and_what_is_sure_is_one():
    assert words("Dr. O'Neil-Ek, 12b\n  x") == ["Dr", ".", "O", "'", "Neil", "-", "Ek", ",", "12", "b", "\n  ", "x"]
    assert words("我叫Tom，好") == ["我叫", "Tom", "，好"]
    text = "to a@b.org now"
    assert words(text, [Finding("EMAIL", 3, 10)]) == ["to", "a@b.org", "now"]


def test_shapes():
    assert [shape_of(word) for word in ("lee", "Lee", "LEE", "McLee", "12", "-", "A")] == [
        *("x", "Xx", "X", "XxX", "d2", "-", "X1")
    ]


def test_a_lexicon_knows_what_is_written_small_and_what_never_is():
    lexicon = Lexicon.count(
        ["He saw bread. Bread is bread; we saw Leeds in Leeds.", "Miss Ek and Mr. Ek are here in Leeds"]
    )
    assert lexicon("bread")[1] == "l"  # its capital begins a sentence
    assert lexicon("ek")[1] == "P"
    assert lexicon("leeds")[1] == "L"
    assert lexicon("unheard") == ("?", "?")


def test_labels_and_spans_are_each_others_inverse():
    text = "Ann Lee met Bo Ek of Rome"
    spans = [Finding("NAME", 0, 7), Finding("NAME", 12, 17), Finding("PLACE", 21, 25)]
    tokens = tokens_of(text)
    labels = labels_of(tokens, spans)
    assert [LABELS[label] for label in labels][:4] == ["BNAME", "INAME", "O", "BNAME"]
    assert [(f.kind, f.start, f.end) for f in spans_of(tokens, labels)] == [(f.kind, f.start, f.end) for f in spans]


def test_pieces_of_an_address_are_learned_as_one():
    text = "12 Elm Street Flat 3"
    pieces = [Finding("ADDRESS", *place) for place in ((0, 2), (3, 13), (14, 20))]
    labels = labels_of(tokens_of(text), pieces)
    assert [LABELS[label] for label in labels] == ["BADDRESS"] + ["IADDRESS"] * 4


def test_copies_say_truly_where_their_values_are():
    texts = [
        Marked("Ann lives in Rome", (Finding("NAME", 0, 3), Finding("PLACE", 13, 17)), 0),
        Marked("To Bo Ek, Leeds", (Finding("PLACE", 10, 15), Finding("NAME", 3, 8)), 1),
    ]
    for copy in swapped(texts, 20, seed=0):
        values = {span.kind: copy.text[span.start : span.end].lower() for span in copy.spans}
        assert values["NAME"] in ("ann", "bo ek")
        assert values["PLACE"] in ("rome", "leeds")
    assert template_of(texts[1]) == "To <NAME>, <PLACE>"


def test_ordinary_sentences_have_no_name():
    """Numbers may be in them, but no year and no age."""
    texts = [
        "We went to the old market. Then Anna came with us to it. Leeds is a very old town.",
        "There are 12 of them here. There was a fire in 1950. There she was 30 years old.",
        "We eat then. we sleep. then there leeds; Leeds and Leeds, Leeds and Leeds. so there. We there too, we.",
    ]
    found = ordinary_sentences(texts, 10, Lexicon.count(texts))
    assert {"We went to the old market.", "There are 12 of them here."} <= set(found)
    assert not any(word in one for one in found for word in ("Anna", "Leeds", "1950", "30"))


def test_agreement_counts_as_the_sets_makers_do():
    """By hand: a title and a comma do not matter; two finds make up one mark; kinds matter only where they count."""
    text = "Mr. Ann Lee, 12 Elm Road Flat 3, Rome. Then Bo spoke"
    marks = (Finding("NAME", 0, 11), Finding("ADDRESS", 13, 31), Finding("PLACE", 33, 37))
    finds = [
        Finding("NAME", 4, 12),
        Finding("ADDRESS", 13, 24),
        Finding("ADDRESS", 25, 31),
        Finding("NAME", 33, 37),
        Finding("NAME", 44, 46),
    ]
    found = agreement([Marked(text, marks, 0)], lambda _: finds)
    assert (found.any_kind.right, found.any_kind.found, found.any_kind.marked) == (3, 4, 3)
    assert (found.typed.right, found.typed.found, found.typed.marked) == (2, 4, 3)
    assert found.by_kind["PLACE"].recall == 0
    assert joined(text, [Finding("NAME", 0, 3)]) == []


def test_nine_tenths_of_a_span_must_be_covered():
    text = "abcdefghij klmnopqrst"
    for end, right in ((10, 1), (9, 1), (8, 0)):
        found = agreement([Marked(text, (Finding("NAME", 0, 10),), 0)], lambda _, end=end: [Finding("NAME", 0, end)])
        assert found.any_kind.right == right


def test_folds_share_neither_templates_nor_names(tmp_path):
    texts = read_presidio(write_marked(tmp_path / "m.json", copies=3))
    texts.append(Marked(texts[0].text.replace("late", "home"), texts[0].spans, 100))
    group = alike(texts)
    assert group[100] == group[0]  # one word of seven is another
    measured = []
    for train, test in folds(texts, 3, seed=0):
        assert not {group[text.template] for text in train} & {group[text.template] for text in test}
        names = [{t.text[s.start : s.end] for t in part for s in t.spans} for part in (train, test)]
        assert not names[0] & names[1]
        measured += test
    assert len(measured) == len(texts)
    with pytest.raises(DataError, match="cannot be divided"):
        next(folds(texts, 50, seed=0))


def test_it_learns_what_templates_have_in_common(made):
    """Names of two capitals and places that end in -ville, in sentences of templates that it never saw: rules find none
    of them, and nine tenths are found exactly by a model that has learned anything at all."""
    _, result, _ = made
    assert result["by_finder"]["rules"]["any_kind"]["right"] == 0
    assert result["by_finder"]["tagger"]["typed"]["f1"] > 0.9
    assert result["by_finder"]["tagger"]["any_kind"]["marked"] == 72


def test_what_was_saved_finds_the_same(made, tmp_path):
    folder = made[0] / "model"
    tagger = Tagger.load(folder)
    text = "the letter to Bofina Tarelo came late, and it rains in Samoville today"
    found = find_personal(text, (*KINDS, *TAGGED), tagger=tagger)
    assert [(f.kind, text[f.start : f.end]) for f in found] == [("NAME", "Bofina Tarelo"), ("PLACE", "Samoville")]
    tagger.save(tmp_path / "copy")
    assert Tagger.load(tmp_path / "copy").find(text, []) == tagger.find(text, [])
    assert harmless(["there was nothing to see here"] * 3, tagger)["touched"] == 0


def test_what_the_rules_prove_stays_and_what_cannot_be_read_is_left_to_them(made):
    """Chinese text gets exactly what the rules find in it."""
    tagger = Tagger.load(made[0] / "model")
    kinds = (*KINDS, *TAGGED)
    text = "我叫王小明，今年，电话13812345678，住在北京市海淀区中关村大街27号。"
    assert find_personal(text, kinds, tagger=tagger) == find_personal(text, KINDS)
    text = "we saw ann@example.org at the old station"
    assert [f.kind for f in find_personal(text, kinds, tagger=tagger)] == ["EMAIL"]
    assert tagger.find("", []) == []


def test_more_caution_finds_less(made):
    tagger = Tagger.load(made[0] / "model")
    text = "we saw Bofina Tarelo at the old station"
    assert tagger.find(text, [])
    assert not Tagger(tagger.model, tagger.lexicon, caution=1000).find(text, [])


def test_a_policy_uses_it(made, tmp_path):
    (tmp_path / "p.toml").write_text(f'[personal]\nkinds = ["PLACE"]\ntagger = "{made[0] / "model"}"\n')
    assert (
        Policy.read(tmp_path / "p.toml").check("it rains in Samoville today", "output").text
        == "it rains in <PLACE> today"
    )
    (tmp_path / "q.toml").write_text('[personal]\nkinds = ["PLACE"]\n')
    with pytest.raises(ConfigError, match="found by a tagger only"):
        Policy.read(tmp_path / "q.toml")


@pytest.mark.parametrize(
    ("name", "value"), [("rows", torch.zeros(4, 4)), ("steps", torch.full((len(LABELS),) * 2, float("nan")))]
)
def test_damaged_weights_are_refused(made, tmp_path, name, value):
    Tagger.load(made[0] / "model").save(tmp_path / "t")
    write_tensors(tmp_path / "t" / WEIGHTS, {**read_tensors(tmp_path / "t" / WEIGHTS), name: value})
    with pytest.raises(CheckpointError, match=r"needed|no numbers"):
        Tagger.load(tmp_path / "t")


def test_another_folder_is_neither_read_nor_overwritten(tmp_path):
    (tmp_path / RECORD).write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="not a tagger of format"):
        Tagger.load(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds files but no tagger"):
        Tagger(TaggerModel.Config(16).build(), Lexicon()).save(tmp_path / "other")


def test_a_marked_file_without_names_is_refused(tmp_path):
    rows = [{"full_text": "a b", "spans": [], "template_id": 1}]
    (tmp_path / "m.json").write_text(json.dumps(rows))
    stage = PersonalStage(training=STEPS, data=str(tmp_path / "m.json"))
    with pytest.raises(DataError, match="nothing to learn"):
        stage.run(workshop(tmp_path, {"personal": stage}, "personal"))


def test_features_are_the_same_wherever_the_text_stands_among_others():
    """One token's features depend on two neighbours to each side only."""
    lexicon = Lexicon()
    texts = ("a b c Dee e f g", "z z a b c Dee e f g z z")
    rows = []
    for text in texts:
        tokens = tokens_of(text)
        ids, starts = features_of(text, tokens, [], lexicon, 2**16)
        place = next(t for t, one in enumerate(tokens) if text[one.start : one.end] == "Dee")
        rows.append(ids[starts[place] : starts[place + 1]].tolist())
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_it_finds_on_templates_never_seen_far_more_than_rules(data, tmp_path):
    """Presidio's synthetic set in three folds that share no templates and no names, as the set's makers count."""
    texts = tuple(str(data / "text" / name) for name in ("wiki_demo.txt", "c4_demo.jsonl"))
    training = STEPS.model_copy(update={"steps": 150, "batch": 32, "learning_rate": 0.03})
    marked = str(data / "safety" / "presidio_synth_dataset_v2.json")
    stage = PersonalStage(training=training, data=marked, texts=texts, ordinary=500, folds=3)
    found = stage.run(workshop(tmp_path, {"personal": stage}, "personal"))["by_finder"]
    assert found["tagger"]["any_kind"]["f1"] > 0.72
    assert found["rules"]["any_kind"]["f1"] < 0.4
