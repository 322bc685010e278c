"""The kinds of stages that recipes are made of, from raw text to a model that has been measured.

    world       writes the generated corpus: text, validation text, dialogues
    tokenizer   trains a byte-level BPE on the text, or takes one that exists
    shards      turns the text into token ids, for training and for validation
    pretrain    trains a language model from nothing on the shards
    instruct    goes on with it on conversations
    preference  goes on with it on preferences: DPO and its kin, KTO
    reward      makes a reward model of it, which scores answers as they were preferred
    ppo         goes on with it by the reward model's word
    grpo        goes on with it by rewards that a program verifies: GRPO and its kin
    evaluate    measures it: bits per byte, counting baselines, skills
    moderation  trains a classifier of harmful texts on judged ones
    personal    trains a tagger of names, addresses and places on marked texts
    compare     asks several assistants the same questions: accuracy, win rates, divergence, answers side by side
    ladder      trains many small models, fits a scaling law, and tests what it predicts

Where a stage needs text, it takes what `--data` names, else what the world stage wrote.
"""

from penjing.recipe import Stage
from penjing.stages.compare import Compare
from penjing.stages.data import Shards, TokenizerStage, World
from penjing.stages.evaluation import Evaluate
from penjing.stages.grpo import GRPOStage
from penjing.stages.ladder import Ladder
from penjing.stages.moderation import ModerationStage
from penjing.stages.personal import PersonalStage
from penjing.stages.ppo import PPOStage
from penjing.stages.preference import Preference
from penjing.stages.reward import Reward
from penjing.stages.training import Instruct, Pretrain

KINDS: dict[str, type[Stage]] = {
    "world": World,
    "tokenizer": TokenizerStage,
    "shards": Shards,
    "pretrain": Pretrain,
    "instruct": Instruct,
    "preference": Preference,
    "reward": Reward,
    "ppo": PPOStage,
    "grpo": GRPOStage,
    "evaluate": Evaluate,
    "moderation": ModerationStage,
    "personal": PersonalStage,
    "compare": Compare,
    "ladder": Ladder,
}
"""The kinds of stages by the names that recipes use."""
