"""Instruction tuning: masks as written by hand, training's text as serving's, NEFTune as in its equation."""

import copy
import json
from itertools import islice

import pytest
import torch

import penjing
from penjing.alignment.sft import DROPPING, InstructionTuning, for_thinking, keeps_thoughts, noise_scale, thinks
from penjing.data.batch import TokenBatch
from penjing.data.conversations import Conversation, read
from penjing.data.instructions import InstructionLoader, RenderedConversations
from penjing.data.loader import validation_batches
from penjing.errors import ConfigError
from penjing.evaluation.loss import mean_loss
from penjing.inference.local import LocalChatModel
from penjing.inference.sampling import Sampling
from penjing.inference.tools import Tool
from penjing.stages.settings import Model
from penjing.tokenizer import Tokenizer
from penjing.tokenizer.bpe import BytePairModel
from penjing.tokenizer.chat import CHATML
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from penjing.training.objectives import next_token
from tests.tokenizer.test_chat import GENERATION, LLAMA2, LLAMA3, MACROS, NO_END, THINKING, byte_level

BYTES = Tokenizer.around(BytePairModel([bytes([byte]) for byte in range(256)], [], "penjing"))
TEXT_END, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def spelled(*parts: tuple[str, bool]) -> tuple[list[int], list[bool]]:
    """Ids and mask, a special token or a text at a time."""
    ids: list[int] = []
    mask: list[bool] = []
    for text, learned in parts:
        numbers = [BYTES.special_tokens[text]] if text in BYTES.special_tokens else list(text.encode())
        ids += numbers
        mask += [learned] * len(numbers)
    return ids, mask


def tool_dialogue(words: dict[str, str]) -> dict:
    """Two turns; in the first, thoughts, two calls at once, and their results; OpenAI's layout."""

    def call(place: str, number: int) -> dict:
        function = {"name": "weather", "arguments": json.dumps({"city": place}, ensure_ascii=False)}
        return {"id": f"call-{number}", "type": "function", "function": function}

    return {
        "messages": [
            {"role": "system", "content": words["system"]},
            {"role": "user", "content": words["ask"]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call(words["one"], 1), call(words["two"], 2)],
                "reasoning_content": words["thought"],
            },
            {"role": "tool", "content": "4", "tool_call_id": "call-1"},
            {"role": "tool", "content": "7", "tool_call_id": "call-2"},
            {"role": "assistant", "content": words["answer"]},
            {"role": "user", "content": words["thanks"]},
            {"role": "assistant", "content": f"<think>\n{words['second']}\n</think>\n\n{words['welcome']}"},
        ],
        "tools": [{"name": "weather"}],
    }


ENGLISH = {
    "system": "Be brief.",
    "ask": "Warmer in Oslo or Bergen?",
    "one": "Oslo",
    "two": "Bergen",
    "thought": "I must look.",
    "answer": "In Bergen.",
    "thanks": "Thanks, <|im_end|>",
    "second": "Polite.",
    "welcome": "Any time!",
}
CHINESE = {
    "system": "说得短些。",
    "ask": "北京和上海哪里更暖和？",
    "one": "北京",
    "two": "上海",
    "thought": "要查一查。",
    "answer": "上海。",
    "thanks": "谢谢<|im_end|>",
    "second": "客气。",
    "welcome": "不客气！",
}


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("turns", ["all", "last"])
def test_the_mask_of_a_tool_dialogue_is_the_one_written_by_hand(tmp_path, words, turns):
    """Every token, bytes being the tokens: thoughts of the first turn are gone, those of the last are learned."""
    (tmp_path / "talk.jsonl").write_text(json.dumps(tool_dialogue(words), ensure_ascii=False))
    conversations = list(read(tmp_path / "talk.jsonl"))
    tokenizer = for_thinking(BYTES, conversations, "last")
    first = turns == "all"
    calls = (
        f'<tool_call>{{"name": "weather", "arguments": {{"city": "{words["one"]}"}}}}</tool_call>'
        f'<tool_call>{{"name": "weather", "arguments": {{"city": "{words["two"]}"}}}}</tool_call>'
    )
    system = (
        f"system\n{words['system']}\n\nYou can call these tools:\n<tools>\n"
        '{"name": "weather"}\n</tools>\nCall one by writing '
        '<tool_call>{"name": ..., "arguments": {...}}</tool_call>.'
    )
    ids, mask = spelled(
        *[(START, False), (system, False), (END, False), ("\n", False)],
        *[(START, False), (f"user\n{words['ask']}", False), (END, False), ("\n", False)],
        *[(START, False), ("assistant\n", False), (calls, first), (END, first), ("\n", False)],
        *[(START, False), ("tool\n4", False), (END, False), ("\n", False)],
        *[(START, False), ("tool\n7", False), (END, False), ("\n", False)],
        *[(START, False), ("assistant\n", False), (words["answer"], first), (END, first), ("\n", False)],
        *[(START, False), (f"user\n{words['thanks']}", False), (END, False), ("\n", False)],
        *[(START, False), ("assistant\n", False)],
        *[(f"<think>\n{words['second']}\n</think>\n\n{words['welcome']}", True), (END, True), ("\n", False)],
    )
    rendered = RenderedConversations(conversations, tokenizer, 4000, turns=turns)
    assert rendered.read(0, rendered.tokens).tolist() == ids
    assert rendered.counts.tolist() == mask


