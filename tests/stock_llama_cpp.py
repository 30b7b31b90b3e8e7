"""Logits of stock llama.cpp, through llama-cpp-python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models_random import VOCAB
from numpy.typing import NDArray


def llama_cpp_logits(path: Path, tokens: list[int]) -> NDArray[np.float32]:
    """(T, vocab) float32 from stock llama.cpp, with a float32 attention cache and no flash attention."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise ValueError(f"llama.cpp refuses {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 128
    params.type_k = params.type_v = 0  # GGML_TYPE_F32
    params.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for position, token in enumerate(tokens):
        batch.token[position], batch.pos[position] = token, position
        batch.n_seq_id[position], batch.seq_id[position][0], batch.logits[position] = 1, 0, 1
    assert llama_cpp.llama_decode(context, batch) == 0
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), VOCAB)).copy()
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits
