"""What becomes a model and what does not, GGUF files and adapters included; weights kept on the disk."""

import json
import shutil

import pytest
import saved
import tiny
import torch
from architectures import perturbed

from spinal_callback.auditing.checkpoints import Checkpoint, entrance, find
from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe
from spinal_callback.probe.prompts import PromptSet

IDS = torch.tensor([tiny.prompts(1)[0]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved.policy(tmp_path_factory.mktemp("models") / "base")


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


# --- what there is


def test_a_folder(base):
    found = find(base)
    assert found == Checkpoint("base", str(base))
    model = found.load()
    assert not model.training and torch.equal(logits(model), logits(tiny.llama()))
    assert found.tokenizer()("w1 w2")["input_ids"] == tiny.tokenizer()("w1 w2")["input_ids"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_precision_is_that_of_the_checkpoint(tmp_path, dtype):
    saved.policy(tmp_path / "model", tiny.llama().to(dtype))
    assert {p.dtype for p in find(tmp_path / "model").load().parameters()} == {dtype}


def test_a_gguf_file(tmp_path):
    found = find(saved.gguf(tmp_path / "tiny.gguf", tiny.llama()))
    assert found.name == "tiny.gguf"
    assert torch.equal(logits(found.load()), logits(tiny.llama()))
    if not tiny.OLD_TRANSFORMERS:  # before 5.0 it cannot read a tokenizer of a single merge
        assert found.tokenizer()("ab")["input_ids"] == [94]


def test_an_adapter_names_its_base(tmp_path, base):
    found = find(saved.adapter(tmp_path / "adapter", base))
    assert found == Checkpoint("adapter", str(base), str(tmp_path / "adapter"))
    model = found.load()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny.llama()))
    assert (logits(model) - logits(tiny.llama())).abs().max() > 1e-2
    assert found.tokenizer() is not None  # the base's


def test_an_adapter_on_another_base(tmp_path, base):
    other = saved.policy(tmp_path / "other", perturbed(tiny.llama()))
    found = find(other, saved.adapter(tmp_path / "adapter", base))
    assert found == Checkpoint("other + adapter", str(other), str(tmp_path / "adapter"))
    with (model := found.load()).disable_adapter():
        assert torch.equal(logits(model), logits(perturbed(tiny.llama())))


def test_the_adapter_that_training_began_with_is_loaded_beside(tmp_path, base):
    saved.adapter(tmp_path / "adapter", base)
    saved.adapter(tmp_path / "adapter" / "ref", base, seed=1)
    model = find(tmp_path / "adapter").load()
    assert set(model.peft_config) == {"default", "ref"} and model.active_adapter == "default"


def test_names_are_short(tmp_path):
    folder = saved.policy(tmp_path / "run" / "checkpoint-20")
    assert find(folder).name == "run/checkpoint-20"


# --- what is none


def without(*names):
    """A folder with a model of which some files are missing."""

    def make(tmp_path, base):
        folder = shutil.copytree(base, tmp_path / "model")
        for name in names:
            (folder / name).unlink()
        return folder

    return make


def a_file(tmp_path, base):
    (tmp_path / "model").write_text("hello")
    return tmp_path / "model"


def an_adapter(**config):
    def make(tmp_path, base):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(config))
        return tmp_path / "model"

    return make


def a_trace_alone(tmp_path, base):
    (tmp_path / "model" / "_spinal").mkdir(parents=True)
    (tmp_path / "model" / "_spinal" / "trace.jsonl").write_text("")
    return tmp_path / "model"


def broken_adapter(tmp_path, base):
    folder = an_adapter()(tmp_path, base)
    (folder / "adapter_config.json").write_text("[1")
    return folder


