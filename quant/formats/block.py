"""A block format's functions, over the C encoders and decoders."""

from __future__ import annotations

import os

import numpy as np

from edgekit import _native
from edgekit.quant.formats.format import Blocks, Codes, FloatRows, Format


def block_format(name: str, *, ggml_type: int, file_type: int, width: int, scales: tuple[int, ...] = ()) -> Format:
    """The format that the C core calls `name`; the numbers are gguf's GGMLQuantizationType and LlamaFileType.

    `scales`: where a block's float16 scales lie, in bytes from its start.
    """
    layout = _native.layout(name)
    block, block_bytes, group = (
        layout["block"],
        layout["block_bytes"],
        layout["group"],
    )  # group: 0 for the float formats

    def encode(rows: FloatRows, importance: FloatRows | None = None) -> Blocks:
        weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
        return _native.encode(name, np.ascontiguousarray(rows, np.float32), weights, threads())

    def decode(blocks: Blocks) -> FloatRows:
        return _native.decode(name, np.ascontiguousarray(blocks), _columns(blocks), threads())

    def unpack(blocks: Blocks) -> Codes:
        codes, scales, minima = _native.unpack(name, np.ascontiguousarray(blocks), _columns(blocks), threads())
        return Codes(codes=codes, scales=scales, minima=minima, levels=_native.levels(name), group=group)

    def _columns(blocks: Blocks) -> int:
        if blocks.ndim != 2 or blocks.shape[1] % block_bytes:
            raise ValueError(f"{name} blocks must be (rows, a multiple of {block_bytes}) bytes, not {blocks.shape}")
        return int(blocks.shape[1]) // block_bytes * block

    return Format(
        name=name,
        ggml_type=ggml_type,
        file_type=file_type,
        width=width,
        block=block,
        block_bytes=block_bytes,
        scales=scales,
        encode=encode,
        decode=decode,
        unpack=unpack if group else None,
    )


def threads() -> int:
    """How many threads the C core takes."""
    # Not cpu_count: a container or taskset may leave this process fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
