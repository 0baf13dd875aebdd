"""The lens against hand-made norm, head and finish on hidden states read by the reference's own hooks, in float64."""

import copy

import peft
import pytest
import tiny
import torch
import transformers as hf
from architectures import ARCHITECTURES, FEW, LLAMA_LIKE, WEIGHTLESS, Architecture
from reads import LLAMA, PROMPTS, assert_near, checked, lens, states, truth

from spinal_callback.probe.hooks import kept_states, stack_states
from spinal_callback.probe.logit_lens import lens_chunks
from spinal_callback.probe.model_parts import locate

NAMES = pytest.mark.parametrize("name", ARCHITECTURES)


def read(model, prompts=PROMPTS):
    found = checked(model)
    return lens(model, found, states(model, found, prompts))


def own_logits(model, prompts=PROMPTS):
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([p]), use_cache=False).logits[0, -1] for p in prompts])


def differ(a, b, least=0.05):
    return (a.double() - b.double()).abs().max() > least * b.abs().max()


# --- every architecture ----------------------------------------------------------------------------------------------


@NAMES
def test_lens_equals_the_hand_made_one_at_every_layer(name):
    arch = ARCHITECTURES[name]
    model = arch.build()
    found = checked(model)
    h, z = truth(model, arch)
    kept = states(model, found)
    assert len(list(lens_chunks(found, kept, 100))) > 5, "the vocabulary was not split"
    assert_near(kept, h)
    assert_near(lens(model, found, kept), z)
    assert_near(lens(model, found, kept)[-1], own_logits(model))


@NAMES
def test_lens_proves_itself_in_bfloat16(name):
    if tiny.OLD_TRANSFORMERS and name == "qwen3-next":
        pytest.skip("transformers before 5.0: the layers of this model are off by more in bfloat16")
    model = ARCHITECTURES[name].build().to(torch.bfloat16)
    found = checked(model)
    got = lens(model, found, states(model, found))
    assert got.dtype == torch.float32
    assert_near(got[-1], own_logits(model), 0.05)


@NAMES
def test_a_norm_applied_twice_or_not_at_all_would_show(name):
    """What makes the tests above mean something: on these weights neither mistake gives the same logits."""
    arch = ARCHITECTURES[name]
    model = arch.build()
    h, z = truth(model, arch)
    last = h[-1:].float()
    with torch.no_grad():
        head, norm = arch.head_of(model), arch.norm_of(model)
        assert name in WEIGHTLESS or differ(arch.finish(head(norm(norm(last)))), z[-1:], 1e-3)
        assert differ(arch.finish(head(last)), z[-1:])
        if arch.finish(torch.tensor(2.0)) != 2.0:
            assert differ(head(norm(last)), z[-1:], 0.1), "the soft cap or scale is too small to see"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "opt", "gemma2", "qwen3-moe", "mamba"])
def test_padding_to_the_right_is_invisible(name):
    model = ARCHITECTURES[name].build()
    found = checked(model)
    alone = torch.cat([states(model, found, [p]) for p in PROMPTS], dim=1)
    assert_near(states(model, found, pad=0), alone, 1e-5)
    assert_near(states(model, found, pad=57, more=9), alone, 1e-5)
    assert differ(states(model, found, [[*p[:-1], 50] for p in PROMPTS]), alone)


def test_parts_are_the_live_ones():
    model = LLAMA.build()
    found = locate(model)
    assert found.layers == list(model.model.layers)
    assert found.norm is model.model.norm and found.head is model.lm_head and found.forward is model.model
    checked(model)
    assert not any(m._forward_hooks for m in model.modules())
    before = read(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(3)
    after = read(model)
    assert torch.equal(after[0], before[0]) and differ(after[1], before[1])
    assert_near(after, truth(model)[1])


# --- adapters --------------------------------------------------------------------------------------------------------

ADAPTERS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "head": {"target_modules": ["o_proj", "lm_head"]},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "dora-head": {"target_modules": ["lm_head"], "use_dora": True},
    "saved-head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def with_adapter(model, **fields):
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, task_type="CAUSAL_LM", **fields)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "modules_to_save" in name:
                p.mul_(1.5)
    return adapted


@pytest.mark.parametrize("name", ADAPTERS)
def test_lens_reads_the_adapted_model(name):
    base = LLAMA.build()
    model = with_adapter(base, **ADAPTERS[name])
    got, (_, z0) = read(model), truth(base)
    _, merged = truth(copy.deepcopy(model).merge_and_unload())
    assert differ(merged[-1], z0[-1]), "the adapter does nothing"
    assert_near(got, merged)
    found = checked(model)
    assert found.name == "LlamaForCausalLM"
    with model.disable_adapter():
        assert_near(lens(model, found, states(model, found)), z0)