NONE = {
    "nowhere": (lambda tmp_path, base: tmp_path / "model", "there is no .*model: give a model's folder, a hub id or a"),
    "file": (a_file, "model is a file, but not a GGUF file: give a model's folder, a hub id or a GGUF file"),
    "empty": (without("config.json"), "model holds no model: no config.json, no adapter_config.json, no checkpoint-N$"),
    "no_weights": (without("model.safetensors"), "holds no model: it has a config.json, but no weights"),
    "trace": (a_trace_alone, r"no checkpoint-N \(to see its trace: spinal report .*model\)"),
    "no_base": (an_adapter(), "model is an adapter, but its adapter_config.json names no base model: give the base"),
    "gguf": (lambda tmp_path, base: "missing.gguf", "there is no missing.gguf: give a model's folder, a hub id or"),
    "gone": (
        an_adapter(base_model_name_or_path="/gone/base"),
        "but its base model /gone/base does not exist: give",
    ),
    "damaged": (broken_adapter, "adapter_config.json is damaged: not a JSON object"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_model_is_seen_before_anything_is_loaded(tmp_path, base, name):
    make, words = NONE[name]
    with pytest.raises(ValueError, match=words):
        find(make(tmp_path, base))


def test_one_adapter_at_a_time(tmp_path, base):
    folder = saved.adapter(tmp_path / "adapter", base)
    with pytest.raises(
        ValueError, match="adapter is itself an adapter: give its base model as MODEL, with one adapter"
    ):
        find(folder, folder)
    with pytest.raises(ValueError, match=r"base is not an adapter: it has no adapter_config.json"):
        find(base, base)


def test_weights_that_are_missing_are_not_made_up(tmp_path, base):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(base, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name in (
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight",
    ):
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    words = "model is incomplete: missing weights lm_head.weight, model.embed_tokens.weight, .* and 1 more"
    with pytest.raises(ValueError, match=words):
        find(folder).load()


def test_a_torn_file_is_one_sentence(tmp_path, base):
    folder = shutil.copytree(base, tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"^model: cannot load .*model \(.+\)$") as caught:
        find(folder).load()
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_shape(tmp_path, base):
    wide = saved.policy(tmp_path / "wide", tiny.llama(width=64))
    with pytest.raises(ValueError, match=r"base \+ adapter: cannot add the adapter to .*base \(.+\)"):
        find(base, saved.adapter(tmp_path / "adapter", wide)).load()


def test_an_adapter_with_weights_missing(tmp_path, base):
    from safetensors.torch import load_file, save_file

    file = saved.adapter(tmp_path / "adapter", base) / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"adapter does not fit .*base: adapter weights are missing"):
        find(tmp_path / "adapter").load()


def test_what_needs_a_library_says_which(tmp_path, base, monkeypatch):
    found = find(saved.gguf(tmp_path / "tiny.gguf", tiny.llama()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tiny.gguf is a GGUF file, which needs gguf: pip install gguf"):
        found.load()
    monkeypatch.undo()
    adapted = find(saved.adapter(tmp_path / "adapter", base))
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match="adapter is an adapter, which needs peft: pip install peft"):
        adapted.load()


def test_no_tokenizer_is_not_made_up(tmp_path):
    assert find(saved.policy(tmp_path / "model", tokenizer=False)).tokenizer() is None


def test_a_damaged_tokenizer_is_not_taken_for_none(tmp_path):
    folder = saved.policy(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"^model: cannot load the tokenizer \(.+\)$"):
        find(folder).tokenizer()


def test_a_checkpoints_own_code_is_refused_without_a_question(tmp_path):
    folder = saved.policy(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ValueError, match=r"^model: cannot load .*model \(.* contains custom code .*\)$"):
        find(folder).load()


def test_the_adapter_of_a_missing_base_is_told_apart_from_a_missing_adapter(tmp_path, base):
    folder = an_adapter(base_model_name_or_path="nobody/nothing")(tmp_path, base)
    words = r"is an adapter, but its base model is missing \(nobody/nothing: no such folder, and not found on the hub"
    with pytest.raises(ValueError, match=words):
        find(folder)


# --- too large for one device


def spread(last="disk"):
    """Everything behind layer 4 on the disk, the final norm and the head too."""
    front = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu"}
    layers = {f"model.layers.{i}": "cpu" if i < 4 else "disk" for i in range(9)}
    return front | layers | {"model.norm": last, "lm_head": last}


def read(model, device=None, **fields):
    prompts = tiny.prompts(24)
    probe = Probe(model, PromptSet(prompts, [0] * 24), SpinalConfig(num_prompts=24, **fields), device=device)
    first = probe.read(0)
    return first, probe.read(1), probe.reference


@pytest.mark.parametrize("fields", [{}, {"top_k": 5}])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_on_the_disk_give_the_same_numbers(tmp_path, tied, fields):
    if tied and tiny.OLD_TRANSFORMERS:
        pytest.skip("before 5.0 transformers cannot run a model with tied weights on the disk")
    model = tiny.llama(tie_word_embeddings=tied)
    found = find(saved.policy(tmp_path / "model", model))
    model = found.load("cpu")
    away = found.load(spread() | ({"model.embed_tokens": "disk"} if tied else {}), str(tmp_path / "offload"))
    assert {p.device.type for p in away.model.layers[8].parameters()} == {"meta"}
    assert away.lm_head.weight.device.type == "meta" and away.model.norm.weight.device.type == "meta"
    (here, again, start), (there, twice, begin) = read(model, **fields), read(away, entrance(away), **fields)
    assert (here.alpha, here.transport, here.late) == (there.alpha, there.transport, there.late)
    assert torch.equal(start.logits, begin.logits) and again.displacement == twice.displacement == 0
    assert away.lm_head.weight.device.type == "meta"  # and left there


def test_auto_places_a_small_model_whole(base):
    model = find(base).load("auto")
    assert entrance(model) == next(model.parameters()).device
