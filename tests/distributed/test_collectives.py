"""Collectives in one process: everything passes through untouched, and errors keep their type and words."""

import pytest
import torch

from spinal_callback.distributed import collectives

CPU = torch.device("cpu")


def test_one_process_passes_through():
    assert (collectives.world_size(), collectives.rank()) == (1, 0)
    assert collectives.least(3, CPU) == 3
    assert collectives.broadcast_from_zero([1.5, 2.0], CPU) == [1.5, 2.0]
    assert collectives.same_on_all_ranks("ab" * 32, CPU)
    assert collectives.sum_over_ranks(torch.ones(2)).tolist() == [1, 1]
    assert collectives.summed_together(lambda: {"x": torch.ones(2)}, CPU)["x"].tolist() == [1, 1]
    assert collectives.together(lambda: 7, CPU) == 7


def test_a_process_that_was_started_alone_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert collectives.join_ranks() is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError("Unable to allocate 4 GiB"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory is not the word of a ValueError"), False),
    ],
)
def test_out_of_memory_goes_by_one_name(error, full):
    def work():
        raise error

    with pytest.raises(torch.OutOfMemoryError if full else type(error)) as caught:
        collectives.together(work, CPU)
    assert str(caught.value) == str(error) and isinstance(caught.value, torch.OutOfMemoryError) == full


@pytest.mark.parametrize("error", [ValueError("mine"), torch.OutOfMemoryError("full")])
def test_one_process_raises_its_own_error(error):
    def work():
        raise error

    with pytest.raises(type(error)) as caught:
        collectives.together(work, CPU)
    assert caught.value is error