# training and serving


SERVED = {
    "chatml": CHATML,
    "chatml that drops thoughts": DROPPING + CHATML,
    "qwen3's manner": THINKING,
    "llama3": LLAMA3,
    "llama3 that drops thoughts": DROPPING + LLAMA3,
    "macros": MACROS,
    "generation": GENERATION,
    "no end": NO_END,
}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4."},
    {"role": "user", "content": "盆景?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA tray."},
]
USED = [
    {"role": "user", "content": "2+2 and 3+3?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}},
            {"type": "function", "function": {"name": "add", "arguments": {"a": 3}}},
        ],
    },
    {"role": "tool", "content": "4"},
    {"role": "tool", "content": "6"},
    {"role": "assistant", "content": "4 and 6."},
]


class Asked(Exception):
    """What a model was given to go on from."""


class Recorder:
    """An engine that only says what it was asked."""

    def add(self, prompt, *_, **__):
        raise Asked(prompt)


def prompt_in_serving(tokenizer, messages, tools=None):
    """The ids from which a chat model answers."""
    model = Model(width=8, layers=1, heads=1, context=4096).config(tokenizer.vocab_size).build()
    with pytest.raises(Asked) as asked:
        list(LocalChatModel(model, tokenizer, engine=Recorder()).stream(messages, Sampling(max_new_tokens=1), tools))
    return asked.value.args[0]


def check_training_equals_serving(tokenizer, messages, tools=None):
    """Training's ids are the prompt's, then the answer's and the end of the turn's, and these alone are learned."""
    described = [tool.to_dict() for tool in tools] if tools else None
    prompt = prompt_in_serving(tokenizer, messages[:-1], tools)
    trained = tokenizer.chat.render(messages, tools=described, learned=[len(messages) - 1])
    assert trained.ids[: len(prompt)] == prompt
    assert not any(trained.mask[: len(prompt)])
    learned = [number for number, mark in zip(trained.ids, trained.mask, strict=True) if mark]
    assert trained.ids[len(prompt) : len(prompt) + len(learned)] == learned
    return tokenizer.decode(learned, at_start=False)


@pytest.mark.parametrize("name", SERVED)
def test_training_reads_what_serving_reads_and_then_the_answer(name):
    """Ids, for an answer after thoughts of an earlier turn; what is learned ends with the template's end of turn."""
    tokenizer = byte_level(SERVED[name])
    answer = check_training_equals_serving(tokenizer, TALK)
    end = tokenizer.end_of_turn_id
    ends = "" if end is None else tokenizer.decode([end])
    assert answer == ("<|assistant|>\n" if name == "no end" else "") + TALK[-1]["content"] + ends


def test_training_reads_what_serving_reads_in_llama2():
    """Its template adds white space and takes no thoughts out; the system message is in the user's turn."""
    assert check_training_equals_serving(byte_level(LLAMA2), TALK) == " <think>\nhm\n</think>\n\nA tray. </s>"


