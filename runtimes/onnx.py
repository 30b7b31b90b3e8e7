"""Run an exported ONNX folder in ONNX Runtime, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError, MissingExtra
from edgekit.models.sources.folder import read_config
from edgekit.models.tokenizer_folder import read_folder
from edgekit.runtimes.session import CacheTypes, SessionStats, check_tokens, choose_context, choose_threads
from edgekit.runtimes.tokens import Tokens

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as _errors
except ModuleNotFoundError as error:
    raise MissingExtra("onnxruntime", "onnx") from error

_REFUSALS = (
    *(_errors.Fail, _errors.InvalidProtobuf, _errors.InvalidGraph, _errors.InvalidArgument),
    *(_errors.NoSuchFile, _errors.NotImplemented, _errors.RuntimeException),
)
_INPUTS = "input_ids", "attention_mask", "logits_to_keep"
_AT_ONCE = 512  # positions per run: bounds the attention matrix
# In the graph's metadata: the positions that it is good for, how it appends to the cache ("in place", "grows"), and the
# bytes of each format as JSON.
_CONTEXT, _CACHE, _TYPES = "edgekit.context", "edgekit.cache", "edgekit.types"
# How a DequantizeLinear and a MatMul that become one MatMulNBits take their activations: 1 is float32.
_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level"


def load(
    path: Path,
    *,
    context: int | None,
    threads: int | None,
    cache: CacheTypes | None = None,
    float_activations: bool = False,
) -> OnnxSession:
    """Open a folder that edgekit exported; keys and values are float32.

    How activations are multiplied was decided when the folder was exported, except for one of standard operators:
    ONNX Runtime rounds them to int8 there, unless `float_activations`. Raises InputError for a damaged or foreign
    folder or a cache type.
    """
    if cache is not None:
        raise InputError("the onnx runtime keeps keys and values in float32: leave --cache-type out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = choose_threads(threads)
    if float_activations:
        options.add_session_config_entry(_ACTIVATIONS, "1")
    model = _open(path, options)
    facts = model.get_modelmeta().custom_metadata_map
    trained = facts.get(_CONTEXT, "")
    takes = {value.name for value in (*model.get_inputs(), *model.get_overridable_initializers())}
    if not trained.isdecimal() or int(trained) < 1 or not takes.issuperset(_INPUTS):
        raise InputError(f"{path}/model.onnx is no graph of edgekit's: export one with 'edgekit export --format onnx'")
    return OnnxSession(path, model, choose_context(context, int(trained), path), in_place=facts.get(_CACHE) != "grows")


def stored_types(path: Path) -> dict[str, int]:
    """The bytes of the folder's tensors by format, as its graph states them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    stated = _open(path, options).get_modelmeta().custom_metadata_map.get(_TYPES, "{}")
    return {str(name): int(size) for name, size in json.loads(stated).items()}


def _open(path: Path, options: Any) -> Any:
    file = path / "model.onnx"
    if not file.is_file():
        raise InputError(f"{path} is not a folder with model.onnx: give one that 'edgekit export --format onnx' made")
    options.log_severity_level = 4  # fatal ones: an error is raised as well, and of the optional input it would warn
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        # "[ONNXRuntimeError] : 1 : FAIL : reason"; one that is within another is the cause.
        reason = str(error).rpartition("[ONNXRuntimeError] : ")[2].split(" : ", 2)[-1].partition("\n")[0]
        raise InputError(f"ONNX Runtime refuses {file}: {reason}: export the model again") from error


