"""Write a model as a folder with `model.onnx`: checked by `onnx` itself, all or nothing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.export.huggingface import copy_tokenizer, json_text, new_folder
from edgekit.export.onnx import genai
from edgekit.export.onnx.decoder import Operators, write_decoder
from edgekit.export.onnx.fused import Fused
from edgekit.export.onnx.graph import CONTRIBUTED, Graph, Weight
from edgekit.export.onnx.options import OnnxOptions
from edgekit.export.onnx.portable import Portable
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import TokenizerFiles
from edgekit.quant.candidates import fallback
from edgekit.quant.containers import ONNX
from edgekit.quant.formats import Blocks

MODEL, DATA = "model.onnx", "model.onnx.data"
OPSET, IR_VERSION = 23, 11  # the first opset with RMSNormalization, and the file version that came with it
INLINE_BYTES = 2_000_000_000  # a protobuf message ends at 2 GiB; the rest is for nodes and constants
_ALIGNMENT = 4096  # of external data: a page, so that a runtime can map it
_LENGTHS = 10  # bytes at most that a tensor's data adds to the file beside itself: a tag, its length, longer lengths


@dataclass(frozen=True)
class Written:
    """What a folder takes: its graph and weights in bytes, and of those the matrices."""

    bytes: int
    matrix_bytes: int


def write_onnx(
    checkpoint: Checkpoint,
    tokenizer: TokenizerFiles,
    tensors: Iterable[tuple[str, Blocks]],
    formats: Mapping[str, str],
    folder: Path,
    *,
    options: OnnxOptions,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Written:
    """Write the model into `folder`, which must not exist.

    config.json and the tokenizer's files lie beside it, as in the checkpoint, which must be a Hugging Face folder, and
    genai_config.json where ONNX Runtime GenAI can be told of the model.
    `tensors`, `formats` and `vectors` are `write_gguf`'s. Raises InputError where the checkpoint is no folder, ONNX
    cannot carry a format, the plan lacks a matrix or has another, or `folder` exists; TargetError where the disk is
    full or fails.
    """
    operators = _declared(checkpoint, formats, options)
    graph = operators.graph
    external = options.external_data or sum(weight.bytes for weight in graph.weights.values()) > INLINE_BYTES
    with new_folder(folder) as target:
        stored = _Stored(graph.weights, target / DATA if external else None)
        types: Counter[str] = Counter()  # bytes of each format
        for name, blocks in tensors:
            for part, values in operators.stored(name, blocks):
                types[formats[name]] += stored.put(part, values)
        matrix_bytes = types.total()
        for name, values in _vectors(checkpoint, vectors or {}):
            types["f32"] += stored.put(name, values)
        facts = _facts(checkpoint, formats, options, stored.sha256(), types)
        (target / MODEL).write_bytes(_model(graph, stored.protos(), facts).SerializeToString(deterministic=True))
        onnx.checker.check_model(target / MODEL, full_check=True)
        size = sum(file.stat().st_size for file in target.iterdir())
        _write_companions(checkpoint, tokenizer, target, options)
        return Written(size, matrix_bytes)


def fixed_bytes(checkpoint: Checkpoint) -> int:
    """What the graph and its weights take beside the matrices, at most, whatever these formats are.

    That is nodes, norms and biases, rotary tables and what says where each tensor lies, of a folder with the options
    that are the default. Raises InputError where the checkpoint is no folder.
    """
    matrices = [tensor for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    # A graph of quantised matrices is the longest, for they are two tensors each, with keys of another format than
    # queries and values, which share no product then.
    asked = {tensor.name: "q4_0" if tensor.role == "k" else "q8_0" for tensor in matrices}
    formats = {tensor.name: fallback(asked[tensor.name], tensor.shape[1]).name for tensor in matrices}
    # In float32, the weights would be in a file of their own.
    external = 4 * sum(prod(tensor.shape) for tensor in matrices) > INLINE_BYTES
    options = OnnxOptions()
    graph = _declared(checkpoint, formats, options).graph
    vectors = {tensor.name for tensor in checkpoint.tensors} - formats.keys()
    protos, more = [], 0
    for weight in graph.weights.values():
        dtype = helper.np_dtype_to_tensor_dtype(weight.dtype)
        proto = TensorProto(name=weight.name, data_type=dtype, dims=weight.shape)
        more += _LENGTHS
        if weight.name in vectors:
            more += weight.bytes
        elif external:
            _refer(proto, DATA, offset=2**63, length=weight.bytes)
            more += _ALIGNMENT
        protos.append(proto)
    facts = _facts(checkpoint, formats, options, 64 * "0", dict.fromkeys(ONNX.formats, 2**63))
    return int(_model(graph, protos, facts).ByteSize()) + more


def _declared(checkpoint: Checkpoint, formats: Mapping[str, str], options: OnnxOptions) -> Operators:
    """The whole graph without its weights' values."""
    _require_fit(checkpoint, formats)
    if not checkpoint.path.is_dir():
        raise InputError(f"{checkpoint.path} is no folder with tokenizer files: give a Hugging Face checkpoint")
    graph, spec, positions = Graph(), checkpoint.spec, options.positions(checkpoint.spec)
    operators: Operators = (
        Portable(graph, spec, formats, positions)
        if options.portable
        else Fused(graph, spec, formats, positions, options.accuracy_level)
    )
    write_decoder(spec, checkpoint.tensors, operators)
    return operators


def _facts(
    checkpoint: Checkpoint, formats: Mapping[str, str], options: OnnxOptions, sha256: str, types: Mapping[str, int]
) -> dict[str, str]:
    """The graph's metadata: what runtimes have to know, and what the folder was made from."""
    return {
        "context": str(options.positions(checkpoint.spec)),
        "cache": "grows" if options.portable else "in place",
        "weights_sha256": sha256,
        "types": json.dumps(types),  # bytes of each format
        "version": version("edgekit"),
        "checkpoint": checkpoint.fingerprint,
        "plan": json.dumps(formats, separators=(",", ":")),
    }


def _write_companions(checkpoint: Checkpoint, tokenizer: TokenizerFiles, folder: Path, options: OnnxOptions) -> None:
    """What runtimes read beside the graph."""
    copy_tokenizer(checkpoint, folder)
    texts = {"config.json": checkpoint.config}
    if genai.expressible(checkpoint):
        positions, in_place = options.positions(checkpoint.spec), not options.portable
        texts[genai.FILE] = genai.genai_config(checkpoint, tokenizer, positions, MODEL, in_place=in_place)
    for name, values in texts.items():
        (folder / name).write_text(json_text(values), encoding="utf-8")


def _require_fit(checkpoint: Checkpoint, formats: Mapping[str, str]) -> None:
    matrices = {tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES}
    if different := sorted(matrices ^ set(formats)):
        raise InputError(f"the plan and {checkpoint.path} differ about '{different[0]}': use a plan made for it")
    ONNX.require_carried(formats, source="the plan")


def _vectors(
    checkpoint: Checkpoint, changed: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What is float32 whatever the plan."""
    for tensor in checkpoint.tensors:
        if tensor.role not in MATRIX_ROLES:
            values = changed[tensor.name] if tensor.name in changed else checkpoint.read(tensor.name)
            yield tensor.name, values + np.float32(tensor.offset)


class _Stored:
    """The weights as they come, in any order: within the graph, or the matrices in a file beside it."""

    def __init__(self, weights: Mapping[str, Weight], data: Path | None) -> None:
        self._weights, self._data = weights, data
        self._protos: dict[str, TensorProto] = {}
        self._digests: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        end = 0
        for weight in weights.values():
            if data is not None and len(weight.shape) > 1:
                self._offsets[weight.name] = end
                end += -(-weight.bytes // _ALIGNMENT) * _ALIGNMENT
        if data is not None:
            data.touch()

    def put(self, name: str, values: NDArray[Any]) -> int:
        """Keep a tensor's values; the bytes that they take."""
        weight = self._weights[name]
        assert values.shape == weight.shape and values.dtype == weight.dtype, (weight, values.shape, values.dtype)
        assert name not in self._protos, name
        proto = numpy_helper.from_array(values, name)
        assert len(proto.raw_data) == weight.bytes, name
        self._digests[name] = hashlib.sha256(proto.raw_data).hexdigest()
        if name in self._offsets:
            assert self._data is not None
            with self._data.open("r+b") as file:
                file.seek(self._offsets[name])
                file.write(proto.raw_data)
            proto.ClearField("raw_data")
            _refer(proto, self._data.name, self._offsets[name], weight.bytes)
        self._protos[name] = proto
        return weight.bytes

    def protos(self) -> list[TensorProto]:
        """In the order of the graph."""
        missing = self._weights.keys() - self._protos.keys()
        assert not missing, f"not written: {sorted(missing)}"
        return [self._protos[name] for name in self._weights]

    def sha256(self) -> str:
        """Of all tensors, whatever file they are in."""
        return hashlib.sha256("".join(self._digests[name] for name in self._weights).encode()).hexdigest()


def _refer(proto: TensorProto, location: str, offset: int, length: int) -> None:
    """Say where the values are."""
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)


def _model(graph: Graph, weights: Sequence[TensorProto], metadata: Mapping[str, str]) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == CONTRIBUTED for node in graph.nodes):
        opsets.append(helper.make_opsetid(CONTRIBUTED, 1))
    model = helper.make_model(
        graph.proto(weights), opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgekit"
    )
    helper.set_model_props(model, {f"edgekit.{key}": value for key, value in metadata.items()})
    return model
