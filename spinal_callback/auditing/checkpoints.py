"""Where a policy's weights are, and how they become a model: a folder, a hub id, a GGUF file, an adapter."""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.peft_utils import find_adapter_config_file

from ..run_folder import checkpoint_step, trace_path

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
TOKENIZERS = ("tokenizer*", "vocab*", "spiece.model")
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A policy that can be loaded.

    Attributes:
        name: what it is called: a hub id as it is, of a path its last parts.
        model: folder, hub id or GGUF file with the whole weights.
        adapter: folder or hub id of a PEFT adapter on top of them; empty: none.
    """

    name: str
    model: str
    adapter: str = ""

    def load(self, device_map: Any = "auto", offload: str | None = None) -> Any:
        """The model, in the precision that it was saved in, in evaluation mode.

        Args:
            device_map: as `from_pretrained` takes it: "auto" spreads over the devices, and over the disk at last.
            offload: folder for what has to go to the disk.

        Raises:
            ValueError: it cannot be loaded, or its files lack weights, which would be made up.
            ImportError: a GGUF file, and `gguf` is not installed; an adapter, and `peft` is not.
        """
        where, which = self._where(), {"dtype": "auto", "device_map": device_map, "offload_folder": offload}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(**where, **which, output_loading_info=True)
        except Exception as error:  # a torn file, a class that is no language model, no network: each its own type
            hint = ": give the base model as MODEL and this adapter with --adapter" if self.adapter else ""
            raise ValueError(f"{self.name}: cannot load {self.model} ({_line(error)}){hint}") from error
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ValueError(f"{self.name} is no whole {type(model).__name__}: its files lack {some}")
        return (self._adapted(model) if self.adapter else model).eval()

    def tokenizer(self) -> Any:
        """Its tokenizer, or its base model's; None if there is neither."""
        for place in filter(None, (self.adapter, self.model)):
            folder = Path(place)
            if folder.is_dir() and not any(next(folder.glob(name), None) for name in TOKENIZERS):
                continue  # transformers would make one up that knows no words
            try:
                return AutoTokenizer.from_pretrained(**_place(place))
            except Exception:  # an adapter's repository on the hub often has none
                continue
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
                if (Path(self.adapter) / "ref" / ADAPTER).exists():  # TRL keeps the adapter that training began with
                    adapted.load_adapter(str(Path(self.adapter) / "ref"), "ref")
            except Exception as error:
                raise ValueError(f"{self.name}: cannot put it on {self.model} ({_line(error)})") from error
        if any("missing adapter keys" in str(w.message) for w in caught):
            raise ValueError(f"{self.name} does not fit {self.model}: weights of the adapter are missing")
        return adapted


def find(path: str | Path, adapter: str | Path | None = None) -> Checkpoint:
    """The checkpoint at `path`: a folder, a hub id, a GGUF file (on the hub `owner/repo/file.gguf`), or an adapter's
    folder, whose configuration names its base; or any of the first three with an `adapter` put on it.

    Raises:
        ValueError: there is no model or no adapter, or an adapter without its base; says what to do.
    """
    place = str(Path(path).expanduser()) if Path(path).expanduser().exists() else str(path)
    if adapter is not None:
        if _adapter_config(place):
            raise ValueError(f"{path} is an adapter itself: give the base model as MODEL, and one adapter")
        if not _adapter_config(str(adapter)):
            raise ValueError(f"{adapter} is no adapter: there is no {ADAPTER}")
        return Checkpoint(f"{find(path).name} + {_called(str(adapter))}", place, str(adapter))
    if config := _adapter_config(place):
        return Checkpoint(_called(place), _base_of(place, config), place)
    _check(place)
    return Checkpoint(_called(place), place)


def entrance(model: Any) -> torch.device:
    """Where the inputs of a model go, also of one that accelerate has spread over devices and disk."""
    device = model.get_input_embeddings().weight.device
    return torch.device(model._hf_hook.execution_device) if device.type == "meta" else device


def _check(place: str) -> None:
    """Raises ValueError for what can be seen to be no model without loading it."""
    path = Path(place)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"{place} is a file, but no .gguf: give a model's folder, a hub id or a GGUF file")
    elif path.is_dir():
        if not (path / "config.json").exists():
            seen = trace_path(path).exists()
            more = f" (its trace is: spinal report {place})" if seen else ""
            raise ValueError(
                f"{place} is a folder without a model: no config.json or {ADAPTER}, and no checkpoint-N in it{more}"
            )
        if not any(next(path.glob(name), None) for name in WEIGHTS):
            raise ValueError(f"{place} is a folder without a model: config.json is there, but no weights")
    elif place.startswith(("/", ".", "~")) or (place.count("/") > 1 and not place.endswith(".gguf")):
        raise ValueError(f"there is no {place}: give a model's folder, a hub id or a GGUF file")


def _place(place: str) -> dict[str, Any]:
    """Arguments of `from_pretrained`."""
    if not place.endswith(".gguf"):
        return {"pretrained_model_name_or_path": place}
    folder, _, name = place.rpartition("/")
    return {"pretrained_model_name_or_path": folder or ".", "gguf_file": name}


def _adapter_config(place: str) -> dict[str, Any]:
    """What is in an adapter's configuration; empty if `place` is no adapter."""
    if place.endswith(".gguf"):
        return {}
    if Path(place).exists():
        file = Path(place) / ADAPTER
        found = str(file) if file.exists() else None
    else:
        try:
            found = find_adapter_config_file(place)
        except Exception:  # not on the hub, or no hub: loading will say so
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
        what = f"its base model {base} is not there" if base else f"its {ADAPTER} names no base model"
        raise ValueError(f"{place} is an adapter, and {what}: give the base model as MODEL and this with --adapter")
    return str(base)


def _called(place: str) -> str:
    """A hub id as it is; of a path the last part, with the run's folder before a `checkpoint-N`."""
    path = Path(place)
    if not path.exists():
        return place
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if checkpoint_step(path) is not None else path.name


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
