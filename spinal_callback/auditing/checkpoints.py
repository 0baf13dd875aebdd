"""Finds a policy's weights (a folder, a hub id, a GGUF file, an adapter) and loads them as a model."""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils.peft_utils import find_adapter_config_file

from ..run_folder import checkpoint_step, trace_path
from .hub import check_on_hub, one_line

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
TOKENIZERS = ("tokenizer*", "vocab*", "spiece.model")
ADAPTER = "adapter_config.json"
GIVE_BASE = "give the base model as MODEL and this adapter with --adapter"


@dataclass(frozen=True)
class Checkpoint:
    """A policy that can be loaded.

    Attributes:
        name: what messages and results call it: the hub id, or the last parts of the path.
        model: folder, hub id or GGUF file with all weights of a model.
        adapter: folder or hub id of a PEFT adapter for that model; empty for none.
    """

    name: str
    model: str
    adapter: str = ""

    def load(self, device_map: Any = "auto", offload: str | None = None) -> Any:
        """The model, in the precision in which it was saved, in evaluation mode. Code that comes with it is never run.

        Args:
            device_map: as `from_pretrained` takes it: "auto" fills the accelerators, then memory, then the disk.
            offload: folder for weights that have to stay on the disk.

        Raises:
            ValueError: it cannot be loaded, or its files lack weights, which transformers would draw at random.
            ImportError: a GGUF file without `gguf` installed, or an adapter without `peft`.
        """
        where, which = self._where(), {"dtype": "auto", "device_map": device_map, "offload_folder": offload}
        quantization = ""
        try:
            config = AutoConfig.from_pretrained(**where)
            quantization = quantization_of(config)
            loaded: Any = _auto_class(config).from_pretrained(**where, **which, output_loading_info=True)
        except Exception as error:  # a torn file, another kind of model, no network: each has a type of its own
            why = one_line(error)
            if quantization and isinstance(error, ImportError | RuntimeError | ValueError):
                raise ValueError(
                    f"{self.name} is quantized with {quantization}, which cannot be loaded here ({why}): give the"
                    " checkpoint as it was before it was quantized, or a GGUF file of it"
                ) from error
            hint = f": {GIVE_BASE}" if self.adapter else ""
            raise ValueError(f"{self.name}: cannot load {self.model} ({why}){hint}") from error
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ValueError(f"{self.name} is incomplete: missing weights {some}")
        return (self._adapted(model) if self.adapter else model).eval()

    def tokenizer(self) -> Any:
        """The adapter's tokenizer, or else the model's; None if neither has one.

        Raises:
            ValueError: the files of a tokenizer are in the folder, but it cannot be loaded.
        """
        for place in filter(None, (self.adapter, self.model)):
            folder = Path(place)
            if folder.is_dir() and not any(next(folder.glob(name), None) for name in TOKENIZERS):
                continue  # transformers would return a tokenizer with an empty vocabulary
            try:
                return AutoTokenizer.from_pretrained(**_place(place))
            except Exception as error:
                if folder.is_dir():
                    raise ValueError(f"{self.name}: cannot load the tokenizer ({one_line(error)})") from error
                # an adapter's repository on the hub often has none
        return None

    def _where(self) -> dict[str, Any]:
        if self.model.endswith(".gguf") and importlib.util.find_spec("gguf") is None:
            raise ImportError(f"{self.name} is a GGUF file, which needs gguf: pip install gguf")
        return _place(self.model)

    def _adapted(self, model: Any) -> Any:
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ImportError(f"{self.name} is an adapter, which needs peft: pip install peft") from error
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                adapted = PeftModel.from_pretrained(model, self.adapter)
                if (Path(self.adapter) / "ref" / ADAPTER).exists():  # TRL saves the adapter that training began with
                    adapted.load_adapter(str(Path(self.adapter) / "ref"), "ref")
            except Exception as error:
                raise ValueError(f"{self.name}: cannot add the adapter to {self.model} ({one_line(error)})") from error
        if any("missing adapter keys" in str(w.message) for w in caught):
            raise ValueError(f"{self.name} does not fit {self.model}: adapter weights are missing")
        return adapted


def find(path: str | Path, adapter: str | Path | None = None) -> Checkpoint:
    """The checkpoint at `path`. Loads no weights: of the hub it reads at most an adapter's configuration.

    Args:
        path: a folder, a hub id, a GGUF file (on the hub `owner/repo/file.gguf`), or an adapter's folder or hub id,
            whose configuration names its base model.
        adapter: folder or hub id of an adapter to add to the model at `path`.

    Raises:
        ValueError: there is no such model or adapter, or an adapter's base is missing; the message says what to give.
    """
    place = str(Path(path).expanduser()) if Path(path).expanduser().exists() else str(path)
    _check_exists(place)
    config = _adapter_config(place)
    if config and adapter is not None:
        raise ValueError(f"{path} is itself an adapter: give its base model as MODEL, with one adapter")
    if config:
        return Checkpoint(_name(place), _base_of(place, config), place)
    if Path(place).is_dir():
        _check_folder(Path(place))
    found = Checkpoint(_name(place), place)
    return found if adapter is None else _with_adapter(found, str(adapter))


