"""Tiny models of many architectures, and for each where its parts are, written down by hand.

The package must find by itself what is said here; the two share no code.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import tiny
import torch
import transformers as hf

LAYERS, WIDTH, VOCABULARY = 3, 32, 100
LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FEW = {k: v for k, v in LLAMA_LIKE.items() if k != "num_key_value_heads"}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
MLA["num_key_value_heads"] = 4
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
LINEAR["shared_expert_intermediate_size"] = 24
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8}


@dataclass(frozen=True)
class Architecture:
    """A builder, and where `decoder` (from the model) keeps its parts, as dotted paths."""

    config: Callable[..., hf.PretrainedConfig]
    decoder: str = "model"
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda z: z

    def build(self, seed=0, **fields):
        torch.manual_seed(seed)
        model = tiny.randomize(hf.AutoModelForCausalLM.from_config(self.config(**fields)), seed)
        if hasattr(model, "set_experts_implementation"):  # transformers 4.57 has one implementation
            model.set_experts_implementation("eager")  # the reference runs in float64, the fused kernels do not
        return model

    def layers_of(self, model):
        return model.get_submodule(f"{self.decoder}.{self.layers}")

    def norm_of(self, model):
        return model.get_submodule(f"{self.decoder}.{self.norm}")

    def head_of(self, model):
        return model.get_submodule(self.head)


def _like_llama(config_class, base=LLAMA_LIKE, **fields):
    return lambda **more: config_class(**{**base, **fields, **more})


def _gpt2(config_class, **fields):
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY}
    return lambda **more: config_class(**{**sizes, **fields, **more}, bos_token_id=1, eos_token_id=2)


def _falcon(**fields):
    return _like_llama(hf.FalconConfig, FEW, alibi=False, bias=False, **fields)


def _cap(cap):
    return lambda z: cap * torch.tanh(z / cap)


def _opt():
    return hf.OPTConfig(
        **{k: v for k, v in FEW.items() if k != "intermediate_size"}, ffn_dim=48, word_embed_proj_dim=WIDTH
    )


def _bloom():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4}
    return hf.BloomConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def _mamba(config_class, **fields):
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4}
    return lambda: config_class(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2, **fields)


def _newer(config_name, make):
    """`make(config class)`; nothing where transformers is older than the architecture."""
    return make(getattr(hf, config_name)) if hasattr(hf, config_name) else {}


def _gemma3():
    eye = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    eye = {**eye, "image_size": 16, "patch_size": 8}
    text = hf.Gemma3TextConfig(**LLAMA_LIKE, **GEMMA2)
    return hf.Gemma3Config(text_config=text, vision_config=eye, mm_tokens_per_image=4)


GEMMA2 = {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
WEIGHTLESS = ("olmo", "nanochat")  # their norms have no parameters
TRANSFORMER = {"decoder": "transformer", "layers": "h", "norm": "ln_f"}
ARCHITECTURES = {
    "llama": Architecture(_like_llama(hf.LlamaConfig)),
    "llama-tied": Architecture(_like_llama(hf.LlamaConfig, tie_word_embeddings=True)),
    "mistral": Architecture(_like_llama(hf.MistralConfig, sliding_window=8)),
    "qwen2": Architecture(_like_llama(hf.Qwen2Config)),
    "qwen2-tied": Architecture(_like_llama(hf.Qwen2Config, tie_word_embeddings=True)),
    "qwen3": Architecture(_like_llama(hf.Qwen3Config, head_dim=8)),
    "gemma": Architecture(_like_llama(hf.GemmaConfig, head_dim=8)),
    "gemma2": Architecture(_like_llama(hf.Gemma2Config, **GEMMA2, final_logit_softcapping=5.0), finish=_cap(5.0)),
    "gemma2-uncapped": Architecture(_like_llama(hf.Gemma2Config, **GEMMA2, final_logit_softcapping=None)),
    "gemma3-text": Architecture(_like_llama(hf.Gemma3TextConfig, **GEMMA2)),
    "gemma3-text-capped": Architecture(
        _like_llama(hf.Gemma3TextConfig, **GEMMA2, final_logit_softcapping=5.0), finish=_cap(5.0)
    ),
    "phi3": Architecture(_like_llama(hf.Phi3Config)),
    "phi": Architecture(_like_llama(hf.PhiConfig), norm="final_layernorm"),
    "gpt2": Architecture(_gpt2(hf.GPT2Config), **TRANSFORMER),
    "gpt-bigcode": Architecture(_gpt2(hf.GPTBigCodeConfig), **TRANSFORMER),
    "gptj": Architecture(_gpt2(hf.GPTJConfig, rotary_dim=4), **TRANSFORMER),
    "gpt-neox": Architecture(_like_llama(hf.GPTNeoXConfig, FEW), decoder="gpt_neox", norm="final_layer_norm"),
    "opt": Architecture(_opt, decoder="model.decoder", norm="final_layer_norm"),
    "falcon-old": Architecture(_falcon(new_decoder_architecture=False, multi_query=True), **TRANSFORMER),
    "falcon-new": Architecture(_falcon(new_decoder_architecture=True, num_kv_heads=2), **TRANSFORMER),
    "bloom": Architecture(_bloom, **TRANSFORMER),
    "granite": Architecture(
        _like_llama(hf.GraniteConfig, logits_scaling=8.0, embedding_multiplier=3.0, residual_multiplier=0.5),
        finish=lambda z: z / 8.0,
    ),
    "cohere": Architecture(_like_llama(hf.CohereConfig, logit_scale=0.0625), finish=lambda z: z * 0.0625),
    "cohere2": Architecture(
        _like_llama(hf.Cohere2Config, logit_scale=0.25, sliding_window=8), finish=lambda z: z * 0.25
    ),
    "olmo": Architecture(_like_llama(hf.OlmoConfig)),
    "olmo2": Architecture(_like_llama(hf.Olmo2Config)),
    "stablelm": Architecture(_like_llama(hf.StableLmConfig)),
    "starcoder2": Architecture(_like_llama(hf.Starcoder2Config)),
    "nemotron": Architecture(_like_llama(hf.NemotronConfig)),
    "smollm3": Architecture(_like_llama(hf.SmolLM3Config)),
    "glm": Architecture(_like_llama(hf.GlmConfig, head_dim=8)),
    "glm4": Architecture(_like_llama(hf.Glm4Config, head_dim=8)),
    "llama4": Architecture(
        _like_llama(
            hf.Llama4TextConfig, intermediate_size_mlp=48, head_dim=8, num_local_experts=2, num_experts_per_tok=1
        )
    ),
    "mixtral": Architecture(_like_llama(hf.MixtralConfig, num_local_experts=4)),
    "qwen3-moe": Architecture(_like_llama(hf.Qwen3MoeConfig, **MOE, head_dim=8, num_experts=4)),
    **_newer(
        "HyperCLOVAXConfig",
        lambda c: {"hyperclovax": Architecture(_like_llama(c, logits_scaling=0.5), finish=lambda z: z * 0.5)},
    ),
    **_newer(
        "MiniCPM3Config",
        lambda c: {"minicpm3": Architecture(_like_llama(c, FEW, **MLA, dim_model_base=8), finish=lambda z: z / 4.0)},
    ),
    "recurrent-gemma": Architecture(
        _like_llama(hf.RecurrentGemmaConfig, logits_soft_cap=5.0), finish=_cap(5.0), norm="final_norm"
    ),
    **_newer(
        "NanoChatConfig",
        lambda c: {"nanochat": Architecture(_like_llama(c, final_logit_softcapping=5.0), finish=_cap(5.0))},
    ),
    "mpt": Architecture(
        lambda: hf.MptConfig(d_model=32, n_heads=4, n_layers=3, vocab_size=100, max_seq_len=128),
        decoder="transformer",
        layers="blocks",
        norm="norm_f",
    ),
    "gpt-oss": Architecture(
        _like_llama(hf.GptOssConfig, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8)
    ),
    "olmo3": Architecture(_like_llama(hf.Olmo3Config, sliding_window=8)),
    "qwen3-next": Architecture(_like_llama(hf.Qwen3NextConfig, **MOE, **LINEAR, head_dim=8, num_experts=4)),
    "deepseek3": Architecture(
        _like_llama(hf.DeepseekV3Config, FEW, **MOE, **MLA, n_routed_experts=4, n_group=1, topk_group=1)
    ),
    "gemma3": Architecture(_gemma3, decoder="model.language_model"),
    "mamba2": Architecture(
        _mamba(hf.Mamba2Config, num_heads=8, head_dim=8, n_groups=2, expand=2, chunk_size=8),
        decoder="backbone",
        norm="norm_f",
    ),
    "exaone4": Architecture(_like_llama(hf.Exaone4Config, sliding_window=8)),
    "granite-moe": Architecture(
        _like_llama(hf.GraniteMoeConfig, logits_scaling=8.0, num_local_experts=4), finish=lambda z: z / 8.0
    ),
    "mamba": Architecture(_mamba(hf.MambaConfig), decoder="backbone", norm="norm_f"),
    "falcon-h1": Architecture(
        _like_llama(hf.FalconH1Config, **MAMBA, head_dim=8, lm_head_multiplier=0.5),
        norm="final_layernorm",
        finish=lambda z: z * 0.5,
    ),
}
if tiny.OLD_TRANSFORMERS:
    ARCHITECTURES["gpt-neox"] = dataclasses.replace(ARCHITECTURES["gpt-neox"], head="embed_out")
    del ARCHITECTURES["mpt"]  # its mask overflows in float64, which the reference runs in

DEPTH = 9  # a late window of three layers
DEEP = {
    "llama": {"num_hidden_layers": DEPTH},
    "gpt2": {"n_layer": DEPTH},
    # In float64 its attention makes NaN of a padding token all of whose window is padding.
    "gemma2": {"num_hidden_layers": DEPTH, "sliding_window": 64},
}


def deep(name="llama", dtype=torch.float64, seed=0):
    return ARCHITECTURES[name].build(seed, **DEEP[name]).to(dtype)


def perturbed(model, size=0.02, seed=3):
    """The same object, with other weights: what training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator).to(p) * size)
    return model
