"""Whether the hub has a model, asked once and quickly: transformers would repeat a request that fails for minutes."""

from __future__ import annotations

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

PATIENCE = 10  # seconds until a hub that does not answer counts as unreachable
NAMED_BY = ["config.json", "adapter_config.json"]  # files that every model or adapter has


def check_on_hub(place: str) -> None:
    """Passes if `place`, a hub id or `owner/repo/file.gguf`, is in the local cache or on the hub.

    Raises:
        ValueError: it is not a hub id, the hub does not have it, or the hub cannot be reached.
    """
    repo, files = place, NAMED_BY
    if place.endswith(".gguf"):
        owner, name, file = place.split("/", 2)
        repo, files = f"{owner}/{name}", [file]
    try:
        if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
            return
        HfApi().model_info(repo, timeout=PATIENCE)
    except HFValidationError:
        raise ValueError(f"there is no {place}: give a model's folder, a hub id or a GGUF file") from None
    except OfflineModeIsEnabled:
        raise ValueError(
            f"{place}: no such folder, and not found on the hub (offline: HF_HUB_OFFLINE is set)"
        ) from None
    except RepositoryNotFoundError:
        raise ValueError(f"{place}: no such folder, and not found on the hub (log in if it is private)") from None
    except Exception as error:  # no network, a proxy, a time-out, a server that fails: each a type of its own
        why = one_line(error)
        raise ValueError(f"{place}: no such folder, and the hub cannot be asked for it ({why})") from None


def one_line(error: Exception) -> str:
    """The first line of an error's text, or its type's name if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
