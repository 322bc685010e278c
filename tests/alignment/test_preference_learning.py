"""What learning from preferences is for: real pairs are told apart, and the model's own right answers from wrong ones.

The tests on the generated world need a chat model that was trained on it: `PENJING_CHAT` names its folder, for instance
runs/tiny-chat/chat/model after `penjing run tiny-chat`. Each test prints its figures (`pytest -m slow -s`).
"""

import json
from pathlib import Path

import pytest
import torch

import penjing
from penjing.alignment import sampled
from penjing.alignment.kto import KTO
from penjing.alignment.preference import METHODS
from penjing.alignment.rollouts import Rollouts
from penjing.data import preferences
from penjing.stages.preference import Preference
from penjing.stages.settings import Model, Training
from penjing.stages.training import Instruct
from penjing.tokenizer import Tokenizer
from tests.stages.test_stages import workshop

pytestmark = pytest.mark.slow

REAL = {
    "English": ("rasbt_instruction_preference.json", 300, 60, 192),
    "Chinese": ("llamafactory_dpo_zh_demo.json", 300, 60, 640),
}
"""File, pairs of it, how many of these are kept for validation, tokens of a row: longer ones are left out."""


def steps(count, rate):
    return Training(
        steps=count, batch=8, optimizer="adamw", learning_rate=rate, precision="fp32", validate_every=1_000_000
    )


@pytest.fixture(scope="module", params=REAL)
def tuned(request, data, tmp_path_factory):
    """A language's preferences, and a model of 0.3 million weights that was instruction-tuned on the chosen answers."""
    name, count, held_out, row = REAL[request.param]
    place = tmp_path_factory.mktemp(request.param)
    pairs = list(preferences.comparisons(data / "preference" / name))[:count]
    source, talks = place / "pairs.jsonl", place / "talks.jsonl"
    preferences.write(source, pairs)
    learned = [[*one.prompt, *one.chosen] for one in pairs[:-held_out]]
    talks.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in learned))
    tokenizer = Tokenizer.train([message["content"] for messages in learned for message in messages], 1536)
    model = Model(width=96, layers=2, heads=4, context=640).config(tokenizer.vocab_size).build()
    model.initialise(torch.Generator().manual_seed(1))
    penjing.save(place / "base", model, tokenizer)
    stage = Instruct(training=steps(100, 3e-3), data=str(talks), model=str(place / "base"), row=row, validation=20)
    stage.run(workshop(place, {"chat": stage}, "chat"))
    return request.param, source, held_out, row, place / "chat" / "model"


@pytest.mark.parametrize("method", [*METHODS, "kto"])
def test_every_method_lowers_its_loss_on_real_pairs_that_it_has_not_seen(tmp_path, tuned, method):
    """40 steps of 8 pairs; before, the policy is the reference, so the loss starts at the method's initial value."""
    language, source, held_out, row, model = tuned
    stage = Preference(
        model=str(model), data=str(source), method=method, validation=held_out, row=row, training=steps(40, 3e-4)
    )
    stage.check()
    result = stage.run(workshop(tmp_path, {"learn": stage}, "learn"))
    before, after = result["validation_before"], result["validation"]
    print(language, method, f"loss {before['loss']:.4f} to {after['loss']:.4f}, accuracy {after['accuracy']:.1%}")
    assert after["loss"] < before["loss"]
    assert after["margin"] > before["margin"]
    assert isinstance(stage.objective(), KTO) == (method == "kto")
    assert (Path(tmp_path) / "learn" / "margin.png").is_file()


SKILL = "instructions"
"""Where the chat model has right and wrong answers to compare: a third of those drawn at temperature 1 are right."""


def right_answers(folder, temperature, prompts=60, answers=4):
    """The share of right answers to questions of the held-out split."""
    model, tokenizer = penjing.load(folder, dtype=torch.float32)
    items = sampled.world_items(prompts, split="heldout", skills=(SKILL,), notes=False)
    rollouts = Rollouts(n=answers, temperature=temperature, max_new_tokens=48)
    found = sampled.sample(
        model, tokenizer, sampled.prompts_of(items), sampled.checked(items), rollouts=rollouts, seed=5
    )
    return sum(one.mean for one in found) / prompts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dpo_tells_its_own_right_answers_from_its_wrong_ones(tmp_path, chat, seed):
    """Pairs that were kept for validation: their margin rises from 0, and most chosen answers have the higher reward.
    How many of the answers to held-out questions are right before and after is printed, not asserted: measured with
    one seed it does not change (35 % and 34 % at temperature 1, 47 % and 47 % greedily).
    """
    training = Training(
        steps=36, batch=24, optimizer="adamw", learning_rate=3e-4, precision="fp32", validate_every=1_000_000
    )
    stage = Preference(
        model=str(chat),
        skills=(SKILL,),
        questions=900,
        validation=60,
        settings={"beta": 0.1, "sft": 1.0},
        training=training,
    )
    place = workshop(tmp_path, {"dpo": stage}, "dpo")
    object.__setattr__(place.recipe, "seed", seed)
    result = stage.run(place)
    shares = {
        temperature: [right_answers(folder, temperature) for folder in (chat, place.folder / "model")]
        for temperature in (1.0, 0.01)
    }
    print(seed, result["validation_before"], result["validation"], "right answers before and after", shares)
    assert result["validation_before"]["margin"] == pytest.approx(0, abs=1e-4)
    assert result["validation"]["margin"] > 0.1
    assert result["validation"]["accuracy"] > 0.65