@pytest.mark.parametrize("name", ["chatml", "chatml that drops thoughts", "llama3"])
def test_calls_of_tools_are_alike_in_training_and_serving(name):
    """At the call, after its results, and when the calls come back as the text that the model wrote."""
    tokenizer = byte_level(SERVED[name])
    tools = [Tool("add", "adds", {"type": "object"})]
    said = check_training_equals_serving(tokenizer, USED[:2], tools)
    assert said.startswith('<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>')
    assert check_training_equals_serving(tokenizer, USED, tools).startswith("4 and 6.")
    text = said.removesuffix(tokenizer.decode([tokenizer.end_of_turn_id]))
    written = [USED[0], {"role": "assistant", "content": text}, *USED[2:4]]
    assert prompt_in_serving(tokenizer, written, tools) == prompt_in_serving(tokenizer, USED[:4], tools)


def test_training_reads_what_serving_reads_with_a_real_models_template(data):
    """MiniMind's, in the manner of Qwen3, with calls in its own layout. Its prompt has no room for thoughts."""
    tokenizer = Tokenizer.load(data / "tokenizer" / "minimind")
    said = [*TALK[:-1], {"role": "assistant", "content": "A tray."}]
    assert check_training_equals_serving(tokenizer, said) == "A tray.<|im_end|>"
    with pytest.raises(ConfigError, match="prompts of the chat template leave no room for thoughts"):
        for_thinking(tokenizer, [Conversation(tuple(TALK))], "last")
    tools = [Tool("add", "adds", {"type": "object"})]
    assert check_training_equals_serving(tokenizer, USED[:2], tools).count("<tool_call>\n") == 2
    assert check_training_equals_serving(tokenizer, USED, tools).endswith("4 and 6.<|im_end|>")


# thoughts


def test_thoughts_of_earlier_turns_are_dropped_by_the_template_that_is_saved(tmp_path):
    """Oracle: transformers on the saved tokenizer, exact, and the text by hand."""
    import transformers

    tokenizer = for_thinking(byte_level(CHATML), [Conversation(tuple(TALK))], "last")
    text = tokenizer.chat.text(TALK)
    assert "add" not in text
    assert "4.<|im_end|>" in text
    assert "<think>\nhm\n</think>\n\nA tray.<|im_end|>" in text
    assert not keeps_thoughts(tokenizer.chat)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.apply_chat_template(TALK, tokenize=False) == text
    assert theirs.apply_chat_template(USED, tokenize=False) == tokenizer.chat.text(USED)
    assert Tokenizer.load(tmp_path).chat.text(TALK) == text


def test_thoughts_are_left_to_a_template_that_knows_of_them_or_to_whoever_asks():
    thoughtful, plain = [Conversation(tuple(TALK))], [Conversation(tuple(USED))]
    chatml, qwen = byte_level(CHATML), byte_level(THINKING)
    assert for_thinking(chatml, plain, "last") is chatml  # nobody thinks
    assert for_thinking(chatml, thoughtful, "all") is chatml
    assert "add" in chatml.chat.text(TALK)
    assert for_thinking(qwen, thoughtful, "last") is qwen
    with pytest.raises(ConfigError, match="drops what the assistant thought in earlier turns"):
        for_thinking(qwen, thoughtful, "all")
    assert not thinks({"role": "assistant", "content": "<think> without an end"})
    assert not thinks({"role": "user", "content": "<think></think>"})


# noise