def test_virtual_tokens_shift_the_index():
    base = LLAMA.build()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    torch.manual_seed(2)
    model = peft.get_peft_model(copy.deepcopy(base), config).eval()
    by_hand = []
    with torch.no_grad():
        for p in PROMPTS:
            words = torch.cat([model.get_prompt(1), base.get_input_embeddings()(torch.tensor([p]))], dim=1)
            by_hand.append(base(inputs_embeds=words, use_cache=False).logits[0, -1])
    got = read(model)
    assert_near(got[-1], torch.stack(by_hand))
    assert differ(got[-1], own_logits(base))


# --- what is chosen, and what is refused -----------------------------------------------------------------------------


class Doubled(hf.LlamaForCausalLM):
    """Scales its logits by a factor that its configuration does not name."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out


def llama_config(**fields):
    return hf.LlamaConfig(**{**LLAMA_LIKE, **fields})


@pytest.mark.parametrize(
    "fields",
    [{"final_logit_softcapping": 30.0}, {"logit_scale": 0.5}, {"final_logit_softcapping": 5.0, "logit_scale": 3.0}],
)
def test_what_the_config_declares_but_the_model_does_not_do_is_not_done(fields):
    model = LLAMA.build()
    model.config.update(fields)
    assert_near(read(model), truth(model)[1])


def test_a_declared_factor_is_found_whichever_way_it_is_applied():
    for factor in (2.0, 0.5):
        model = tiny.randomize(Doubled(llama_config(logits_scaling=factor)))
        z = truth(model, Architecture(llama_config, finish=lambda z: z * 2))[1]
        assert_near(read(model), z)


def nameless_norm():
    model = LLAMA.build()
    model.model.closing = model.model._modules.pop("norm")
    return model


def layerless():
    model = LLAMA.build()
    model.model.layers.append(copy.deepcopy(model.model.layers[0]))
    return model


def looking_ahead():
    model = LLAMA.build()
    model.model.layers[1].register_forward_hook(lambda module, args, h: h + h.mean(1, keepdim=True))
    return model


def projected():
    sizes = {k: v for k, v in FEW.items() if k != "intermediate_size"}
    return hf.OPTForCausalLM(hf.OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=16))


T5 = {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8, "vocab_size": 100}
REFUSED = {
    "plain module": (lambda: torch.nn.Linear(3, 3), "Linear is not a transformers model"),
    "encoder-decoder": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
        "T5ForConditionalGeneration is an encoder-decoder: SPINAL reads a decoder-only causal language model",
    ),
    "bare": (lambda: hf.LlamaModel(llama_config()), "LlamaModel has no language head"),
    "classifier": (
        lambda: hf.LlamaForSequenceClassification(llama_config()),
        "LlamaForSequenceClassification has no language head",
    ),
    "encoder": (lambda: hf.BertForMaskedLM(hf.BertConfig(**FEW)), "BertForMaskedLM: .* norm_f"),
    "nameless norm": (nameless_norm, "LlamaModel has no final norm under any of the names norm, final_layernorm"),
    "layers": (layerless, "no list of 3 decoder layers under LlamaModel"),
    "not causal": (looking_ahead, "LlamaForCausalLM is not causal: a later token changed"),
    "undeclared factor": (
        lambda: tiny.randomize(Doubled(llama_config())),
        r"Doubled: the logit lens does not reproduce .* \(off by .*\); tried LlamaRMSNorm, Linear, then nothing",
    ),
    "wrong factor": (
        lambda: tiny.randomize(Doubled(llama_config(logit_scale=3.0))),
        "tried .* then times logit_scale=3.0, divided by logit_scale=3.0, nothing",
    ),
    "projected": (projected, "OPTForCausalLM: the logit lens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_words(name):
    build, words = REFUSED[name]
    model = build().eval()
    with pytest.raises(ValueError, match=words):
        checked(model)


def test_a_layer_that_did_not_run_is_named():
    with pytest.raises(RuntimeError, match=r"no hidden states from layers \[1, 3\]"):
        stack_states([None, torch.zeros(2, 4), None])


def test_hooks_never_raise_and_leave():
    layer = torch.nn.Linear(4, 4)
    with kept_states([layer], (torch.tensor([9]), torch.tensor([9])), 2) as kept:
        layer(torch.zeros(1, 2, 4))  # index out of range
    assert kept == [None] and not layer._forward_hooks


def test_states_of_four_dimensions_are_refused_for_what_they_are():
    """Gemma 3n has several streams of states per token."""
    sizes = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 100, "head_dim": 8, "laurel_rank": 4}
    config = hf.Gemma3nTextConfig(
        **LLAMA_LIKE, **sizes, sliding_window=8, num_kv_shared_layers=0, altup_num_inputs=2,
        activation_sparsity_pattern=[0.0] * 3,
    )  # fmt: skip
    model = tiny.randomize(hf.Gemma3nForCausalLM(config))
    with pytest.raises(
        ValueError, match=r"Gemma3nForCausalLM: its layers return states of shape \(2, \d, \d+, 32\); SPINAL"
    ):
        checked(model)
