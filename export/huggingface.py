"""Write a checkpoint as a Hugging Face folder: config.json, safetensors of at most 5 GB each, the tokenizer's files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.families import family_of
from edgekit.models.files import disk_errors
from edgekit.models.sources.stored import FLOAT_TYPES
from edgekit.models.spec import TensorSpec
from edgekit.quant.formats import format_of
from edgekit.quant.rounding import fits_float16

SHARD_BYTES = 5_000_000_000
# What a checkpoint has beside config and weights; whatever of it is there is copied as it is.
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"),
)

Read = Callable[[str], NDArray[np.float32]]


def write_folder(
    checkpoint: Checkpoint, folder: Path, read: Read, *, config: Mapping[str, Any], texts: Mapping[str, str]
) -> int:
    """Write the model that `config` describes, with `read`'s values by Hugging Face name; its safetensors' bytes.

    Each tensor is stored in the type that it has in `checkpoint`, whose tokenizer files are copied; `texts` are written
    beside them (file name -> content). `folder` must not exist: all goes to a temporary one next to it, renamed at the
    end and removed on any error. Raises InputError where `checkpoint` is no folder, `folder` exists or cannot be made,
    or a value is beyond float16's range in an F16 tensor; TargetError where the disk is full or fails.
    """
    if not checkpoint.path.is_dir():
        raise InputError(f"{checkpoint.path} is no folder with tokenizer files: give a Hugging Face checkpoint")
    family = family_of(config)
    shards = _shards([_entry(checkpoint, tensor) for tensor in family.tensors(family.read_spec(config))])
    with new_folder(folder) as target:
        copy_tokenizer(checkpoint, target)
        for name, text in {"config.json": json_text(config), **texts}.items():
            (target / name).write_text(text, encoding="utf-8")
        for file, entries in shards.items():
            _write_safetensors(target / file, entries, read)
        total = sum(entry.bytes for entries in shards.values() for entry in entries)
        if len(shards) > 1:
            weight_map = {entry.name: file for file, entries in shards.items() for entry in entries}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (target / "model.safetensors.index.json").write_text(json_text(index), encoding="utf-8")
        return sum((target / file).stat().st_size for file in shards)


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy what the checkpoint's folder has beside config and weights."""
    for name in COPIED:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)


def require_new(folder: Path) -> None:
    """Raise InputError where a folder of that name cannot be made."""
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists already: name a new folder or remove that one")
    if not folder.parent.is_dir():
        raise InputError(f"{folder}: there is no folder {folder.parent}: create it or choose another")
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: the folder {folder.parent} is not writable: choose another")


@dataclass(frozen=True)
class _Entry:
    """One tensor of a safetensors file."""

    name: str
    dtype: str  # of FLOAT_TYPES
    shape: tuple[int, ...]
    bytes: int


def _entry(checkpoint: Checkpoint, tensor: TensorSpec) -> _Entry:
    dtype = checkpoint.source.dtype(tensor.name)
    return _Entry(tensor.name, dtype, tensor.shape, int(np.prod(tensor.shape)) * FLOAT_TYPES[dtype].itemsize)


def _shards(entries: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """File name -> its tensors, in order, each file as full as SHARD_BYTES allows."""
    shards: list[list[_Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(other.bytes for other in shards[-1]) + entry.bytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(entry)
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def _write_safetensors(path: Path, entries: Sequence[_Entry], read: Read) -> None:
    """The wider types come first, so that every tensor is aligned to its own type."""
    entries = sorted(entries, key=lambda entry: -FLOAT_TYPES[entry.dtype].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [end, end + entry.bytes]}
        end += entry.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            file.write(_stored(entry, read(entry.name)))
        file.flush()
        os.fsync(file.fileno())


def _stored(entry: _Entry, values: NDArray[np.float32]) -> memoryview:
    """The values as the file has them."""
    if values.shape != entry.shape:
        raise InputError(f"{entry.name} is {list(values.shape)}, config.json makes it {list(entry.shape)}")
    if entry.dtype == "F16" and not fits_float16(values):
        raise InputError(f"{entry.name} has values beyond float16's range, the type of the checkpoint's own")
    if entry.dtype == "F64":
        return values.astype("<f8").data
    return format_of(entry.dtype.lower()).encode(values.reshape(1, -1), None).data


def json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an error, and is removed otherwise."""
    require_new(folder)
    target = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    target.mkdir()
    try:
        with disk_errors(folder):
            yield target
            target.rename(folder)  # onto a folder that came to be meanwhile only where that is empty
    finally:
        shutil.rmtree(target, ignore_errors=True)