def make_model(vocab=BYTES.vocab_size, **shape):
    model = (
        Model(**{"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "context": 256, **shape}).config(vocab).build()
    )
    model.initialise(torch.Generator().manual_seed(0))
    return model


def talks(count):
    return [
        Conversation(
            (
                {"role": "user", "content": "question " * (1 + number % 3)},
                {"role": "assistant", "content": "answer"[: 1 + number % 6]},
                {"role": "user", "content": "more?"},
                {"role": "assistant", "content": f"{number}"},
            )
        )
        for number in range(count)
    ]


def test_noise_is_as_large_as_a_conversations_own_length_says():
    """alpha 6, width 4, conversations of 3 and 1 tokens and padding; alpha / sqrt(L d) by hand: sqrt(3), 3, 0."""
    documents = torch.tensor([[0, 0, 0, 1, -1], [0, 0, 0, 0, 0]])
    batch = TokenBatch(documents, documents, documents > 0, documents=documents)
    scale = noise_scale(batch, 4, 6.0)
    wanted = torch.tensor([[3**0.5] * 3 + [3.0, 0.0], [3 / 5**0.5] * 5])
    torch.testing.assert_close(scale, wanted, rtol=1e-6, atol=0)
    whole = TokenBatch(documents[1:], documents[1:], documents[1:] >= 0)
    torch.testing.assert_close(noise_scale(whole, 4, 6.0), wanted[1:], rtol=1e-6, atol=0)


def test_training_reads_embeddings_with_the_noise_of_the_equation(monkeypatch):
    """Oracle: embedding + scale * u with the same draw; in evaluation, and with noise 0, exactly none."""
    model = make_model()
    batch = next(InstructionLoader.Config(batch=2, context=96).build(talks(6), BYTES))
    read = []
    monkeypatch.setattr(model.blocks[0], "forward", watch(model.blocks[0].forward, read))
    objective = InstructionTuning(noise=5.0)
    torch.manual_seed(3)
    objective(model.train(), batch)
    plain = model.embedding(batch.tokens)
    torch.manual_seed(3)
    draw = torch.empty_like(plain).uniform_(-1, 1)
    torch.testing.assert_close(read[0], plain + draw * noise_scale(batch, 32, 5.0)[..., None], rtol=0, atol=0)
    first = batch.documents[0] == 0
    length = (read[0] - plain)[0][first].square().sum()
    assert 0.8 < length / (25 / 3) < 1.2  # hundreds of uniform numbers: a whole conversation's noise is alpha/sqrt(3)
    assert torch.equal(objective(model.eval(), batch).total, next_token(model, batch).total)
    assert torch.equal(InstructionTuning()(model.train(), batch).total, next_token(model, batch).total)
    assert not model.embedding._forward_hooks


def test_the_noise_of_one_document_equals_transformers(monkeypatch):
    """Its hook after an embedding, with the same draw, on rows of one unpadded document each; one rounding, 1e-6."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    model, read = make_model(), []
    tokens = torch.arange(24).view(2, 12)
    monkeypatch.setattr(model.blocks[0], "forward", watch(model.blocks[0].forward, read))
    torch.manual_seed(4)
    InstructionTuning(noise=5.0)(model.train(), TokenBatch(tokens, tokens, tokens >= 0))
    model.embedding.neftune_noise_alpha = 5.0
    torch.manual_seed(4)
    wanted = neftune_post_forward_hook(model.embedding, (tokens,), model.embedding(tokens))
    torch.testing.assert_close(read[0], wanted.detach(), rtol=1e-6, atol=1e-6)


def watch(forward, read):
    def watched(x, *rest):
        read.append(x.detach().clone())
        return forward(x, *rest)

    return watched


def test_noise_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="noise is -1"):
        InstructionTuning(noise=-1)
    with pytest.raises(ConfigError, match="data and shard parallelism only"):
        InstructionTuning(noise=1)(torch.nn.Identity(), None)


# invariants


def test_packed_conversations_have_the_loss_and_gradient_of_each_alone():
    """float64, so nothing but the order of sums is left: 1e-9. Grouped and padded rows too."""
    model, conversations = make_model().double(), talks(12)
    objective = InstructionTuning()

    def of(batches):
        model.zero_grad()
        found = [objective(model, batch) for batch in batches]
        total = sum(loss.total for loss in found)
        total.backward()
        return total.item(), sum(loss.weight for loss in found), [p.grad.clone() for p in model.parameters()]

    alone = of(next(InstructionLoader.Config(batch=1, context=250).build([one], BYTES)) for one in conversations)
    for packing in ("best_fit", "padded", "grouped"):
        rendered = RenderedConversations(conversations, BYTES, 250)
        together = of(validation_batches(rendered, 250, 3, packing=packing))
        assert together[1] == alone[1]
        assert together[0] == pytest.approx(alone[0], rel=1e-9)
        for gradient, other in zip(together[2], alone[2], strict=True):
            torch.testing.assert_close(gradient, other, rtol=0, atol=1e-9)


def test_a_step_does_not_depend_on_how_its_batch_is_divided():
    """One batch of 6 rows against 6 of one, whose answers are of other lengths: equal gradients, 1e-6 of up to 0.1."""
    batch = next(InstructionLoader.Config(batch=6, context=96, packing="padded").build(talks(6), BYTES))
    steps = []
    for batches in ([batch], [batch.changed(lambda x, row=row: x[row : row + 1]) for row in range(6)]):
        engine = Engine(make_model(), InstructionTuning(), AdamW.Config(learning_rate=1e-3), clip=None)
        engine.step(batches)
        steps.append([gradient.clone() for gradient in engine.weights.gradients])
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


# trl


def test_the_loss_equals_trls(tmp_path):
    """SFTTrainer with assistant_only_loss on the same conversations, weights and template; float32: 1e-5."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    import transformers

    tokenizer = byte_level(GENERATION)
    tokenizer.pad = TEXT_END
    tokenizer.save(tmp_path / "tokenizer")
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path / "model")
    conversations = talks(5)
    trainer = trl.SFTTrainer(
        model=theirs,
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "out"),
            assistant_only_loss=True,
            max_length=256,
            per_device_train_batch_size=5,
            use_cpu=True,
            report_to=[],
            gradient_checkpointing=False,
            bf16=False,
        ),
        train_dataset=datasets.Dataset.from_list([{"messages": list(one.messages)} for one in conversations]),
        processing_class=transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    their_loss = trainer.compute_loss(theirs.eval(), inputs)
    their_loss.backward()
    tokenizer.save(tmp_path / "model")
    model, _ = penjing.load(tmp_path / "model", dtype=torch.float32)
    batch = next(InstructionLoader.Config(batch=2, context=250).build(conversations, tokenizer))
    loss = InstructionTuning()(model, batch)
    assert loss.weight == int((inputs["labels"][:, 1:] != -100).sum())
    (loss.total / loss.weight).backward()
    assert (loss.total / loss.weight).item() == pytest.approx(their_loss.item(), rel=1e-5)
    torch.testing.assert_close(model.embedding.weight.grad, theirs.model.embed_tokens.weight.grad, rtol=1e-4, atol=1e-6)


