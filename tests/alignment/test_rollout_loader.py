"""Rollouts as batches: what they hold, that the first ratio is 1, groups without signal, resuming bit for bit."""

import copy
import json
from dataclasses import dataclass, replace

import pytest
import torch

from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollout_loader import RolloutBatch, RolloutLoader, each, frozen_log_probs
from penjing.alignment.rollouts import Rollouts
from penjing.errors import ConfigError, DataError
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.objectives import Loss
from penjing.training.trainer import Trainer
from tests.inference import tiny
from tests.inference.test_chat import TOKENIZER, user
from tests.training.test_resume import _same

ITEMS = [user(text) for text in ("the", "in an the", "盆景", " a", "User", "he he", "an")]


def make_model(seed=0, dropout=0.0):
    return tiny.model(TOKENIZER.vocab_size, context=80, seed=seed, dropout=dropout)


def make_loader(policy=None, rollouts=None, judge=None, items=ITEMS, **options):
    names = RolloutLoader.Config.__dataclass_fields__
    config = RolloutLoader.Config(**{"prompts": 3, **{k: options.pop(k) for k in list(options) if k in names}})
    return config.build(
        items,
        policy or make_model(),
        TOKENIZER,
        rollouts or Rollouts(n=4, max_new_tokens=6),
        judge or each(lambda item, text: text.count("e") + 0.5 * len(text)),
        prompt=lambda item: item,
        **options,
    )


