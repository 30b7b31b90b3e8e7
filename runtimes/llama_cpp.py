"""Run a GGUF in llama.cpp, through the C API that llama-cpp-python binds (its shared library, its ctypes)."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError, MissingExtra
from edgekit.runtimes.attention_cache import MICRO_BATCH, cache_bytes
from edgekit.runtimes.session import CacheTypes, SessionStats, check_tokens, choose_context, choose_threads

try:
    import llama_cpp
except ModuleNotFoundError as error:
    raise MissingExtra("llama-cpp-python", "llama-cpp") from error

_WARN, _ERROR = 3, 4  # GGML_LOG_LEVEL_*
_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # GGML_TYPE_*


class _Log:
    """llama.cpp's log: silent, with what it said kept while `listening`; all of it on stderr where `debug`."""

    def __init__(self) -> None:
        self.debug = False
        self.lines: list[tuple[int, str]] = []
        self._listening = False
        # The callback must outlive every call of the library: this object is kept by `_log`'s cache.
        self._callback = llama_cpp.llama_log_callback(self._receive)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", "replace")
        if self.debug:
            sys.stderr.write(line)
        if self._listening:
            self.lines.append((level, line))

    @contextmanager
    def listening(self) -> Iterator[list[tuple[int, str]]]:
        self.lines, self._listening = [], True
        try:
            yield self.lines
        finally:
            self._listening = False


@lru_cache(maxsize=1)
def _log() -> _Log:
    return _Log()


def set_debug(debug: bool) -> None:
    """Show llama.cpp's own log on stderr."""
    _log().debug = debug


def load(path: Path, *, context: int | None, threads: int | None, cache: CacheTypes | None = None) -> LlamaCppSession:
    """Open a GGUF on the CPU; `cache` None means float16.

    Raises InputError with llama.cpp's own reason where it refuses the file.
    """
    cores = choose_threads(threads)
    cache = cache or CacheTypes("f16", "f16")
    with _log().listening() as lines:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise InputError(f"llama.cpp refuses {path}: {_reason(lines)}: export the model again")
        try:
            positions = choose_context(context, llama_cpp.llama_model_n_ctx_train(model), path)
            handle = llama_cpp.llama_init_from_model(model, _context_params(positions, cores, cache))
            if not handle:
                raise InputError(f"llama.cpp cannot allocate a context of {positions} for {path}: {_reason(lines)}")
        except BaseException:
            llama_cpp.llama_model_free(model)
            raise
    warnings = [text.strip() for level, text in lines if level in (_WARN, _ERROR)]
    return LlamaCppSession(path, model, handle, positions, cache, warnings)


def _context_params(positions: int, threads: int, cache: CacheTypes) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = positions
    params.n_batch = params.n_ubatch = min(MICRO_BATCH, positions)
    params.n_threads = params.n_threads_batch = threads
    params.offload_kqv = params.op_offload = False
    params.swa_full = False
    params.no_perf = True
    params.type_k, params.type_v = _TYPES[cache.keys], _TYPES[cache.values]
    return params


def _reason(lines: Sequence[tuple[int, str]]) -> str:
    errors = [text.strip() for level, text in lines if level == _ERROR and text.strip()]
    # The first error is the cause ("tensor 'x' has wrong shape"), the later ones are its echoes.
    if not errors:
        return "no reason given"
    return errors[0].split(": ", 1)[-1].removeprefix("error loading model: ").rstrip(".")


def _free(handle: Any, model: Any) -> None:
    llama_cpp.llama_free(handle)
    llama_cpp.llama_model_free(model)


class LlamaCppSession:
    """A `Session` of llama.cpp: flash attention as llama.cpp chooses, CPU only."""

    def __init__(
        self, path: Path, model: Any, handle: Any, context: int, cache: CacheTypes, warnings: list[str]
    ) -> None:
        self._path, self._model, self._handle, self._cache, self._position = path, model, handle, cache, 0
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)
        self._memory = llama_cpp.llama_get_memory(handle)
        self.vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self.context = context
        self.warnings = warnings  # what llama.cpp warned of at load
        self.close = weakref.finalize(self, _free, handle, model)

    @property
    def position(self) -> int:
        return self._position

    @cached_property
    def bos(self) -> int | None:
        wanted = llama_cpp.llama_vocab_get_add_bos(self._vocabulary)
        token = llama_cpp.llama_vocab_bos(self._vocabulary)
        return token if wanted and token >= 0 else None

    @cached_property
    def eos(self) -> int | None:
        token: int = llama_cpp.llama_vocab_eos(self._vocabulary)
        return token if token >= 0 else None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        is_end = llama_cpp.llama_vocab_is_eog
        return frozenset(token for token in range(self.vocab) if is_end(self._vocabulary, token))

    @cached_property
    def chat_template(self) -> str | None:
        template: bytes | None = llama_cpp.llama_model_chat_template(self._model, None)
        return template.decode("utf-8", "replace") if template else None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        raw = text.encode()
        size = len(raw) + 8  # a token is at least a byte, but for a prefixed space
        while True:
            tokens = (llama_cpp.llama_token * size)()
            count: int = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), tokens, size, False, special)
            if count >= 0:
                return list(tokens[:count])
            size = -count

    def decode_bytes(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def token_text(self, token: int) -> str:
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocabulary, token)
        return text.decode("utf-8", "replace")

    def reset(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self._run(tokens, len(tokens) - 1).reshape(-1)

    def decode(self, token: int) -> NDArray[np.float32]:
        return self._run((token,), 0).reshape(-1)

    def score(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        self.reset()
        return self._run(tokens, first)

    def _run(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """Append tokens batch by batch; the logits (len(tokens) - first, vocab) of those at `first` and later."""
        check_tokens(tokens, self)
        assert 0 <= first < len(tokens)
        logits = np.empty((len(tokens) - first, self.vocab), np.float32)
        filled = 0
        for start in range(0, len(tokens), MICRO_BATCH):
            part = tokens[start : start + MICRO_BATCH]
            outputs = min(len(part), max(0, start + len(part) - first))  # the last ones of this part
            self._process(part, outputs)
            if outputs:
                # One row per asked position, in order, in the library's memory: valid until the next batch, so copied.
                rows = llama_cpp.llama_get_logits(self._handle)
                logits[filled : filled + outputs] = np.ctypeslib.as_array(rows, (outputs, self.vocab))
                filled += outputs
        return logits

    def _process(self, tokens: Sequence[int], outputs: int) -> None:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i] = int(token)
                batch.pos[i] = self._position + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = i >= len(tokens) - outputs
            status = llama_cpp.llama_decode(self._handle, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with status {status} at position {self._position}")
        self._position += len(tokens)

    def stats(self) -> SessionStats:
        try:
            cache = cache_bytes(open_checkpoint(self._path, quantised=True).spec, self.context, types=self._cache)
        except InputError:  # a family that llama.cpp knows and edgekit does not: the library has no call that tells
            cache = None
        return SessionStats(model_bytes=llama_cpp.llama_model_size(self._model), cache_bytes=cache)
