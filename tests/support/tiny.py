"""Tiny models, a tokenizer, preference data and a trainer's settings, made on the spot: no hub, no files."""

import hashlib
import random
from importlib.metadata import version

import torch
from datasets import Dataset
from packaging.version import Version
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

WORDS = [f"w{i}" for i in range(90)]
# Before 0.29 TRL names other columns, adds a token to the end of answers, and keeps no copy of a user's adapter.
OLD_TRL = Version(version("trl")) < Version("0.29")
OLD_TRANSFORMERS = Version(version("transformers")) < Version("5.0")
NEW_NAME = hasattr(TrainingArguments, "activation_checkpointing")  # since transformers 5.24
CHECKPOINTING = "activation_checkpointing" if NEW_NAME else "gradient_checkpointing"
SETTINGS = {  # of a trainer that runs for seconds on a CPU and is silent
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    CHECKPOINTING: False,
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "dataloader_pin_memory": False,
}
DPO_SETTINGS = {**SETTINGS, "max_length": 64, "disable_dropout": False}
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def ids_of(row, part):
    """The token ids of "prompt", "chosen" or "rejected" in a row as TRL tokenizes it."""
    return row[f"{part}_input_ids" if OLD_TRL else f"{part}_ids"]


def randomize(model, seed=0, scale=0.2):
    """Random weights everywhere, norms too: with norm weights of one, applying a norm twice would go unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 and "bias" not in name:
                p.copy_(0.5 + torch.rand(p.shape, generator=generator))
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return model.eval()


def llama(layers=9, width=32, vocabulary=100, seed=0, **fields):
    """A Llama with a late window of three layers, deep enough for every measure."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **fields,
    )
    return randomize(LlamaForCausalLM(config), seed)


def digest(weights):
    """SHA-256 of a state dict: every weight and buffer, of whatever dtype."""
    sha = hashlib.sha256()
    for name, tensor in weights.items():
        if isinstance(tensor, torch.Tensor):
            sha.update(name.encode() + tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def lora(**fields):
    """Adapters at two projections of each layer, or where told."""
    from peft import LoraConfig

    settings = {"r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return LoraConfig(**settings | fields)


def tokenizer(chat=True):
    """One token a word, with a chat template unless told otherwise."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>", "<end>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],  # transformers 4.57 adds one that no Llama takes
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def prompts(count=24, seed=0, longest=20, vocabulary=98):
    """Token ids, no two alike, of lengths 3 to `longest`."""
    draw = random.Random(seed)
    return [[draw.randrange(8, vocabulary) for _ in range(draw.randrange(3, longest))] for _ in range(count)]


def _words(draw, least, most):
    return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(least, most)))


def preferences(count=48, seed=0):
    """A preference data set in TRL's conversational form."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": [{"role": "user", "content": _words(draw, 3, 12)}],
            "chosen": [{"role": "assistant", "content": _words(draw, 3, 10)}],
            "rejected": [{"role": "assistant", "content": _words(draw, 3, 10)}],
        }
        for _ in range(count)
    ]
    return Dataset.from_list(rows)
