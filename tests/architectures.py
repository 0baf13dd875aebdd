"""Tiny models of many architectures, and for each where its parts are, written down by hand.

The package must find by itself what is said here; the two share no code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf

from . import tiny

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


@dataclass(frozen=True)
class Architecture:
    """A builder, and where `decoder` (from the model) keeps its parts, as dotted paths."""

    config: Callable[[], hf.PretrainedConfig]
    decoder: str = "model"
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda z: z
    scale: float = 0.2  # of the random weights

    def build(self, seed=0):
        torch.manual_seed(seed)
        return tiny.randomize(hf.AutoModelForCausalLM.from_config(self.config()), seed, self.scale)

    def layers_of(self, model):
        return model.get_submodule(f"{self.decoder}.{self.layers}")

    def norm_of(self, model):
        return model.get_submodule(f"{self.decoder}.{self.norm}")

    def head_of(self, model):
        return model.get_submodule(self.head)


def _like_llama(config_class, base=LLAMA_LIKE, **fields):
    return lambda: config_class(**{**base, **fields})


def _gpt2(config_class, **fields):
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY}
    return lambda: config_class(**sizes, bos_token_id=1, eos_token_id=2, **fields)


def _falcon(**fields):
    return _like_llama(hf.FalconConfig, FEW, alibi=False, bias=False, **fields)


def _cap(cap):
    return lambda z: cap * torch.tanh(z / cap)


def _opt():
    return hf.OPTConfig(**{k: v for k, v in FEW.items() if k != "intermediate_size"}, ffn_dim=48, word_embed_proj_dim=WIDTH)


def _bloom():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4}
    return hf.BloomConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def _mamba(config_class, **fields):
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4}
    return lambda: config_class(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2, **fields)


GEMMA2 = {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
TRANSFORMER = {"decoder": "transformer", "layers": "h", "norm": "ln_f"}
ARCHITECTURES = {
    "llama": Architecture(_like_llama(hf.LlamaConfig)),
    "llama-tied": Architecture(_like_llama(hf.LlamaConfig, tie_word_embeddings=True)),
    "mistral": Architecture(_like_llama(hf.MistralConfig, sliding_window=8)),
    "qwen2": Architecture(_like_llama(hf.Qwen2Config)),
    "qwen2-tied": Architecture(_like_llama(hf.Qwen2Config, tie_word_embeddings=True)),
    "qwen3": Architecture(_like_llama(hf.Qwen3Config, head_dim=8)),
    "gemma": Architecture(_like_llama(hf.GemmaConfig, head_dim=8)),
    "gemma2": Architecture(
        _like_llama(hf.Gemma2Config, **GEMMA2, final_logit_softcapping=5.0), finish=_cap(5.0)
    ),
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
    "gpt-neox": Architecture(
        _like_llama(hf.GPTNeoXConfig, FEW), decoder="gpt_neox", norm="final_layer_norm", head="embed_out"
    ),
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
    "olmo": Architecture(_like_llama(hf.OlmoConfig)),  # its norms have no parameters
    "olmo2": Architecture(_like_llama(hf.Olmo2Config)),
    "stablelm": Architecture(_like_llama(hf.StableLmConfig)),
    "starcoder2": Architecture(_like_llama(hf.Starcoder2Config)),
    "nemotron": Architecture(_like_llama(hf.NemotronConfig)),
    "smollm3": Architecture(_like_llama(hf.SmolLM3Config)),
    "glm": Architecture(_like_llama(hf.GlmConfig, head_dim=8)),
    "glm4": Architecture(_like_llama(hf.Glm4Config, head_dim=8)),
    "mixtral": Architecture(_like_llama(hf.MixtralConfig, num_local_experts=4)),
    "qwen3-moe": Architecture(_like_llama(hf.Qwen3MoeConfig, **MOE, head_dim=8, num_experts=4)),
    "mamba": Architecture(_mamba(hf.MambaConfig), decoder="backbone", norm="norm_f"),
    "falcon-h1": Architecture(
        _like_llama(hf.FalconH1Config, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4,
                    mamba_chunk_size=8, lm_head_multiplier=0.5),
        norm="final_layernorm", finish=lambda z: z * 0.5,
    ),
}
