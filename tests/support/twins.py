"""Two runs of one setting, with the callback and without: what is compared, and the DPO run that most tests train."""

import warnings

import tiny
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer

from spinal_callback import SpinalCallback

CLOCKS = ("runtime", "per_second", "step_time", "profiling")


def dpo(folder, *callbacks, model=None, data=None, trainer=None, **arguments):
    """A DPOTrainer with dropout left on; `trainer` holds arguments for it, the rest is for its DPOConfig."""
    return DPOTrainer(
        model=model if model is not None else policy(),
        args=DPOConfig(output_dir=str(folder), **tiny.DPO_SETTINGS | arguments),
        train_dataset=data if data is not None else tiny.preferences(24),
        processing_class=tiny.tokenizer(),
        callbacks=list(callbacks),
        **{"ref_model": reference_model()} | (trainer or {}),
    )


def language_rows(count=24, length=12):
    """Token ids with labels; the first four tokens of a row are not trained on."""
    rows = [ids[:length] for ids in tiny.prompts(400, longest=30) if len(ids) >= length][:count]
    labels = [[-100] * 4 + ids[4:] for ids in rows]
    return Dataset.from_dict({"input_ids": rows, "labels": labels, "attention_mask": [[1] * length] * count})


def plain(folder, *callbacks, model=None, data=None, **arguments):
    """A transformers Trainer on `language_rows`, without a tokenizer."""
    return Trainer(
        model=model if model is not None else policy(),
        args=TrainingArguments(output_dir=str(folder), **tiny.SETTINGS | arguments),
        train_dataset=data if data is not None else language_rows(),
        callbacks=list(callbacks),
    )


def policy(**fields):
    return tiny.llama(**{"layers": 5, "width": 24, "attention_dropout": 0.2, **fields})


def reference_model():
    return tiny.llama(layers=5, width=24, attention_dropout=0.2)


class Watched(SpinalCallback):
    """Keeps the probe of its run, for tests that look at it after the run: the callback itself lets go of it."""

    def _build_probe(self, *args):
        self.probe = super()._build_probe(*args)
        return self.probe


def watcher(*sinks, **fields):
    return Watched(sinks=list(sinks), **{"every": 1, "num_prompts": 16, **fields})


def outcome(trainer):
    """Trains; SHA-256 of every weight and buffer, and the trainer's own log without its clocks."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message="spinal")
        trainer.train()
    # a probe that failed would disturb nothing, and prove nothing
    assert [w for w in caught if str(w.message).startswith("spinal")] == []
    own = [{k: v for k, v in row.items() if not any(c in k for c in CLOCKS)} for row in trainer.state.log_history]
    return tiny.digest(trainer.model.state_dict()), own


def probe_of(trainer):
    """The probe of the trainer's callback."""
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Watched)).probe
