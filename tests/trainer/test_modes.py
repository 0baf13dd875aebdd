"""Every way to run DPO in one process: training is left exactly as it was, and an adapter run's reference is right.

Twins: the same run with the callback and without has the same final weights and the same log.
"""

import importlib.util

import pytest
import tiny
import torch
import twins
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback

from spinal_callback import MemorySink
from spinal_callback.config import SpinalConfig
from spinal_callback.probe.model_parts import without_adapters
from spinal_callback.probe.sampler import Sampler
from spinal_callback.trainer.schedule import Clock


def lora(**fields):
    return LoraConfig(**{"r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], **fields})


def made_by_trl(**fields):
    return lambda: {"trainer": {"ref_model": None, "peft_config": lora(**fields)}}


def users_own(**fields):
    """An adapter that is not the identity: TRL keeps a copy of it as "ref"."""
    return lambda: {
        "model": get_peft_model(twins.policy(), lora(init_lora_weights=False, **fields)),
        "trainer": {"ref_model": None},
    }


def checkpointed(**kwargs):
    return {tiny.CHECKPOINTING: True, f"{tiny.CHECKPOINTING}_kwargs": kwargs}


MODES = {
    "full": dict,
    "lora": made_by_trl(),
    "users_own": users_own(),
    "modules_to_save": made_by_trl(modules_to_save=["lm_head", "norm"]),
    "users_own_modules_to_save": users_own(modules_to_save=["lm_head", "norm"]),
    "dora": made_by_trl(use_dora=True),
    "checkpointing": lambda: checkpointed(use_reentrant=False),
    "checkpointing_reentrant": lambda: checkpointed(use_reentrant=True),
    "checkpointing_lora": lambda: {**made_by_trl()(), **checkpointed(use_reentrant=False)},
    "checkpointing_reentrant_lora": lambda: {**made_by_trl()(), **checkpointed(use_reentrant=True)},
    "bf16": lambda: {"bf16": True},
    "bf16_lora": lambda: {**made_by_trl()(), "bf16": True},
    "bf16_weights": lambda: {"model": twins.policy().bfloat16()},
    "precomputed_reference": lambda: {"precompute_ref_log_probs": True, "trainer": {"ref_model": None}},
    "synchronized_reference": lambda: {"sync_ref_model": True, "ref_model_sync_steps": 2},
}
ADAPTERS = ["lora", "users_own", "modules_to_save", "users_own_modules_to_save", "dora", "bf16_lora"]


def run(folder, made, *callbacks, train=twins.dpo):
    """Trains; the trainer and its outcome. Adapters are drawn anew, the same each time."""
    torch.manual_seed(0)
    trainer = train(folder, *callbacks, **made())
    return trainer, twins.outcome(trainer)


def check_twins(tmp_path, made, displaced=False, **settings):
    memory = MemorySink()
    _, without = run(tmp_path / "without", made, **settings)
    trainer, with_it = run(tmp_path / "with", made, twins.watcher(memory), **settings)
    assert with_it == without
    assert [r.step for r in memory.readings] == list(range(7))
    displacement = [r.displacement for r in memory.readings]
    assert (displacement[0] > 0) == displaced
    assert all(d > 0 for d in displacement[1:])
    assert all(0 < r.gradient_concentration < 1 for r in memory.readings[1:])
    return trainer


@pytest.mark.parametrize("mode", MODES)
def test_twins(tmp_path, mode):
    check_twins(tmp_path, MODES[mode], displaced=tiny.OLD_TRL and mode.startswith("users_own"))


@pytest.mark.slow
def test_twins_compiled(tmp_path):
    torch._dynamo.reset()
    trainer = check_twins(tmp_path, lambda: {"torch_compile": True})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert trainer.model_wrapped is not trainer.model  # the probe was given the one that is not compiled


def test_twins_lora_on_the_head(tmp_path):
    """With transformers' Trainer: DPOTrainer refuses it. The lens must go through the adapter, not its base weight."""

    def made():
        return {"model": get_peft_model(twins.policy(), lora(target_modules=["q_proj", "lm_head"]))}

    trainer = check_twins(tmp_path, made, train=twins.plain)
    probe = twins.probe_of(trainer)
    ids = torch.tensor([probe.prompts.ids[0]])
    with torch.no_grad():
        last = trainer.model.eval()(input_ids=ids).logits[0, -1]
    assert probe.sampler.sample().logits[0] == pytest.approx(last, abs=1e-5)
    with torch.no_grad(), trainer.model.disable_adapter():
        assert (trainer.model(input_ids=ids).logits[0, -1] - last).abs().max() > 1e-2  # it has learned something


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install it")
@pytest.mark.parametrize("double", [False, True])
def test_twins_qlora(tmp_path, double):
    tiny.llama(layers=5, width=64, attention_dropout=0.2).save_pretrained(tmp_path / "model")
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )

    def made():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=bits, device_map="cpu")
        return {"model": model, "trainer": {"ref_model": None, "peft_config": lora(target_modules="all-linear")}}

    trainer = check_twins(tmp_path, made)
    layer = trainer.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    assert type(layer).__module__.startswith("bitsandbytes")
    assert layer.weight.dtype == torch.uint8


@pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None or not torch.cuda.is_available(),
    reason="needs liger-kernel and a GPU: its Triton kernels have no CPU backend",
)
def test_twins_liger(tmp_path):
    check_twins(tmp_path, lambda: {"use_liger_kernel": True, "use_cpu": False})


# --- the reference of an adapter run


def read_alone(model, prompts):
    """What the probe's prompts look like to a model on its own."""
    return Sampler(model, prompts, SpinalConfig(num_prompts=len(prompts.ids)), None, None).sample()


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.mark.parametrize("mode", ADAPTERS)
def test_training_leaves_the_reference_policy_alone(tmp_path, mode):
    """Read again without a second model after training, `modules_to_save` among what was trained."""
    trainer, _ = run(tmp_path, MODES[mode], twins.watcher())
    probe = twins.probe_of(trainer)
    assert same(probe.sampler.without_adapters(), probe.reference)
    assert not torch.equal(probe.sampler.sample().alpha, probe.reference.alpha)


@pytest.mark.parametrize("mode", ["lora", "modules_to_save", "dora"])
def test_the_reference_of_trls_adapter_is_the_model_without_it(tmp_path, mode):
    trainer, _ = run(tmp_path, MODES[mode], twins.watcher())
    probe = twins.probe_of(trainer)
    assert same(probe.reference, read_alone(twins.policy(), probe.prompts))


@pytest.mark.skipif(tiny.OLD_TRL, reason="before 0.29 TRL's own reference is the model without the user's adapter")
@pytest.mark.parametrize("mode", ["users_own", "users_own_modules_to_save"])
def test_the_reference_of_a_users_adapter_is_the_adapter_as_it_came(tmp_path, mode):
    trainer, _ = run(tmp_path, MODES[mode], twins.watcher())
    probe = twins.probe_of(trainer)
    torch.manual_seed(0)
    assert same(probe.reference, read_alone(MODES[mode]()["model"], probe.prompts))
    assert not torch.equal(probe.reference.alpha, read_alone(twins.policy(), probe.prompts).alpha)


def test_a_trained_adapter_without_trls_copy_is_held_against_the_base_model(tmp_path):
    """transformers' Trainer: the policy is already displaced when training begins."""
    memory = MemorySink()
    trainer, _ = run(tmp_path, lambda: {"model": users_own()()["model"]}, twins.watcher(memory), train=twins.plain)
    probe = twins.probe_of(trainer)
    assert same(probe.reference, read_alone(twins.policy(), probe.prompts))
    assert memory.readings[0].step == 0
    assert memory.readings[0].displacement > 0.1


def adapter_state(model):
    """Everything that switching adapters off and on may change."""
    layers = [m for m in model.modules() if hasattr(m, "_disable_adapters")]
    return (
        {name: (id(p), p.requires_grad) for name, p in model.named_parameters()},
        [(layer._disable_adapters, layer.active_adapters, getattr(layer, "merged_adapters", None)) for layer in layers],
        (model.active_adapter, model.active_adapters),
        [module.training for module in model.modules()],
    )


@pytest.mark.parametrize("with_ref", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_adapters_come_back_as_they_were(with_ref, fails):
    """One LoRA weight is frozen by the user: PEFT alone would let it train after the adapters come back."""
    model = get_peft_model(twins.policy(), lora(modules_to_save=["lm_head"]))
    if with_ref:
        model.add_adapter("ref", lora(modules_to_save=["lm_head"]))
    frozen = next(p for name, p in model.named_parameters() if "lora_A.default" in name)
    frozen.requires_grad_(False)
    model.train()
    before = adapter_state(model)
    try:
        with without_adapters(model) as has_adapters:
            assert has_adapters
            assert (model.active_adapter == "ref") == with_ref
            assert all(m._disable_adapters for m in model.modules() if hasattr(m, "_disable_adapters")) != with_ref
            if fails:
                raise RuntimeError("out of luck")
    except RuntimeError:
        assert fails
    assert adapter_state(model) == before


@pytest.mark.parametrize("mode", ["lora", "users_own_modules_to_save", "dora"])
def test_the_callback_leaves_adapters_as_they_were(tmp_path, mode):
    """The same run's adapters before the first step, with the callback's step-0 probe and reference and without."""

    class Looks(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            self.seen = getattr(self, "seen", None) or adapter_state(model)

    seen = []
    for callbacks in ([], [twins.watcher()]):
        looks = Looks()
        run(tmp_path, MODES[mode], *callbacks, looks)
        flags, *rest = looks.seen
        seen.append(({name: flag for name, (_, flag) in flags.items()}, rest))
    assert seen[0] == seen[1]


def test_the_reading_of_an_adapter_runs_reference_counts_as_time_spent_on_probes(tmp_path, monkeypatch):
    seconds, memory, real = [], MemorySink(), Clock.add_probe

    def add_probe(self, took):
        seconds.append(took)
        return real(self, took)

    monkeypatch.setattr(Clock, "add_probe", add_probe)
    run(tmp_path, MODES["lora"], twins.watcher(memory))
    assert len(seconds) == 1 + 2 * len(memory.readings)  # each reading, and what the sinks took for it
    assert min(seconds) > 0