class OnnxSession(Tokens):
    """A `Session` of ONNX Runtime, its cache held in OrtValues.

    In place: the cache is allocated once for the whole context, and bound as input and as output. GroupQueryAttention
    then appends to it and nothing is copied from token to token; the system lends its memory as it fills.
    The standard Attention makes a new cache of old and new: what one run puts out is bound as the next one's input.
    """

    def __init__(self, path: Path, model: Any, context: int, *, in_place: bool) -> None:
        self.vocab: int = next(output.shape[-1] for output in model.get_outputs() if output.name == "logits")
        super().__init__(lambda: read_folder(path, read_config(path), self.vocab).padded(self.vocab, path))
        self.context = context
        self._model, self._binding, self._in_place = model, model.io_binding(), in_place
        self._bytes = sum(file.stat().st_size for file in path.glob("model.onnx*"))
        self._mask = np.ones((1, context), np.int64)
        self._cache = {
            value.name: (1, value.shape[1], context if in_place else 0, value.shape[3])
            for value in model.get_inputs()
            if value.name.startswith("past_key_values.")
        }
        self._bound: dict[str, Any] = {}  # the binding does not keep the memory of what is bound to it
        self._allocate()

    def _allocate(self) -> None:
        """An empty cache."""
        for name, shape in self._cache.items():
            self._bind_input(name, np.zeros(shape, np.float32))
            if self._in_place:
                self._binding.bind_ortvalue_output(_present(name), self._bound[name])
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def reset(self) -> None:
        if self._in_place:
            self._position = 0  # what lies beyond is never read
        else:
            self._allocate()

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self._run(tokens, 1).reshape(-1)

    def decode(self, token: int) -> NDArray[np.float32]:
        return self._run((token,), 1).reshape(-1)

    def score(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        self.reset()
        assert 0 <= first < len(tokens)
        return self._run(tokens, len(tokens) - first)

    def _run(self, tokens: Sequence[int], outputs: int) -> NDArray[np.float32]:
        """Append tokens part by part; the logits (outputs, vocab) of the last ones."""
        check_tokens(tokens, self)
        logits = np.empty((outputs, self.vocab), np.float32)
        ids = np.fromiter(tokens, np.int64, len(tokens))
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            end = start + len(part) - (len(ids) - outputs)  # the rows of `logits` that are filled after this part
            # A part without outputs has one logit too many, in the row that the next part writes.
            kept = max(1, min(end, len(part)))
            self._step(part, logits[max(end, 1) - kept : max(end, 1)])
        return logits

    def _step(self, ids: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Append tokens (T,) and write the logits (R, vocab) of the last R."""
        self._bind_input("input_ids", ids[None])
        self._bind_input("attention_mask", self._mask[:, : self._position + len(ids)])
        self._bind_input("logits_to_keep", np.array([len(logits)]))
        self._bound["logits"] = onnxruntime.OrtValue.ortvalue_from_numpy(logits[None])
        if self._in_place:
            self._binding.bind_ortvalue_output("logits", self._bound["logits"])
            self._model.run_with_iobinding(self._binding)
        else:
            self._grow()
        self._position += len(ids)

    def _grow(self) -> None:
        """Run with a new cache as output, and bind it as input."""
        self._binding.clear_binding_outputs()  # `get_outputs` has the order of binding
        self._binding.bind_ortvalue_output("logits", self._bound["logits"])
        for name in self._cache:
            self._binding.bind_output(_present(name))
        self._model.run_with_iobinding(self._binding)
        for name, made in zip(self._cache, self._binding.get_outputs()[1:], strict=True):
            self._bound[name] = made
            self._binding.bind_ortvalue_input(name, made)

    def _bind_input(self, name: str, values: NDArray[Any]) -> None:
        self._bound[name] = onnxruntime.OrtValue.ortvalue_from_numpy(values)
        self._binding.bind_ortvalue_input(name, self._bound[name])

    def stats(self) -> SessionStats:
        return SessionStats(self._bytes, sum(self._bound[name].tensor_size_in_bytes() for name in self._cache))

    def close(self) -> None:
        self._model = self._binding = None
        self._bound.clear()
        self._cache.clear()


def _present(name: str) -> str:
    """The output that goes with a past_key_values input."""
    return name.replace("past_key_values", "present")
