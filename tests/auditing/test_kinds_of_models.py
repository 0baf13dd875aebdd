"""Checkpoints that are not plain decoders: vision-language wrappers, quantized ones; read, or refused by name."""

import importlib.util
import json

import pytest
import reference
import saved
import tiny
import torch
import transformers as hf

from spinal_callback import audit

PROMPTS = [f"w{i} w{i + 1}" for i in range(20)]
TEXT = {
    "vocab_size": 110,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EYE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
QWEN_EYE = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 16}
QWEN_TOKENS = {"image_token_id": 109, "video_token_id": 108, "vision_start_token_id": 107}
WRAPPERS = {
    "llava": lambda: hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**EYE), image_token_index=109
    ),
    "qwen2.5-vl": lambda: hf.Qwen2_5_VLConfig(
        text_config=TEXT | ROPE, vision_config={**QWEN_EYE, "patch_size": 8}, **QWEN_TOKENS
    ),
    "smolvlm": lambda: hf.SmolVLMConfig(
        text_config=hf.LlamaConfig(**TEXT), vision_config=EYE, image_token_id=109, scale_factor=2
    ),
    "gemma3": lambda: hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
        vision_config=EYE,
        mm_tokens_per_image=4,
        image_token_index=109,
    ),
}


def wrapper(folder, config, dtype=torch.float64):
    model = tiny.randomize(hf.AutoModelForImageTextToText.from_config(config)).to(dtype)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model


OTHERWISE = pytest.mark.skipif(
    tiny.OLD_TRANSFORMERS, reason="before 5.0 it spells `rope`, or names its parts, otherwise"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=OTHERWISE if name in ("qwen2.5-vl", "smolvlm") else ()) for name in WRAPPERS]
)
def test_a_vision_language_model_is_read_by_its_language_model(tmp_path, name):
    model = wrapper(tmp_path, WRAPPERS[name]())
    reading = audit(tmp_path, prompts=PROMPTS).readings[0]
    ids = [tiny.tokenizer()(text)["input_ids"] for text in PROMPTS]
    language = model.model.language_model if hasattr(model.model, "language_model") else model.model.text_model
    parts = [lambda m, path=path: m.get_submodule(path) for path in places(model, language)]
    seen = reference.reference_trace(model, ids, *parts)
    assert reading.alpha == pytest.approx([reference.tail_exponent(h)[0] for h in seen["h"]], rel=1e-5)
    assert reading.transport == pytest.approx(reference.transport(seen["z"]).mean(1), abs=1e-5)


def places(model, language):
    """Where the layers, the final norm and the head are, as dotted paths from the whole model."""
    (inner,) = [name for name, module in model.named_modules() if module is language]
    return f"{inner}.layers", f"{inner}.norm", "lm_head"


def test_a_wrapper_whose_language_model_looks_ahead_is_refused_by_name(tmp_path):
    text, eye = hf.GemmaConfig(**TEXT, head_dim=8).to_dict(), hf.SiglipVisionConfig(**EYE).to_dict()
    wrapper(tmp_path, hf.PaliGemmaConfig(text_config=text, vision_config=eye, image_token_index=109), torch.float32)
    with pytest.raises(ValueError, match="PaliGemmaForConditionalGeneration is not causal: a later token changed"):
        audit(tmp_path, prompts=PROMPTS)


def test_an_encoder_decoder_is_refused_by_name(tmp_path):
    config = hf.T5Config(vocab_size=110, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot load .*T5Config"):
        audit(tmp_path, prompts=PROMPTS)


# --- quantized


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return saved.policy(tmp_path_factory.mktemp("plain"), tiny.llama(width=64))


BITS = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "int8": {"load_in_8bit": True}}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install it")
@pytest.mark.parametrize("name", BITS)
def test_a_checkpoint_of_bitsandbytes_is_read(plain, tmp_path, name):
    config = hf.BitsAndBytesConfig(**BITS[name])
    model = hf.AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, device_map="cpu")
    model.save_pretrained(tmp_path / "small")
    tiny.tokenizer().save_pretrained(tmp_path / "small")
    found = audit(tmp_path / "small", plain, PROMPTS)
    assert 0 < found.readings[1].displacement < {"nf4": 1.5, "int8": 0.2}[name]  # four bits of random weights are few
    assert found.readings[1].late["alpha"] == pytest.approx(found.readings[0].late["alpha"], rel=0.2)
    words = "the weights of layer 1 are quantized and have no gradients; pairs need the checkpoint as it was before"
    with pytest.raises(ValueError, match=words):
        audit(tmp_path / "small", prompts=PROMPTS, pairs=[{"prompt": "w1", "chosen": " w2", "rejected": " w3"}])


LIBRARIES = {"gptq": {"bits": 4, "group_size": 32}, "awq": {"bits": 4, "group_size": 32, "zero_point": True}}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_quantization_whose_library_is_missing_is_refused_by_name(plain, tmp_path, name):
    saved.policy(tmp_path, tiny.llama(width=64))
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": name, **LIBRARIES[name]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = rf"is quantized with {name}, which cannot be loaded here \(.*\): give the checkpoint as it was before it"
    with pytest.raises(ValueError, match=words):
        audit(tmp_path, prompts=PROMPTS)
