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
_AT_ONCE = 512  # positions per run: bounds the attention matrix
# In the graph's metadata: the positions that it is good for, and the bytes of each format as JSON.
_CONTEXT, _TYPES = "edgekit.context", "edgekit.types"


def load(path: Path, *, context: int | None, threads: int | None, cache: CacheTypes | None = None) -> OnnxSession:
    """Open a folder that edgekit exported; keys and values are float32.

    Raises InputError for a damaged or foreign folder or a cache type.
    """
    if cache is not None:
        raise InputError("the onnx runtime keeps keys and values in float32: leave --cache-type out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = choose_threads(threads)
    model = _open(path, options)
    trained = model.get_modelmeta().custom_metadata_map.get(_CONTEXT, "")
    if not trained.isdecimal():
        raise InputError(f"{path}/model.onnx does not say its context: export it with 'edgekit export --format onnx'")
    return OnnxSession(path, model, choose_context(context, int(trained), path))


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
    options.log_severity_level = 3  # errors: it warns of the input that may be left out
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        reason = str(error).partition(" : ")[2].partition("\n")[0]
        raise InputError(f"ONNX Runtime refuses {file}: {reason}: export the model again") from error


class OnnxSession(Tokens):
    """A `Session` of ONNX Runtime.

    The cache is allocated once for the whole context, and bound as input and as output: GroupQueryAttention then
    appends in place and nothing is copied from token to token. The system lends its memory as it fills.
    """

    def __init__(self, path: Path, model: Any, context: int) -> None:
        self.vocab: int = next(output.shape[-1] for output in model.get_outputs() if output.name == "logits")
        super().__init__(lambda: read_folder(path, read_config(path), self.vocab).padded(self.vocab, path))
        self.context = context
        self._model, self._binding = model, model.io_binding()
        self._bytes = sum(file.stat().st_size for file in path.glob("model.onnx*"))
        self._mask = np.ones((1, context), np.int64)
        self._cache: dict[str, NDArray[np.float32]] = {}
        self._bound: dict[str, Any] = {}  # the binding does not keep the memory of what is bound to it
        for value in model.get_inputs():
            if value.name.startswith("past_key_values."):
                _, heads, _, size = value.shape
                self._cache[value.name] = np.zeros((1, heads, context, size), np.float32)
                self._bind_input(value.name, self._cache[value.name])
                self._bind_output(value.name.replace("past_key_values", "present"), self._cache[value.name])
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def reset(self) -> None:
        self._position = 0

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
        self._bind_output("logits", logits[None])
        self._model.run_with_iobinding(self._binding)
        self._position += len(ids)

    def _bind_input(self, name: str, values: NDArray[Any]) -> None:
        self._bound[name] = onnxruntime.OrtValue.ortvalue_from_numpy(values)
        self._binding.bind_ortvalue_input(name, self._bound[name])

    def _bind_output(self, name: str, values: NDArray[Any]) -> None:
        self._bound[name] = onnxruntime.OrtValue.ortvalue_from_numpy(values)
        self._binding.bind_ortvalue_output(name, self._bound[name])

    def stats(self) -> SessionStats:
        return SessionStats(self._bytes, sum(values.nbytes for values in self._cache.values()))

    def close(self) -> None:
        self._model = self._binding = None
        self._bound.clear()
        self._cache.clear()
