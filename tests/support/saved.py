"""Tiny policies on disk, as people keep them: folders, adapters, a GGUF file, a prompts file, a run's checkpoints."""

import json
import random

import tiny
import torch
from architectures import perturbed
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from spinal_callback import audit

PARTS = (lambda m: m.model.layers, lambda m: m.model.norm, lambda m: m.lm_head)


def models(folder):
    """Fills a folder with `base`, `new` (other late layers), `adapter` (of the base) and `prompts.jsonl`."""
    policy(folder / "base")
    policy(folder / "new", aligned())
    adapter(folder / "adapter", folder / "base")
    prompts_file(folder / "prompts.jsonl")
    return folder


def read(place, model, base=None, **fields):
    """The audit of a model in `place`, a folder that `models` has filled."""
    return audit(place / model, place / base if base else None, place / "prompts.jsonl", **fields)


def policy(folder, model=None, tokenizer=True):
    """A folder with a whole model in it."""
    (model or tiny.llama()).save_pretrained(folder)
    if tokenizer:
        tiny.tokenizer().save_pretrained(folder)
    return folder


def reads_bytes(folder):
    """A folder with a whole model of nine layers that reads any text, as the recipes' own data are English."""
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(tokenizer_models.BPE({token: i for i, token in enumerate(special + alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = tiny.CHAT_TEMPLATE
    fast.save_pretrained(folder)
    tiny.llama(vocabulary=len(fast)).save_pretrained(folder)
    return folder


def aligned(late=(6, 7, 8), size=0.1, seed=3):
    """The base policy with other weights in some of its layers (numbers from 0)."""
    model = tiny.llama()
    for i in late:
        perturbed(model.model.layers[i], size, seed + i)
    return model


def adapter(folder, base, seed=0, **fields):
    """A PEFT adapter of the policy in the folder `base`, not the identity."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), tiny.lora(init_lora_weights=False, **fields))
    model.save_pretrained(folder)
    return folder


def prompts_file(path, count=40, seed=0):
    """JSON lines of chat messages, all words known to the tokenizer."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choice(tiny.WORDS) for _ in range(draw.randrange(3, 12))) for _ in range(count)]
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def token_ids(path, count=64):
    """What the tokenizer with its chat template makes of a prompts file."""
    tokenizer = tiny.tokenizer()
    rows = [json.loads(line)["prompt"] for line in path.read_text().splitlines()][:count]
    return [
        list(tokenizer.apply_chat_template(row, add_generation_prompt=True, return_dict=True)["input_ids"])
        for row in rows
    ]


def gguf(path, model):
    """A Llama with a byte-level tokenizer, written with the gguf library; rotary halves interleaved, as is usual."""
    import gguf as library

    c, w = model.config, model.state_dict()
    out = library.GGUFWriter(path, "llama")
    out.add_context_length(256)
    out.add_embedding_length(c.hidden_size)
    out.add_block_count(c.num_hidden_layers)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(c.num_attention_heads)
    out.add_head_count_kv(c.num_key_value_heads)
    out.add_rope_freq_base(c.rope_theta if tiny.OLD_TRANSFORMERS else c.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_vocab_size(c.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    letters = [*(chr(i) for i in range(33, 127)), "ab"]
    out.add_token_list([*letters, *(f"<{i}>" for i in range(c.vocab_size - len(letters)))])
    out.add_token_types([1] * c.vocab_size)
    out.add_token_merges(["a b"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }
    for name, tensor in w.items():
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        out.add_tensor(name, tensor.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path