def quantization_of(config: Any) -> str:
    """The method with which a checkpoint was quantized when it was saved, by its configuration; empty for none."""
    found = getattr(config, "quantization_config", None) or {}
    method = found.get("quant_method", "") if isinstance(found, dict) else getattr(found, "quant_method", "")
    return str(getattr(method, "value", method))


def _auto_class(config: Any) -> Any:
    """Which class of transformers loads a model: a vision-language one whole, its images' part unused."""
    composite = config.get_text_config() is not config
    if composite and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def entrance(model: Any) -> torch.device:
    """The device for a model's inputs, also of a model that accelerate has spread over devices and disk."""
    device = model.get_input_embeddings().weight.device
    return torch.device(model._hf_hook.execution_device) if device.type == "meta" else device


def _with_adapter(base: Checkpoint, adapter: str) -> Checkpoint:
    _check_exists(adapter)
    if not _adapter_config(adapter):
        raise ValueError(f"{adapter} is not an adapter: it has no {ADAPTER}")
    return Checkpoint(f"{base.name} + {_name(adapter)}", base.model, adapter)


def _check_exists(place: str) -> None:
    """Raises ValueError for what is neither a folder, nor a GGUF file, nor on the hub."""
    path = Path(place)
    if path.is_file() and path.suffix != ".gguf":
        raise ValueError(f"{place} is a file, but not a GGUF file: give a model's folder, a hub id or a GGUF file")
    if path.exists():
        return
    slashes = place.count("/")
    like_an_id = slashes >= 2 if place.endswith(".gguf") else slashes <= 1
    if place.startswith(("/", ".", "~")) or not like_an_id:
        raise ValueError(f"there is no {place}: give a model's folder, a hub id or a GGUF file")
    check_on_hub(place)


def _check_folder(folder: Path) -> None:
    """Raises ValueError for a folder that holds no model, as far as its file names show."""
    if not (folder / "config.json").exists():
        has_trace = trace_path(folder).exists()
        more = f" (to see its trace: spinal report {folder})" if has_trace else ""
        raise ValueError(f"{folder} holds no model: no config.json, no {ADAPTER}, no checkpoint-N{more}")
    if not any(next(folder.glob(name), None) for name in WEIGHTS):
        raise ValueError(f"{folder} holds no model: it has a config.json, but no weights")


def _place(place: str) -> dict[str, Any]:
    """Arguments of `from_pretrained`."""
    trust = {"trust_remote_code": False}  # None would ask on the terminal, and run the code after a y
    if not place.endswith(".gguf"):
        return {"pretrained_model_name_or_path": place, **trust}
    folder, _, name = place.rpartition("/")
    return {"pretrained_model_name_or_path": folder or ".", "gguf_file": name, **trust}


def _adapter_config(place: str) -> dict[str, Any]:
    """An adapter's configuration; empty if `place` is not an adapter."""
    if place.endswith(".gguf"):
        return {}
    if Path(place).exists():
        file = Path(place) / ADAPTER
        found = str(file) if file.exists() else None
    else:
        try:
            found = find_adapter_config_file(place)
        except Exception:  # a hub that no longer answers: loading will say so
            return {}
    if found is None:
        return {}
    try:
        return {"base_model_name_or_path": None} | dict(json.loads(Path(found).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{found} is damaged: not a JSON object") from None


def _base_of(place: str, config: dict[str, Any]) -> str:
    base = config["base_model_name_or_path"] or ""
    gone = base.startswith(("/", ".")) and not Path(base).is_dir()
    if not base or gone:
        why = f"its base model {base} does not exist" if base else f"its {ADAPTER} names no base model"
        raise ValueError(f"{place} is an adapter, but {why}: {GIVE_BASE}")
    try:
        _check_exists(base)
    except ValueError as error:
        raise ValueError(f"{place} is an adapter, but its base model is missing ({error}): {GIVE_BASE}") from None
    return str(base)


def _name(place: str) -> str:
    """A hub id unchanged; of a path its last part, with the run's folder before a `checkpoint-N`."""
    path = Path(place)
    if not path.exists():
        return place
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if checkpoint_step(path) is not None else path.name
