"""Fetch a checkpoint from the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.models.errors import InputError, MissingExtra

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".json", ".pt", ".pth", ".onnx")
DESCRIPTION = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


def looks_like_id(text: str) -> bool:
    """Whether `text`, no existing path, can be meant as a Hub id: owner/name, where no folder `owner` is here."""
    return bool(HUB_ID.fullmatch(text)) and not text.endswith(FILE_ENDINGS) and not Path(text.split("/")[0]).exists()


def download(hub_id: str) -> Path:
    """The folder of the Hub's checkpoint: safetensors, or pickles where it has none; InputError where that fails."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "quantize") from error

    # The HTTP library's own errors, raised as they are when a connection breaks: which library differs by version.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]

    def fetch(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns))

    try:
        folder = fetch([*DESCRIPTION, "model*.safetensors"])
        if not list(folder.glob("model*.safetensors")):
            folder = fetch([*DESCRIPTION, "pytorch_model*.bin"])
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise InputError(
            f"there is no folder {hub_id} here, and the Hugging Face Hub cannot be reached to look for that id: "
            "check the path or the network"
        ) from error
    except (http_error, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"there is no folder {hub_id} here, and the Hugging Face Hub does not give it ({reason}): "
            "check the name, and for a gated model `hf auth login`"
        ) from error
    return folder
