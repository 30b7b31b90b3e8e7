"""Any decoder with ONNX Runtime GenAI's names for inputs and outputs, run the same way whoever wrote it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgekit.models.errors import InputError

MODEL = "model.onnx"


def model_bytes(folder: Path) -> int:
    """The graph and the weights beside it."""
    return sum(file.stat().st_size for file in folder.glob(f"{MODEL}*"))


def tensor_bytes(folder: Path) -> int:
    """The weights and tables alone: graphs differ in what they say of themselves."""
    tensors = onnx.load(folder / MODEL, load_external_data=False).graph.initializer
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}
    sizes = {each: 8 * onnx.helper.tensor_dtype_to_np_dtype(each).itemsize for each in {t.data_type for t in tensors}}
    return sum(-(-prod(t.dims) * bits.get(t.data_type, sizes[t.data_type]) // 8) for t in tensors)


class GraphSession:
    """One sequence, its cache allocated once and bound as input and as output, as GroupQueryAttention wants it.

    It is plainer than `edgekit.runtimes.onnx`, which refuses folders of other makers; no side gets anything of its own
    but the number of logits, where its graph takes one.
    """

    def __init__(self, folder: Path, head_dim: int, context: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._model = onnxruntime.InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])
        inputs = {value.name: value for value in self._model.get_inputs()}
        unknown = {name for name in inputs if not name.startswith("past_key_values.")}
        unknown -= {"input_ids", "attention_mask", "logits_to_keep"}
        if unknown:
            raise InputError(f"{folder / MODEL} has inputs that nothing is known of: {', '.join(sorted(unknown))}")
        # An input that may be left out is not among `get_inputs`.
        optional = {value.name for value in self._model.get_overridable_initializers()}
        self._takes_logits, self._logits = "logits_to_keep" in optional, 0
        self._binding, self._position = self._model.io_binding(), 0
        self._mask = np.ones((1, context), np.int64)
        self._bound: dict[str, Any] = {}  # the binding does not keep the memory of what is bound to it
        for name, value in inputs.items():
            if name.startswith("past_key_values."):
                empty = np.zeros((1, value.shape[1], context, head_dim), np.float32)
                self._feed(name, empty)
                self._binding.bind_ortvalue_output(name.replace("past_key_values", "present"), self._bound[name])

    def reset(self) -> None:
        self._position = 0  # what lies beyond is never read

    def run(self, ids: NDArray[np.int64], logits: int) -> NDArray[np.float32]:
        """Append tokens (T,); the logits (R, vocab) of the last R = `logits`, or of more where the graph gives more."""
        self._position += len(ids)
        self._feed("input_ids", ids[None])
        self._feed("attention_mask", self._mask[:, : self._position])
        if self._takes_logits and logits != self._logits:
            self._feed("logits_to_keep", np.array([logits]))
            self._logits = logits
        self._binding.bind_output("logits")  # anew: what a run has put out is kept as the place for the next
        self._model.run_with_iobinding(self._binding)
        return self._binding.get_outputs()[-1].numpy()[0]

    def _feed(self, name: str, values: NDArray[Any]) -> None:
        self._bound[name] = onnxruntime.OrtValue.ortvalue_from_numpy(values)
        self._binding.bind_ortvalue_input(name, self._bound[name])