# learning


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_training_on_real_instructions_lowers_the_loss_on_held_out_ones(data, noise):
    """English and Chinese Alpaca, from random weights, two minutes: well below the unigram entropy of the answers,
    which needs more than counts of tokens."""
    sides = {
        "en": list(islice(read(data / "instruct" / "alpaca_5000.json"), 4000)),
        "zh": list(islice(read(data / "instruct" / "alpaca_zh_part_00.json"), 4000)),
    }
    learn = [one for side in sides.values() for one in side[:-100]]
    tokenizer = Tokenizer.train([m["content"] for one in learn for m in one.messages], 2048)
    model = make_model(tokenizer.vocab_size, width=96, layers=3, tied=True, family="qwen3")
    held_out = {
        name: list(validation_batches(RenderedConversations(side[-100:], tokenizer, 160), 160, 16, packing="best_fit"))
        for name, side in sides.items()
    }
    before = {name: mean_loss(model, batches) for name, batches in held_out.items()}
    loader = InstructionLoader.Config(batch=16, context=160, seed=1).build(learn, tokenizer)
    engine = Engine(model.train(), InstructionTuning(noise), AdamW.Config(learning_rate=3e-3))
    for step in range(300):
        engine.step([next(loader)], min(1.0, step / 30, (300 - step) / 100))
    for name, batches in held_out.items():
        answers = torch.cat([batch.targets[batch.mask] for batch in batches])
        shares = torch.bincount(answers) / len(answers)
        unigram = -(shares * shares.clamp(min=1e-9).log()).sum().item()
        after = mean_loss(copy.deepcopy(model), batches)
        print(f"{name}: {before[name]:.3f} -> {after:.3f}, unigram {unigram:.3f}")
        assert after < unigram - 0.3 < before[name]
