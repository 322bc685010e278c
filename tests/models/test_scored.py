"""Models that score texts: how they are made of language models, stored, and refused."""

import json
from dataclasses import replace

import pytest
import torch

from penjing.errors import CheckpointError
from penjing.models.folder import load_model, read_config, save
from penjing.models.scored import ScoredModel
from penjing.models.scored_folder import load_scored, save_scored
from penjing.nn.positions import LearnedPositions
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer
from tests.data.conftest import BYTES

TOKENIZER = Tokenizer.around(BYTES)


def language_model(**shape):
    settings = {"width": 16, "layers": 2, "heads": 2, "context": 32, **shape}
    model = Model(**settings).config(TOKENIZER.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(1))
    return model.eval()


def scored_model(**shape):
    model = ScoredModel.of(language_model(**shape))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
    return model


IDS = torch.arange(20).view(2, 10)


@pytest.mark.parametrize("tied", [False, True])
def test_a_score_is_the_row_times_the_hidden_vector_of_the_language_model(tied):
    """Oracle: the language model's own hidden vectors; exact, for it is the same computation."""
    base = language_model(tied=tied)
    model = ScoredModel.of(base)
    assert not model(IDS).any()  # every text begins with the score 0
    torch.nn.init.normal_(model.head.weight)
    hidden = base.hidden(IDS)
    expected = (hidden @ model.head.weight[0]).flatten()
    torch.testing.assert_close(model(IDS).flatten(), expected, rtol=0, atol=1e-6)
    places = torch.tensor([9, 13])
    torch.testing.assert_close(model.scores(IDS, places), expected[places], rtol=0, atol=1e-6)
    assert model.parameter_count() == base.parameter_count(embeddings=False) + base.embedding.weight.numel() + 16


def test_its_weights_are_copies():
    base = language_model()
    model = ScoredModel.of(base)
    before = base.embedding.weight.clone()
    with torch.no_grad():
        model.embedding.weight.add_(1)
    assert torch.equal(base.embedding.weight, before)


def test_a_folder_gives_back_the_same_scores_dtype_and_offset(tmp_path):
    model = scored_model().bfloat16()
    model.offset = 1.25
    save_scored(tmp_path / "scored", model, TOKENIZER)
    again = load_scored(tmp_path / "scored")
    assert again.offset == 1.25
    assert again.head.weight.dtype == torch.bfloat16
    assert torch.equal(again(IDS), model(IDS))
    values = json.loads((tmp_path / "scored" / "config.json").read_text())
    assert values["architectures"] == ["LlamaForSequenceClassification"]
    assert values["pad_token_id"] == TOKENIZER.pad_id
    assert Tokenizer.load(tmp_path / "scored").vocab_size == TOKENIZER.vocab_size


def test_a_composition_without_a_family_elsewhere_is_stored_too(tmp_path):
    """QK-norm under learned positions is nobody's; Penjing's own format has it."""
    config = replace(language_model(family="qwen3").config, positions=LearnedPositions.Config())
    model = ScoredModel(config)
    model.initialise(torch.Generator().manual_seed(1))
    assert not model.head.weight.any()
    torch.nn.init.normal_(model.head.weight)
    save_scored(tmp_path / "own", model)
    assert torch.equal(load_scored(tmp_path / "own")(IDS), model(IDS))


def test_models_that_write_and_models_that_score_are_not_taken_for_one_another(tmp_path):
    save(tmp_path / "writes", language_model(), TOKENIZER)
    save_scored(tmp_path / "scores", scored_model(), TOKENIZER)
    with pytest.raises(CheckpointError, match="gives no scores"):
        load_scored(tmp_path / "writes")
    with pytest.raises(CheckpointError, match="scores texts and writes none"):
        load_model(tmp_path / "scores")
    with pytest.raises(CheckpointError, match="scores texts and writes none"):
        read_config(tmp_path / "scores")


def test_refuses_other_numbers_of_labels_and_weights_that_are_missing(tmp_path):
    save_scored(tmp_path / "scored", scored_model())
    config = tmp_path / "scored" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "id2label": {"0": "bad", "1": "good"}}))
    with pytest.raises(CheckpointError, match="2 labels"):
        load_scored(tmp_path / "scored")
    config.write_text(json.dumps({**values, "num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match="unexpected: model"):
        load_scored(tmp_path / "scored")
    config.write_text(json.dumps({**values, "hidden_size": 12, "head_dim": 6}))
    with pytest.raises(CheckpointError, match="of another shape"):
        load_scored(tmp_path / "scored")