def assert_equal(one, other):
    assert len(one) == len(other)
    for mine, its in zip(one, other, strict=True):
        for name in mine.__dataclass_fields__:
            a, b = getattr(mine, name), getattr(its, name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def drawn(loader, count):
    return [next(loader) for _ in range(count)]


def test_a_rollout_s_parts_hold_all_its_answers_with_their_rewards():
    loader = make_loader(parts=2)
    batches = drawn(loader, 2)
    answers = [answer for _, group in loader.last for answer in group]
    assert [batch.answers for batch in batches] == [6, 6]
    assert torch.cat([batch.groups for batch in batches]).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.cat([batch.rewards for batch in batches]).tolist() == [
        answer.text.count("e") + 0.5 * len(answer.text) for answer in answers
    ]
    assert torch.cat([batch.truncated for batch in batches]).tolist() == [answer.truncated for answer in answers]
    assert torch.cat([batch.lengths for batch in batches]).tolist() == [answer.length for answer in answers]
    owners = torch.cat([batches[0].owner, batches[1].owner + 6])
    log_probs = torch.cat([batch.sampled_log_probs for batch in batches])
    for number, answer in enumerate(answers):
        assert torch.equal(log_probs[owners == number], torch.tensor(answer.log_probs))


def test_facts_are_of_the_whole_rollout():
    rewards = iter([1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0])
    loader = make_loader(
        judge=lambda items, answers: [next(rewards) for _ in answers],
        watch={"checked": lambda items, answers: [2.0] * len(answers)},
        parts=2,
    )
    one, other = drawn(loader, 2)
    answers = [answer for _, group in loader.last for answer in group]
    assert one.facts == other.facts
    assert one.facts == {
        "reward": 0.5,
        "reward_spread": 0.5,
        "without_signal": pytest.approx(2 / 3),
        "asked_again": 0.0,
        "answer_length": sum(answer.length for answer in answers) / 12,
        "truncated": sum(answer.truncated for answer in answers) / 12,
        "checked": 2.0,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_first_ratio_is_exactly_1(dtype, dropout):
    """Equal bits to the pass that training takes (the model in evaluation mode, with gradients), not nearly equal."""
    policy = make_model(dropout=dropout).to(dtype).train()
    for batch in drawn(make_loader(policy, parts=2), 2):
        policy.eval()
        found, _ = answer_log_probs(policy, batch, 1.0)
        policy.train()
        assert found.requires_grad
        assert torch.equal(found.detach(), batch.old_log_probs)
        error = (batch.old_log_probs - batch.sampled_log_probs).abs().max()
        assert 0 < error < (1e-3 if dtype == torch.float32 else 0.5)  # rounding alone is between the two


def test_the_reference_is_frozen_and_computes_as_the_policy_does():
    policy = make_model()
    reference = copy.deepcopy(policy).double()
    loader = make_loader(policy, reference=reference)
    (batch,) = drawn(loader, 1)
    assert torch.equal(batch.reference_log_probs, batch.old_log_probs)
    with torch.no_grad():
        policy.head.weight.mul_(1.5)
    (batch,) = drawn(loader, 1)
    assert not torch.allclose(batch.reference_log_probs, batch.old_log_probs)
    assert torch.equal(batch.reference_log_probs, frozen_log_probs(make_model(), batch, 1.0))


def test_weights_may_be_trained_again_after_a_rollout():
    policy = make_model()
    policy.embedding.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in policy.parameters()]
    drawn(make_loader(policy), 1)
    assert [parameter.requires_grad for parameter in policy.parameters()] == before


def test_epochs_give_the_same_batches_in_other_orders_before_the_next_rollout():
    loader = make_loader(parts=5, epochs=3)
    batches = drawn(loader, 15)
    first = [batch.origin for batch in batches[:5]]
    orders = [[batch.origin for batch in batches[start : start + 5]] for start in (0, 5, 10)]
    assert all(sorted(order) == sorted(first) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert loader.epoch == 3 / 7
    assert next(loader).origin not in first


def test_prompts_come_in_the_order_of_the_seed_each_once_in_an_epoch():
    loader = make_loader(prompts=1)
    asked = []
    for _ in range(14):
        next(loader)
        asked.append(loader.last[0][0])
    assert sorted(map(str, asked[:7])) == sorted(map(str, ITEMS)) == sorted(map(str, asked[7:]))
    assert asked[:7] != asked[7:]


def test_groups_without_signal_are_replaced_by_others_and_counted():
    """Items whose text has an "n" get equal rewards; with three tries there are three others in each rollout."""

    def judge(items, answers):
        return [0.0 if "n" in item[0]["content"] else float(number) for number, item in enumerate(items)]

    loader = make_loader(judge=judge, tries=3, seed=2)
    batch = next(loader)
    assert len(loader.last) == 3
    assert all("n" not in item[0]["content"] for item, _ in loader.last)
    asked = round(3 + batch.facts["asked_again"])
    assert asked > 3
    assert batch.facts["without_signal"] == pytest.approx((asked - 3) / asked)
    assert loader.epoch == asked / 7


def test_where_no_group_has_a_signal_the_rollout_is_as_large_all_the_same():
    loader = make_loader(judge=lambda items, answers: [1.0] * len(answers), tries=2)
    batch = next(loader)
    assert batch.answers == 12
    assert batch.facts["without_signal"] == 1
    assert batch.facts["asked_again"] == 3


def test_groups_without_signal_may_be_left_out():
    """Their gradient would be 0; facts are of all that was drawn. Where there is no other group, they stay."""

    def judge(items, answers):
        return [0.0 if "n" in item[0]["content"] else float(number) for number, item in enumerate(items)]

    batch = next(make_loader(judge=judge, prompts=7, only_signal=True))
    assert batch.answers == 20
    assert batch.groups.unique().tolist() == [0, 1, 2, 3, 4]
    assert batch.facts["without_signal"] == pytest.approx(2 / 7)
    assert next(make_loader(judge=lambda items, answers: [1.0] * len(answers), only_signal=True)).answers == 12


def test_rollouts_that_run_ahead_are_drawn_by_the_policy_of_then():
    """With a lag of 2 the third rollout is the one that the first policy draws; old log-probs are the newest's."""
    policy, ahead = make_model(), make_loader(lag=2)
    straight = drawn(make_loader(), 3)
    loader = make_loader(policy, lag=2)
    drawn(loader, 1)
    with torch.no_grad():
        policy.head.weight.mul_(1.1)
    late = drawn(loader, 2)
    assert torch.equal(late[1].tokens, straight[2].tokens)
    assert torch.equal(late[1].sampled_log_probs, straight[2].sampled_log_probs)
    assert torch.equal(late[1].old_log_probs, frozen_log_probs(policy, straight[2], 1.0))
    assert not torch.equal(drawn(loader, 1)[0].tokens, drawn(ahead, 4)[3].tokens)


@dataclass(frozen=True)
class Weighed(RolloutBatch):
    """What a method makes of a batch."""

    advantages: torch.Tensor | None = None


def weigh(batches):
    mean = torch.cat([batch.rewards for batch in batches]).mean()
    return [
        Weighed(**{name: getattr(batch, name) for name in batch.__dataclass_fields__}, advantages=batch.rewards - mean)
        for batch in batches
    ]


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6])
def test_goes_on_from_a_saved_position_with_the_very_next_batch(taken):
    """Between rollouts and amid one, with epochs, batches of a method's own, and rollouts drawn ahead; the state goes
    through JSON. The policy changes after each batch; both loaders see it change alike."""

    def make(policy):
        return make_loader(policy, parts=2, epochs=2, lag=1, finish=weigh, kind=Weighed, reference=make_model(seed=1))

    policy = make_model()
    loader = make(policy)
    for _ in range(taken):
        next(loader)
        policy.head.weight.data.mul_(1.01)
    saved = json.loads(json.dumps(loader.state_dict()))
    other = make(twin := copy.deepcopy(policy))
    other.load_state_dict(saved)
    for _ in range(4):
        assert_equal([next(loader)], [next(other)])
        policy.head.weight.data.mul_(1.01)
        twin.head.weight.data.mul_(1.01)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"items": ITEMS[:5]}, "data has changed"),
        ({"seed": 2}, "seed was 0, now it is 2"),
        ({"parts": 3}, "parts was 1, now it is 3"),
        ({"rollouts": Rollouts(n=4, max_new_tokens=7)}, "max_new_tokens was 6, now it is 7"),
    ],
)
def test_refuses_a_position_of_other_rollouts(other, what):
    with pytest.raises(DataError, match=what):
        make_loader(**other).load_state_dict(make_loader().state_dict())


