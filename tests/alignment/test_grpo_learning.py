"""What GRPO is for: a policy that is right now and then gets better by nothing but being told when it is.

Small, with all methods: letters, of which a tiny model has learned the next one and a wrong one alike. On the world: a
skill that instruction tuning left half learned, calling the calculator: the right numbers and sign, copied from the
question into the call, then the result into the answer. `half_tuned` says what it is made of; the test prints its
figures (`pytest -m slow -s`). Held-out questions have numbers, names and lengths that training never has.
"""

import copy
from functools import cache

import pytest
import torch

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.grpo import GroupBatch, methods
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rewards import Exact, Task
from penjing.alignment.rollout_loader import RolloutLoader, each
from penjing.alignment.rollouts import Rollouts
from penjing.stages.grpo import GRPOStage
from penjing.stages.settings import Training
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from tests.inference import tiny
from tests.inference.test_chat import TOKENIZER, user
from tests.stages.test_stages import workshop

LETTERS = "abcdefgh"
TASKS = [Task(tuple(user(letter)), answer) for letter, answer in zip(LETTERS, LETTERS[1:] + "i", strict=True)]
ROLLOUTS = Rollouts(n=8, max_new_tokens=4)


@cache
def half_right(seed):
    """A tiny model that says the next letter or the one after it, as often as not."""
    policy = tiny.model(TOKENIZER.vocab_size, context=40, seed=seed)
    answers = []
    for number, task in enumerate(TASKS):
        prompt = TOKENIZER.chat.render(task.prompt, add_generation_prompt=True).ids
        for said in ("bcdefghi"[number], "cdefghij"[number]):
            ids = [*prompt, *TOKENIZER.encode(said), TOKENIZER.end_of_turn_id]
            answers.append(ChatTokens(ids, [False] * len(prompt) + [True] * (len(ids) - len(prompt))))
    batch = pack(answers, AnswerBatch)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        (-answer_log_probs(policy, batch)[0].mean()).backward()
        optimizer.step()
    return policy


def share_right(policy):
    drawn = ROLLOUTS.draw(policy, TOKENIZER, [task.prompt for task in TASKS], list(range(8)))
    right = [Exact()(task, answer.text) for task, group in zip(TASKS, drawn, strict=True) for answer in group]
    return sum(right) / len(right)


@pytest.mark.parametrize(
    "name", [name if name == "grpo" else pytest.param(name, marks=pytest.mark.slow) for name in methods(4)]
)
def test_a_policy_that_is_half_right_becomes_right(name):
    """64 answers, drawn: 30 to 70 % are right before, over 80 % after 16 steps on rollouts of 64 answers each; the
    standard error of a half is 6 points."""
    seed = sorted(methods(4)).index(name) % 3  # each of three models is learned from by several methods
    policy, method = copy.deepcopy(half_right(seed)), methods(4)[name]
    before = share_right(policy)
    loader = RolloutLoader.Config(prompts=8, seed=seed).build(
        TASKS, policy, TOKENIZER, ROLLOUTS, each(Exact()), finish=method.advantages, kind=GroupBatch
    )
    engine = Engine(policy, method.objective, AdamW.Config(learning_rate=0.003, weight_decay=0.0))
    for _ in range(16):
        engine.step([next(loader)])
    after = share_right(policy)
    print(f"{name}: {before:.2f} {after:.2f}")
    assert 0.3 <= before <= 0.7
    assert after >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_half_learned_skill_gets_better_by_20_points(tmp_path, half_tuned, seed):
    """300 held-out questions, answered greedily; the standard error of a share of a half is 3 points."""
    training = Training(
        steps=200, optimizer="adamw", learning_rate=6e-4, schedule="constant", precision="fp32", validate_every=20
    )
    stage = GRPOStage(
        model=str(half_tuned), skills=("tools",), validation=300, prompts=32, answers=8, only_signal=True,
        training=training,
    )  # fmt: skip
    stage.check()
    place = workshop(tmp_path, {"grpo": stage}, "grpo")
    object.__setattr__(place.recipe, "seed", seed)
    result = stage.run(place)
    before, after = result["before"]["accuracy"], result["after"]["accuracy"]
    print(f"seed {seed}: {before:.1%} before, {after:.1%} after {result['steps']} steps")
    assert 0.3 <= before <= 0.6
    assert after >= before + 0.2
