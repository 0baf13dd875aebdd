"""The same line, `callbacks=[SpinalCallback()]`, in every trainer: prompts from its own data, equal twins."""

import pytest
import tiny
import torch
import twins
from datasets import Dataset
from transformers import LlamaForSequenceClassification, Trainer, TrainingArguments
from trl import (
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from spinal_callback import MemorySink, SpinalCallback, load_trace
from spinal_callback.alerts.rules import RULES


def conversations():
    rows = tiny.preferences(24)
    return Dataset.from_list([{"messages": row["prompt"] + row["chosen"]} for row in rows])


def texts():
    return Dataset.from_list([{"text": row["prompt"][0]["content"]} for row in tiny.preferences(96)])


def completions():
    rows = tiny.preferences(24)
    return Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])


def judged():
    return completions().add_column("label", [i % 2 == 0 for i in range(24)])


def questions():
    return Dataset.from_list([{"prompt": row["prompt"]} for row in tiny.preferences(24)])


def odd(completion_ids, **kwargs):
    """A reward: the share of odd token ids."""
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]


def made(kind, config, data, **settings):
    """A builder of trainers of one kind; `trainer` in `settings` holds arguments for it, the rest is for its config."""

    def build(folder, *callbacks):
        model = settings.get("model", twins.policy)()
        arguments = {k: v for k, v in settings.items() if k not in ("trainer", "model")}
        return kind(
            model=model,
            args=config(output_dir=str(folder), **tiny.SETTINGS | arguments),
            train_dataset=data(),
            callbacks=list(callbacks),
            **settings.get("trainer", {"processing_class": tiny.tokenizer()}),
        )

    return build


ONLINE = {
    "trainer": {"processing_class": tiny.tokenizer(), "reward_funcs": odd},
    "num_generations": 2,
    "max_completion_length": 6,
}
REFERENCE = {"processing_class": tiny.tokenizer(), "ref_model": twins.reference_model()}
TRAINERS = {
    "plain": made(Trainer, TrainingArguments, twins.language_rows, trainer={}),
    "sft_completions": made(SFTTrainer, SFTConfig, completions),
    "sft_conversations": made(SFTTrainer, SFTConfig, conversations),
    "sft_text": made(SFTTrainer, SFTConfig, texts),
    "sft_packed": made(SFTTrainer, SFTConfig, texts, packing=True, max_length=32, packing_strategy="bfd"),
    "kto": made(KTOTrainer, KTOConfig, judged, disable_dropout=False, trainer=REFERENCE),
    "grpo": made(GRPOTrainer, GRPOConfig, questions, **ONLINE),
    "rloo": made(RLOOTrainer, RLOOConfig, questions, beta=0.0, epsilon=9.0, **ONLINE),  # dropout: wide ratios
}


@pytest.mark.parametrize("name", TRAINERS)
def test_twins(tmp_path, name):
    memory = MemorySink()
    outcomes = []
    for folder, callbacks in (("without", []), ("with", [twins.watcher(memory)])):
        torch.manual_seed(0)
        outcomes.append(twins.outcome(TRAINERS[name](tmp_path / folder, *callbacks)))
    assert outcomes[0] == outcomes[1]
    assert [r.step for r in memory.readings] == list(range(7))
    assert [a for a in memory.alerts if a.rule not in RULES] == []  # a rule may well warn of so small a model
    assert memory.readings[-1].displacement > 0
    assert 0 < memory.readings[-1].gradient_concentration < 1


def encoded(row):
    made = tiny.tokenizer().apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
    return made["input_ids"]


OWN_PROMPTS = {
    "plain": lambda row: row["input_ids"][:4],  # the rest is trained on
    "sft_completions": encoded,
    "sft_conversations": lambda row: row["input_ids"],  # all of it is trained on: a prompt as a whole
    "sft_text": lambda row: row["input_ids"],
    "sft_packed": lambda row: row["input_ids"][: row["seq_lengths"][0]],  # one text, not those packed behind it
    "kto": (lambda row: row["prompt_input_ids"]) if tiny.OLD_TRL else encoded,
    "grpo": encoded,
    "rloo": encoded,
}


@pytest.mark.parametrize("name", TRAINERS)
def test_prompts_are_the_trainers_own(tmp_path, name):
    trainer = TRAINERS[name](tmp_path, twins.Watched(num_prompts=12, sinks=[]))
    known = {tuple(OWN_PROMPTS[name](row)) for row in trainer.train_dataset}
    trainer.args.max_steps = 1
    trainer.train()
    read = [tuple(ids) for ids in twins.probe_of(trainer).prompts.ids]
    assert len(read) == 12
    assert set(read) <= known
    assert [r.step for r in load_trace(tmp_path).readings] == [0, 1]


@pytest.mark.parametrize("name", ["sft_completions", "kto", "plain"])
def test_answers_are_read_where_the_trainer_has_them(tmp_path, name):
    trainer = TRAINERS[name](tmp_path, twins.watcher(position="response"))
    trainer.args.max_steps = 1
    trainer.train()
    prompts = twins.probe_of(trainer).prompts
    answer = "answer_input_ids" if tiny.OLD_TRL else "completion_ids"
    whole = {
        tuple(row["input_ids"] if "input_ids" in row else tiny.ids_of(row, "prompt") + row[answer])
        for row in trainer.train_dataset
    }
    assert {tuple(ids) for ids in prompts.ids} <= whole
    assert min(prompts.answers) > 0


def test_a_reward_model_is_refused(tmp_path):
    config = tiny.llama(layers=5, width=24).config
    config.num_labels = 1
    trainer = RewardTrainer(
        model=LlamaForSequenceClassification(config),
        args=RewardConfig(output_dir=str(tmp_path), **tiny.SETTINGS),
        train_dataset=tiny.preferences(24),
        processing_class=tiny.tokenizer(),
        callbacks=[SpinalCallback()],
    )
    with pytest.raises(ValueError, match="LlamaForSequenceClassification has no language head"):
        trainer.train()
    assert trainer.state.global_step == 0