def test_refuses_a_damaged_position():
    loader = make_loader(parts=2)
    next(loader)
    state = loader.state_dict()
    state["batches"][0]["rewards"]["bytes"] = "AAAA"
    with pytest.raises(DataError, match="damaged"):
        make_loader(parts=2).load_state_dict(state)
    del state["batches"][0]["rewards"]
    with pytest.raises(DataError, match="no saved RolloutBatch"):
        make_loader(parts=2).load_state_dict(state)


def test_refuses_what_cannot_be_drawn():
    with pytest.raises(DataError, match="nothing to ask"):
        make_loader(items=[])
    with pytest.raises(ConfigError, match="12 answers of a rollout do not make 13 parts"):
        make_loader(parts=13)
    with pytest.raises(ConfigError, match="several epochs"):
        make_loader(epochs=2, old_log_probs=False)
    with pytest.raises(ConfigError, match="lag is -1"):
        make_loader(lag=-1)


def reinforce(model, batch):
    """Advantage times log-probability."""
    log_probs, _ = answer_log_probs(model, batch)
    rewards = batch.rewards - batch.rewards.mean()
    return Loss(-(rewards * batch.per_answer(log_probs)).sum(), batch.answers, dict(batch.facts))


def train(out, policy, steps, precision):
    return (
        Trainer.Config(
            Budget(steps=steps), AdamW.Config(learning_rate=0.01), precision=precision, accumulate=2, display="quiet"
        )
        .build(policy, reinforce, make_loader(policy, parts=4, epochs=2, lag=1), out)
        .run()
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path, precision, monkeypatch):
    """With the Trainer, one thread. A rollout of four parts gone through twice is four steps of two batches, so a stop
    after 3 of 6 steps is amid one. The model that goes on is another object whose weights are noise. Schedules look at
    the whole budget, so the first run is stopped, not shortened."""
    monkeypatch.setattr("penjing.training.trainer.plot_run", lambda folder: [])
    straight = train(tmp_path / "straight", make_model(), 6, precision)
    policy = make_model()
    stopping = _Stopping(make_loader(policy, parts=4, epochs=2, lag=1), 3 * 2)
    config = Trainer.Config(
        Budget(steps=6), AdamW.Config(learning_rate=0.01), precision=precision, accumulate=2, display="quiet"
    )
    assert config.build(policy, reinforce, stopping, tmp_path / "parts").run().step == 3
    resumed = train(tmp_path / "parts", make_model(seed=9), 6, precision)
    assert resumed.step == 6
    _same(straight.checkpoint, resumed.checkpoint)


class _Stopping:
    """Sends the process SIGINT, as Ctrl-C does, with the given batch."""

    def __init__(self, loader, batch):
        self.loader, self.left = loader, batch
        self.rows = loader.rows

    def __next__(self):
        import signal

        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return next(self.loader)

    def state_dict(self):
        return self.loader.state_dict()

    def load_state_dict(self, state):
        self.loader.load_state_dict(state)


def test_answers_of_items_of_any_kind_are_judged_with_their_item():
    seen = []

    def judge(items, answers):
        seen.extend((item[0]["content"], answer.tokens.ids) for item, answer in zip(items, answers, strict=True))
        return [0.0] * len(items)

    next(make_loader(judge=judge))
    for text, ids in seen:
        prompt = TOKENIZER.chat.render(user(text), add_generation_prompt=True).ids
        assert ids[: len(prompt)] == prompt
    assert len(seen) == 12


def test_a_batch_moves_and_changes_with_what_it_holds():
    batch = next(make_loader())
    moved = replace(batch.to("meta"), origin="elsewhere")
    assert moved.rewards.device.type == moved.sampled_log_probs.device.type == "meta"
    assert moved.facts == batch.facts
