"""Offline, quiet, one thread: what every test needs before the first import of a library."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors, and the tests run side by side


@pytest.fixture(autouse=True)
def no_precision_of_another_test():
    """transformers 4.57 leaves the precision of a run in this variable, and the next run in the process takes it."""
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
