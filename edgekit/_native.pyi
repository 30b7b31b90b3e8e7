"""edgekit's C core: block encoders and decoders, and the runtime.

Arguments of a wrong shape, dtype or layout raise ValueError.
"""

from collections.abc import Callable
from os import PathLike

import numpy as np
from numpy.typing import NDArray

def encode(
    format: str,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    threads: int = 1,
    isa_level: int = -1,
) -> NDArray[np.uint8]: ...
def isa_levels() -> int: ...
def decode(format: str, blocks: NDArray[np.uint8], columns: int, threads: int = 1) -> NDArray[np.float32]: ...
def unpack(
    format: str, blocks: NDArray[np.uint8], columns: int, threads: int = 1
) -> tuple[NDArray[np.int8] | NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]: ...
def levels(format: str) -> NDArray[np.float32] | None: ...
def layout(format: str) -> dict[str, int]: ...
def compensate(
    format: str,
    values: NDArray[np.float32],
    blocks: NDArray[np.uint8],
    factor: NDArray[np.float32],
    order: NDArray[np.int32],
    threads: int = 1,
    isa_level: int = -1,
) -> NDArray[np.uint8]:
    """Error-compensated rounding (GPTQ, arXiv 2210.17323): new codes, the scales those of `blocks`.

    `values` (N, K) and their `blocks` (N, B); columns are rounded in the `order` (K,), and `factor` (K, K) is the upper
    Cholesky factor of H^-1 with rows and columns in that order. What is below its diagonal is not read.
    """

def descend(
    format: str,
    values: NDArray[np.float32],
    blocks: NDArray[np.uint8],
    hessian: NDArray[np.float32],
    sweeps: int,
    threads: int = 1,
    isa_level: int = -1,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Coordinate descent of e^T H e, e = decoded - values, on all scales, minima and codes of `blocks`.

    The upper triangle of `hessian` (K, K) is read. A row ends early once a sweep leaves it as it is. Returns the blocks
    and each row's e^T H e (N,), which is at most that of the blocks given; 0 sweeps measure.
    """

def big_cores() -> int:
    """The cores that a model's threads run on where no number is asked for."""

def read_passes(mebibytes: int, passes: int, threads: int = 0) -> list[float]:
    """The seconds of each of several passes that read so much memory, laid out as a model's weights are.

    `threads` 0: one for each big core. MemoryError where there is not so much.
    """

class Cancelled(RuntimeError):
    """`Context.cancel` ended the call; the micro-batches that were finished before are kept."""

class Model:
    """A GGUF, its weights packed for this machine. Any number of threads may use it.

    Raises ValueError with the C library's sentence for a file that is damaged, not there or not supported.
    """

    def __init__(
        self, path: str | PathLike[str], threads: int = 0, progress: Callable[[int, int], object] | None = None
    ) -> None:
        """`threads` 0: one for each big core. `progress(done, total)` is told bytes; what it raises ends loading."""

    @property
    def architecture(self) -> str: ...
    @property
    def isa(self) -> str:
        """The level of the kernels, as "avx512vnni"."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def context(self) -> int:
        """Positions that it was trained for."""

    @property
    def window(self) -> int:
        """Of its sliding-window layers; 0 without any."""

    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int:
        """In memory, packed."""

    @property
    def mapped_bytes(self) -> int:
        """Left in the file and read where needed: an embedding that is not also the head."""

    @property
    def decode_bytes(self) -> int:
        """Of weights that every decoded token reads."""

    def heads(self, layer: int) -> tuple[int, int]:
        """Query and KV heads of a layer."""

    def close(self) -> None:
        """A second call does nothing. Contexts keep the model's memory until they are closed too."""

class Context:
    """Sequences of tokens and their attention cache. One thread at a time; only `cancel` may come from another.

    A full cache and wrong arguments raise ValueError and change nothing; MemoryError likewise.
    """

    def __init__(
        self,
        model: Model,
        positions: int = 0,
        sequences: int = 1,
        key_type: str = "f16",
        value_type: str = "f16",
        micro_batch: int = 0,
        float_activations: bool = False,
    ) -> None:
        """Zeros: the C library's defaults. Types are f16, q8_0 or q4_0; with `float_activations`, which multiplies
        without rounding activations and slowly, both are float32.
        """

    def prefill(self, sequence: int, tokens: NDArray[np.int32], logits: NDArray[np.float32] | None = None) -> None:
        """Append tokens (T,); the logits of the last N of them are written into `logits` (N, vocab).

        Other threads run meanwhile; Ctrl-C ends it after the micro-batch under way, whose tokens are kept.
        """

    def decode(
        self, sequences: NDArray[np.uint32], tokens: NDArray[np.int32], logits: NDArray[np.float32] | None = None
    ) -> None:
        """Append one token to each of the different sequences (S,); `logits` (S, vocab)."""

    def length(self, sequence: int) -> int:
        """The tokens of a sequence."""

    def truncate(self, sequence: int, length: int) -> None:
        """Forget the tokens from `length` on; ValueError where a sliding window has let go of what is needed then."""

    def fork(self, source: int, target: int) -> None:
        """The target becomes a copy of the source; memory is shared until one of them writes to it."""

    def cache_bytes(self) -> tuple[int, int, int]:
        """Allocated now, at most so far, and of those allocated what sequences share."""

    def cancel(self) -> None:
        """The call that another thread has under way raises Cancelled: a prefill before its next micro-batch, a decode
        before its next layer, with the sequences as they were.
        """

    def close(self) -> None:
        """Free the cache; a second call does nothing."""

class Sampler:
    """Chooses tokens: repetition penalty of the last 64, top-k, top-p, min-p, temperature, in this order.

    The same parameters, logits and calls give the same tokens on every machine. For one thread at a time.
    """

    def __init__(
        self,
        vocab: int,
        *,
        temperature: float = 0,
        top_k: int = 0,
        top_p: float = 1,
        min_p: float = 0,
        repetition_penalty: float = 1,
        seed: int = 0,
    ) -> None:
        """Temperature 0 takes the greatest logit; the other defaults keep all. ValueError for one out of range."""

    def choose(self, logits: NDArray[np.float32]) -> int:
        """A token drawn from logits (vocab,), which is remembered; ValueError where they are no numbers."""

    def accept(self, token: int) -> None:
        """Remember a token that was not chosen here, for the repetition penalty."""
