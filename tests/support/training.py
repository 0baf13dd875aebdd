"""A DPO run of a tiny model of nine layers, without dropout."""

import copy

import tiny
from trl import DPOConfig, DPOTrainer


def trainer(folder, *callbacks, model=None, data=None, **arguments):
    model = model or tiny.llama()
    return DPOTrainer(
        model,
        ref_model=copy.deepcopy(model),
        args=DPOConfig(output_dir=str(folder), **tiny.DPO_SETTINGS | {"max_steps": 4} | arguments),
        train_dataset=data or tiny.preferences(),
        processing_class=tiny.tokenizer(),
        callbacks=list(callbacks),
    )
