"""Weights bit for bit those without the callback, whatever in the model, the data or the sinks moves when it is used.

`tests/probe/test_kept_state.py` has the kinds of such state one by one.
"""

import pytest
import restless
import tiny
import torch
import twins
from transformers import TrainerCallback

from spinal_callback import MemorySink


def same(tmp_path, build, **fields):
    """`build(folder, *callbacks)` makes a trainer, whose outcomes without and with the callback are compared."""
    memory = MemorySink()
    outcomes = []
    for name, callbacks in (("without", []), ("with", [twins.watcher(memory, every=2, **fields)])):
        torch.manual_seed(0)
        outcomes.append(twins.outcome(build(tmp_path / name, *callbacks)))
    assert [r.step for r in memory.readings] == [0, 2, 4]
    assert outcomes[1] == outcomes[0]


def test_modules_and_data_whose_state_moves(tmp_path):
    """Ten kinds of modules in one model, and a data set with random numbers of its own."""

    def build(folder, *callbacks):
        return twins.plain(folder, *callbacks, model=restless.restless(), data=restless.Rows("inside"), max_steps=4)

    same(tmp_path, build)


def test_a_dynamic_rotary_embedding(tmp_path):
    """Rows of 12 tokens, prompts of up to 39, and 16 positions from which on the embedding is another."""

    def build(folder, *callbacks):
        model = twins.policy(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
        model.model.rotary_emb.max_seq_len_cached = model.model.rotary_emb.original_max_seq_len = 16
        return twins.plain(folder, *callbacks, model=model, max_steps=4)

    same(tmp_path, build, prompts=[{"input_ids": ids} for ids in tiny.prompts(16, longest=40)])


def test_a_stream_that_keeps_its_place_asks_for_prompts(tmp_path):
    def build(folder, *callbacks):
        return twins.plain(folder, *callbacks, data=restless.Stream("generator"), max_steps=4)

    with pytest.raises(ValueError, match=r"take rows away from training"):
        build(tmp_path, twins.watcher()).train()
    same(tmp_path, build, prompts=[{"input_ids": ids} for ids in tiny.prompts(16)])


def test_a_sink_that_draws_random_numbers(tmp_path):
    sink = restless.Drawing()

    def build(folder, *callbacks):
        for callback in callbacks:
            callback._recorder.asked.append(sink)
        return twins.dpo(folder, *callbacks, max_steps=4, save_strategy="steps", save_steps=2)

    same(tmp_path, build)
    assert sink.drawn >= 6


class Draws(TrainerCallback):
    """What a sink would do to training if it were not kept apart."""

    def on_step_end(self, *args, **kwargs):
        torch.rand(())


def test_the_negative_random_numbers_drawn_between_steps_do_change_the_weights(tmp_path):
    plain = twins.outcome(twins.dpo(tmp_path / "a", max_steps=4))
    assert twins.outcome(twins.dpo(tmp_path / "b", Draws(), max_steps=4)) != plain
