"""The int4 model that ONNX Runtime's own tools make of a checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from judge import run
from onnx import helper, numpy_helper
from onnx_graph import MODEL, model_bytes
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

BUILDER, QUANTISER = "builder", "MatMulNBitsQuantizer"
BLOCK = 32  # the builder's default, and edgekit's only one
BITS_PER_WEIGHT = 4 + 32 / BLOCK  # a code, its share of a float32 scale


@dataclass(frozen=True)
class Peer:
    """A folder; `last_logits` has the same weights in a graph that puts out the last logits alone.

    It is `folder` where the graph is told how many logits are wanted.
    """

    made_by: str
    folder: Path
    last_logits: Path
    note: str
    budget: tuple[object, ...]  # edgekit's, for no more bytes
    counted: str  # which: "bytes", or "tensor_bytes" where the graphs are the same but for what edgekit says of itself


def built(checkpoint: str, work: Path, accuracy_level: int, algorithm: str) -> Peer:
    """onnxruntime_genai's model builder on a folder. Raises InputError where it fails, with what it says."""
    folders = [work / "builder", work / "builder-last-logits"]
    for folder, pruned in zip(folders, ("false", "true"), strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        options = [f"accuracy_level={accuracy_level}", f"algo_config={algorithm}", f"prune_lm_head={pruned}"]
        options.append("op_types_to_quantize=MatMul/Gather")  # an embedding of its own too, which it leaves in float32
        command = (sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", folder)
        os.environ["HF_HUB_OFFLINE"] = "1"
        run(*command, "-p", "int4", "-e", "cpu", "-c", work / "builder-cache", "--extra_options", *options)
    note = f"onnxruntime_genai.models.builder {version('onnxruntime-genai')}, int4, algo_config={algorithm}"
    return Peer(BUILDER, *folders, note, ("--size", model_bytes(folders[0])), "bytes")


def quantised(floats: Path, work: Path, accuracy_level: int) -> Peer:
    """ONNX Runtime's quantiser on a folder of float32 weights that edgekit exported.

    It stores an embedding apart from its head, in float or a second time in int4: a tied one is looked up in the head's
    blocks instead, as the builder does.
    """
    model = onnx.load(floats / MODEL)
    del model.metadata_props[:]  # edgekit's own
    tables = _plain_products(model.graph)
    embedding = next(node for node in model.graph.node if node.op_type == "Gather" and node.input[1] == "input_ids")
    tied = embedding.input[0] in tables
    quantiser = MatMulNBitsQuantizer(
        model,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=accuracy_level,
        op_types_to_quantize=("MatMul",) if tied else ("MatMul", "Gather"),
    )
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)  # it tells of every node
    quantiser.process()
    model = quantiser.model.model
    if tied:
        _look_up_in_head(model.graph, embedding.name)
    _drop_unused(model.graph)
    folder = work / "quantised"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    onnx.save(model, folder / MODEL)
    how = "the embedding looked up in the head's blocks" if tied else "embedding and head both in int4"
    note = f"onnxruntime's {QUANTISER} on edgekit's float32 graph, symmetric int4 in blocks of {BLOCK}, {how}"
    return Peer(QUANTISER, folder, folder, note, ("--bpw", BITS_PER_WEIGHT), "tensor_bytes")


def _plain_products(graph: Any) -> set[str]:
    """Make each FusedMatMul of a transposed matrix the MatMul that the quantiser looks for; the matrices' names."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    names = set()
    for node in graph.node:
        if node.op_type == "FusedMatMul":
            name = node.input[1]
            values = np.ascontiguousarray(numpy_helper.to_array(weights[name]).T)
            graph.initializer.append(numpy_helper.from_array(values, _transposed(name)))
            node.CopyFrom(helper.make_node("MatMul", [node.input[0], _transposed(name)], node.output, name=node.name))
            names.add(name)
    _drop_unused(graph)
    return names


def _transposed(name: str) -> str:
    return f"{name}.transposed"


def _look_up_in_head(graph: Any, name: str) -> None:
    place, node = next((place, node) for place, node in enumerate(graph.node) if node.name == name)
    table = next(tensor for tensor in graph.initializer if tensor.name == node.input[0])
    rows, columns = table.dims
    codes, scales = f"{name}.codes", f"{name}.scales"
    shapes = ((codes, (rows, columns // 2), "_Q4"), (scales, (rows, columns // BLOCK), "_scales"))
    made = []
    for reshaped, shape, ending in shapes:
        graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{reshaped}.shape"))
        stored = f"{_transposed(table.name)}{ending}"
        made.append(helper.make_node("Reshape", [stored, f"{reshaped}.shape"], [reshaped], name=reshaped))
    attributes = {"bits": 4, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
    found = ("GatherBlockQuantized", [codes, node.input[1], scales], list(node.output))
    made.append(helper.make_node(*found, name=name, domain="com.microsoft", **attributes))
    graph.node.remove(node)
    for offset, each in enumerate(made):
        graph.node.insert(place + offset, each)


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
