"""Whole weights in one process: which backend is chosen, and squared gradients."""

import pytest
import tiny
import torch

from spinal_callback.distributed.sharding import Replicated, backend_of

CPU = torch.device("cpu")


def test_whole_weights_have_the_replicated_backend():
    backend = backend_of(tiny.llama(layers=3))
    assert type(backend) is Replicated
    assert (backend.shards_weights, backend.root_only, backend.reads_after_training) == (False, False, True)


def layers_with_a_gradient(dtype):
    layers = list(tiny.llama(layers=3).to(dtype).model.layers)
    weight = layers[1].mlp.up_proj.weight
    weight.grad = torch.full_like(weight, 0.5)
    return layers, 0.25 * weight.numel()


def test_layers_without_gradients_are_nan_and_frozen_ones_0():
    layers, _ = layers_with_a_gradient(torch.float32)
    layers[2].requires_grad_(False)
    norms = Replicated().squared_gradients(layers, CPU)
    assert norms.isnan().tolist() == [True, False, False] and norms[2] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_squared_gradients_in_every_precision(dtype):
    layers, expected = layers_with_a_gradient(dtype)
    norms = Replicated().squared_gradients(layers, CPU)
    assert norms.dtype == torch.float64 and float(norms[1]) == pytest.approx(expected)


def test_squares_that_float16_cannot_hold():
    layers, _ = layers_with_a_gradient(torch.float16)
    weight = layers[1].mlp.up_proj.weight
    weight.grad = torch.full_like(weight, 1000.0)  # its square is above 65504
    assert float(Replicated().squared_gradients(layers, CPU)[1]) == pytest.approx(1e6 * weight.numel())
