"""What a DPO run gives the probe to read: answers, streams, models from a folder; frozen layers."""

import math

import pytest
import reference
import tiny
import torch
import twins
from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from spinal_callback import MemorySink, load_trace


def check_twins(tmp_path, build):
    """`build(folder, *callbacks)` makes a trainer. Returns the one that was watched, and its readings."""
    memory, outcomes = MemorySink(), []
    for folder, callbacks in (("without", []), ("with", [twins.watcher(memory)])):
        torch.manual_seed(0)
        trainer = build(tmp_path / folder, *callbacks)
        outcomes.append(twins.outcome(trainer))
    assert outcomes[0] == outcomes[1]
    assert [r.step for r in memory.readings] == list(range(7))
    return trainer, memory.readings


def told_by_the_reference(trainer):
    """The trained policy's states and lens at the probe's prompts, one prompt at a time in float64."""
    trained = twins.policy()
    trained.load_state_dict(trainer.model.state_dict())
    prompts = twins.probe_of(trainer).prompts
    return (
        prompts,
        trained,
        lambda ids: reference.reference_trace(
            trained, ids, lambda m: m.model.layers, lambda m: m.model.norm, lambda m: m.lm_head
        ),
    )


# --- what is read


def test_answers_are_read_token_by_token(tmp_path):
    memory = MemorySink()
    trainer = twins.dpo(tmp_path, twins.watcher(memory, position="response"))
    twins.outcome(trainer)
    prompts, _, read = told_by_the_reference(trainer)
    parts = [[tiny.ids_of(row, part) for part in ("prompt", "chosen")] for row in trainer.train_dataset]
    rows = {tuple(prompt + chosen): len(chosen) for prompt, chosen in parts}
    assert [rows[tuple(ids)] for ids in prompts.ids] == prompts.answers
    assert min(prompts.answers) > 1
    # every position whose next token is one of the answer's, as a prompt of its own
    cut = [
        [ids[:end] for end in range(len(ids) - n, len(ids))]
        for ids, n in zip(prompts.ids, prompts.answers, strict=True)
    ]
    told, last = read([ids for cuts in cut for ids in cuts]), memory.readings[-1]
    assert last.alpha == pytest.approx([reference.tail_exponent(h, eps=1.2e-7)[0] for h in told["h"]], rel=1e-5)
    owner = [i for i, cuts in enumerate(cut) for _ in cuts]
    moved = reference.transport(told["z"])
    means = [[step[[k for k, o in enumerate(owner) if o == i]].mean() for i in range(len(cut))] for step in moved]
    assert last.transport == pytest.approx([reference.mean(m) for m in means], abs=1e-5)
    assert last.displacement > 0
    assert memory.readings[0].displacement == 0


def test_transport_over_the_likeliest_tokens(tmp_path):
    memory = MemorySink()
    trainer = twins.dpo(tmp_path, twins.watcher(memory, top_k=5))
    twins.outcome(trainer)
    prompts, _, read = told_by_the_reference(trainer)
    told = read(prompts.ids)["z"]
    expected = reference.transport_top_k(told, 5).mean(axis=1)
    assert memory.readings[-1].transport == pytest.approx(expected, abs=1e-5)
    assert abs(expected - reference.transport(told).mean(axis=1)).max() > 1e-3  # the choice makes a difference


@pytest.mark.parametrize("fields", [{"position": "response"}, {"top_k": 5}])
def test_twins(tmp_path, fields):
    without = twins.outcome(twins.dpo(tmp_path / "without"))
    assert twins.outcome(twins.dpo(tmp_path / "with", twins.watcher(**fields))) == without


# --- where it comes from


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_stream_gives_its_first_rows_and_none_is_lost(tmp_path, shuffled):
    """The twins would differ if looking at the stream had moved it on."""
    rows = list(tiny.preferences(24))

    def build(folder, *callbacks):
        stream = IterableDataset.from_generator(lambda: iter(rows))
        return twins.dpo(folder, *callbacks, data=stream.shuffle(seed=1, buffer_size=8) if shuffled else stream)

    trainer, _ = check_twins(tmp_path, build)
    seen = [tuple(tiny.ids_of(row, "prompt")) for row in trainer.train_dataset]
    assert [tuple(ids) for ids in twins.probe_of(trainer).prompts.ids] == seen[:16]


def test_looking_at_a_random_data_set_draws_nothing_from_training(tmp_path):
    """Rows made with torch's own random numbers, as an augmenting data set makes them."""
    rows = list(twins.language_rows())

    class Augmenting(TorchDataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, i):
            row = dict(rows[i])
            row["input_ids"] = [*row["input_ids"][:-1], 8 + int(torch.randint(80, ()))]
            return row

    check_twins(tmp_path, lambda folder, *callbacks: twins.plain(folder, *callbacks, data=Augmenting()))


