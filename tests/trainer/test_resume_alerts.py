"""A resumed run raises each alert once, and its trackers continue the count."""

import math

import pytest
import tiny
import twins
from resuming import part
from transformers import TrainerCallback
from wandb_runs import history, inspect

from spinal_callback import MemorySink, load_trace
from spinal_callback.trainer.resume import KEY


class Breaks(TrainerCallback):
    """After step 3 a token that only the probe's prompts have becomes NaN: training goes on as if nothing were."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            model.model.embed_tokens.weight.data[tiny.tokenizer().convert_tokens_to_ids("<system>")] = math.nan


BREAKING = [f"w{i} w{i + 1}" for i in range(12)] + [f"<system> w{i} w{i + 1}" for i in range(4)]


def test_an_alert_is_not_raised_twice(tmp_path):
    def watcher(*sinks):
        return twins.watcher(*sinks, prompts=BREAKING, save_on_alert=True)

    part(tmp_path, Breaks(), watcher(), until=4)
    assert [(a.rule, a.step) for a in load_trace(tmp_path).alerts] == [("nonfinite", 3)]
    assert (tmp_path / "checkpoint-3").exists()
    memory = MemorySink()
    resumed = part(tmp_path, watcher(memory), until=8, resume=True)
    assert memory.alerts == []
    assert all(r.nonfinite > 0 for r in memory.readings)
    assert [(a.rule, a.step) for a in load_trace(tmp_path).alerts] == [("nonfinite", 3)]
    saved = resumed.state.stateful_callbacks[KEY]
    assert saved["rules"]["alarms"]["nonfinite"]["error"]["raised"] is True
    assert saved["saved_for_alert"] is True


def test_the_count_of_alerts_goes_on(tmp_path):
    first, second = (twins.watcher("wandb", prompts=BREAKING) for _ in range(2))
    part(tmp_path / "a", Breaks(), first, until=4)
    part(tmp_path / "a", second, until=8, resume=True)
    raised = len([a for a in load_trace(tmp_path / "a").alerts if a.step <= 4])
    assert len(second._recorder.asked[0]._history.trace.alerts) == raised > 0


@pytest.mark.slow
def test_the_count_of_alerts_in_wandb_goes_on(tmp_path):
    """And is 0 again in another run of the same callback. Read back from W&B's own files."""
    wandb, counts = pytest.importorskip("wandb"), {}
    first, second = (twins.watcher("wandb", prompts=BREAKING) for _ in range(2))
    for name, callbacks, until in (("run", [Breaks(), first], 4), ("resumed", [second], 8), ("new", [first], 8)):
        (tmp_path / name).mkdir()
        with wandb.init(project="test", dir=tmp_path / name, mode="offline"):
            folder, resume = (tmp_path / "run", True) if name == "resumed" else (tmp_path / name, None)
            part(folder, *callbacks, until=until, resume=resume)
        wandb.teardown()
        counts[name] = [row["spinal/alerts"] for row in history(inspect(tmp_path / name))]
    raised = len([a for a in load_trace(tmp_path / "run").alerts if a.step <= 4])
    assert counts["run"][0] == 0
    assert counts["run"][-1] == raised > 0
    assert counts["resumed"][0] == raised
    assert counts["new"][0] == 0
