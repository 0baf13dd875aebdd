"""The lens in pieces, with any head and in any precision. That its values are right: test_model_parts.py."""

import copy

import peft
import pytest
import tiny
import torch
from architectures import ARCHITECTURES
from reads import LLAMA, assert_near, checked, lens, states, truth

from spinal_callback.probe.logit_lens import NARROWEST, _multiplies_mixed, row_blocks


def test_a_wrapped_head_is_called_in_blocks_of_rows():
    config = tiny.lora(target_modules=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(LLAMA.build()), config).eval()
    found = checked(model)
    kept = states(model, found)
    blocks = row_blocks(found, kept, block=2 * kept.shape[0] * found.vocabulary)
    assert blocks == [slice(0, 2), slice(2, 4)]
    assert row_blocks(found, kept, block=1) == [slice(i, i + 1) for i in range(4)]
    parts = [lens(model, found, kept[:, rows]) for rows in blocks]
    assert_near(torch.cat(parts, dim=1), truth(copy.deepcopy(model).merge_and_unload())[1])
    plain = checked(LLAMA.build())
    for rows, blocks in ((4, 1), (2, 2), (1, 4)):  # a plain one in pieces of the vocabulary that are not too narrow
        assert len(row_blocks(plain, kept, block=rows * kept.shape[0] * NARROWEST)) == blocks
    assert row_blocks(plain, kept, block=1) == [slice(i, i + 1) for i in range(4)]


@pytest.fixture
def asked(monkeypatch):
    """A machine that adds up products of half precision in float32, as CUDA does: what it was asked to multiply."""
    products, mm = [], torch.mm

    def mixed(a, b, *, out_dtype=None):
        if out_dtype is None:
            return mm(a, b)
        products.append((a.dtype, b.dtype, out_dtype))
        return mm(a.float(), b.float())

    monkeypatch.setattr(torch, "mm", mixed)
    _multiplies_mixed.cache_clear()
    yield products
    _multiplies_mixed.cache_clear()


@pytest.mark.parametrize("name", ["llama", "gptj", "gemma2", "cohere"])  # plain, a bias, a soft cap, a scale
def test_half_precision_is_multiplied_without_a_copy_where_the_machine_can(name, asked, monkeypatch):
    model = ARCHITECTURES[name].build().to(torch.bfloat16)
    found = checked(model)
    kept = states(model, found)
    asked.clear()
    got = lens(model, found, kept)
    assert asked and set(asked) == {(torch.bfloat16, torch.bfloat16, torch.float32)} and got.dtype == torch.float32
    monkeypatch.undo()
    _multiplies_mixed.cache_clear()
    assert_near(got, lens(model, found, kept), 1e-6)


def test_a_float32_model_is_multiplied_as_ever(asked):
    model = LLAMA.build()
    found = checked(model)
    lens(model, found, states(model, found))
    assert len(asked) == 1 and not _multiplies_mixed(torch.float32, torch.device("cpu")), "no more than the question"


def test_a_machine_that_cannot_is_asked_once(monkeypatch):
    asked = []

    def refuses(*args, **kwargs):
        asked.append(kwargs)
        raise NotImplementedError("no such product")

    monkeypatch.setattr(torch, "mm", refuses)
    _multiplies_mixed.cache_clear()
    model = LLAMA.build().to(torch.bfloat16)
    found = checked(model)
    assert lens(model, found, states(model, found)).isfinite().all() and len(asked) == 1
    _multiplies_mixed.cache_clear()