def test_evaluation_in_between_is_left_alone(tmp_path):
    def build(folder, *callbacks):
        evaluation = {"ref_model": twins.reference_model(), "eval_dataset": tiny.preferences(8, 5)}
        return twins.dpo(folder, *callbacks, trainer=evaluation, eval_strategy="steps", eval_steps=2)

    trainer, _ = check_twins(tmp_path, build)
    assert sum("eval_loss" in row for row in trainer.state.log_history) == 3


class StopsLate(TrainerCallback):
    """Ends training after step 3, when our callback has seen the step already."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


@pytest.mark.parametrize("best", [True, False])
def test_the_best_checkpoints_weights_are_not_taken_for_the_last_steps(tmp_path, best):
    """The last step is probed before the best checkpoint is loaded."""
    memory = MemorySink()
    twins.dpo(
        tmp_path,
        twins.watcher(memory, every=2),
        StopsLate(),
        trainer={"ref_model": twins.reference_model(), "eval_dataset": tiny.preferences(4, 5)},
        load_best_model_at_end=best,
        **{f"{what}_strategy": "steps" for what in ("eval", "save")},
        **{f"{what}_steps": 1 for what in ("eval", "save")},
    ).train()
    assert [r.step for r in memory.readings] == [0, 2, 3]
    assert memory.readings[2].displacement > memory.readings[1].displacement


def test_a_model_given_as_a_folder_brings_its_tokenizer(tmp_path):
    """`processing_class=None`: TRL loads it beside the model."""
    twins.policy().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    memory = MemorySink()
    trainer = DPOTrainer(
        model=str(tmp_path / "model"),
        args=DPOConfig(output_dir=str(tmp_path), **tiny.SETTINGS),
        train_dataset=tiny.preferences(24),
        callbacks=[twins.watcher(memory, prompts=[f"w{i} w{i + 1}" for i in range(16)])],
    )
    trainer.train()
    assert trainer.processing_class is not None
    assert len(memory.readings) == 7
    assert load_trace(tmp_path).header.model == str(tmp_path / "model")


def test_no_tokenizer_is_needed_for_tokenized_rows_but_for_text(tmp_path):
    trainer = twins.plain(tmp_path, twins.watcher())
    assert trainer.processing_class is None
    trainer.train()
    assert len(load_trace(tmp_path).readings) == 7
    told = twins.plain(tmp_path, twins.watcher(prompts=[f"w{i}" for i in range(16)]))
    with pytest.raises(ValueError, match=r"prompts\[0\] is text, but the trainer has no processing_class"):
        told.train()


def test_labels_that_train_on_everything_make_the_row_a_prompt(tmp_path):
    rows = twins.language_rows().to_list()
    whole = Dataset.from_list([{**row, "labels": row["input_ids"]} for row in rows])
    trainer = twins.plain(tmp_path, twins.watcher(), data=whole)
    trainer.train()
    assert {len(ids) for ids in twins.probe_of(trainer).prompts.ids} == {12}


# --- gradients


def test_missing_gradients_are_said_once(tmp_path, capsys):
    """As under DeepSpeed, which keeps the gradients to itself."""

    class Hides(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            for p in model.parameters():
                p.grad = None

    memory = MemorySink()
    twins.dpo(tmp_path, Hides(), twins.watcher(memory)).train()
    assert all(math.isnan(r.gradient_concentration) and math.isnan(r.score) for r in memory.readings)
    assert capsys.readouterr().out.count("layer gradients are unavailable in this mode") == 1


def test_nothing_is_said_where_gradients_are_there_or_not_asked_for(tmp_path, capsys):
    twins.dpo(tmp_path / "a", twins.watcher()).train()
    twins.dpo(tmp_path / "b", twins.watcher(gradients=False)).train()
    assert "unavailable" not in capsys.readouterr().out


def test_layers_that_are_not_trained_have_no_share_of_the_gradient(tmp_path):
    def frozen(last):
        model = twins.policy()
        for p in model.model.layers[:last].parameters():
            p.requires_grad_(False)
        return model

    for last, expected in ((3, 1.0), (4, 1.0)):  # the late window of five layers is 4 and 5
        memory = MemorySink()
        twins.dpo(tmp_path / str(last), twins.watcher(memory), model=frozen(last)).train()
        assert [r.gradient_concentration for r in memory.readings[1:]] == [expected] * 6
