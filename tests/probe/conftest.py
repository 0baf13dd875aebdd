"""In these tests a deprecated call is an error: those of the package's own reach users as warnings."""

from pathlib import Path

import pytest

# `is_gradient_checkpointing`: PEFT and TRL still ask a model for it. `torch.jit.script`: transformers 4.57
DEPRECATED = pytest.mark.filterwarnings(
    "error::FutureWarning",
    "error::DeprecationWarning",
    "error::PendingDeprecationWarning",
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    "ignore:`torch.jit.script`:DeprecationWarning",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(DEPRECATED)
