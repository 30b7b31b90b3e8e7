"""edgekit._native's Model and Context, and the session on them: arrays, sequences, threads, signals, closing, files."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_random import random_checkpoint
from numpy.typing import NDArray
from plain_files import write_plain

from edgekit import _native
from edgekit.models.errors import InputError
from edgekit.runtimes import load, native

VOCAB = 4096
# Float activations make a micro-batch slow enough to be interrupted.
SLOW: dict[str, Any] = {"positions": 1024, "micro_batch": 16, "float_activations": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("files") / "model.gguf", "q4_k")


@pytest.fixture(scope="module")
def model(path: Path) -> _native.Model:
    return _native.Model(path, threads=2)


@pytest.fixture
def context(model: _native.Model) -> Iterator[_native.Context]:
    opened = _native.Context(model, positions=256, sequences=3)
    yield opened
    opened.close()


def ids(*tokens: int) -> NDArray[np.int32]:
    return np.array(tokens, np.int32)


def walk(count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)


def rows(count: int = 1) -> NDArray[np.float32]:
    return np.full((count, VOCAB), np.nan, np.float32)


def test_a_model_describes_itself(model: _native.Model, path: Path) -> None:
    assert (model.architecture, model.layers, model.hidden, model.head_dim) == ("llama", 8, 256, 32)
    assert (model.vocab, model.context, model.window, model.threads) == (VOCAB, 1024, 0, 2)
    assert [model.heads(layer) for layer in range(8)] == [(8, 4)] * 8
    assert model.isa in ("scalar", "avx2", "avx512vnni", "neon", "dotprod", "i8mm")
    data = path.stat().st_size
    assert 0.5 * data < model.weight_bytes + model.mapped_bytes < 1.1 * data
    assert 0 < model.decode_bytes <= model.weight_bytes
    with pytest.raises(ValueError, match="layer"):
        model.heads(8)
    assert _native.Model(path).threads == _native.big_cores() <= (os.cpu_count() or 1)


def test_progress_is_told(path: Path) -> None:
    told: list[tuple[int, int]] = []
    _native.Model(path, threads=1, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert {total for _, total in told} == {told[-1][0]}
    assert told[-1][0] > 1_000_000


def test_what_progress_raises_ends_loading(path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise LookupError(f"enough after {done}")

    with pytest.raises(LookupError, match="enough after"):
        _native.Model(path, progress=stop)


def test_logits_are_written_where_they_are_wanted(context: _native.Context) -> None:
    memory = rows(5)
    context.prefill(0, walk(20), memory[1:4])
    assert np.isnan(memory[[0, 4]]).all() and np.isfinite(memory[1:4]).all()
    assert context.length(0) == 20
    context.truncate(0, 0)
    context.prefill(0, walk(20)[:18])  # without logits
    again = rows(2)
    context.prefill(0, walk(20)[18:], again)
    np.testing.assert_allclose(again, memory[2:4], atol=0.02)


def test_sequences_do_not_disturb_each_other(model: _native.Model, context: _native.Context) -> None:
    """Prefix shared by a fork, then decoded together at different lengths: as each sequence alone."""
    prefix, tails = walk(37), (walk(5, 1), walk(5, 2), walk(5, 3))
    context.prefill(0, prefix)
    context.fork(0, 1)
    allocated, peak, shared = context.cache_bytes()
    assert 0 < shared <= allocated <= peak
    context.prefill(2, prefix[:10])
    got = rows(3)
    for step in range(5):
        context.decode(np.array([2, 0, 1], np.uint32), ids(*(tails[which][step] for which in (2, 0, 1))), got)
    assert [context.length(sequence) for sequence in range(3)] == [42, 42, 15]
    alone = _native.Context(model, positions=64)
    for row, (which, start) in enumerate([(2, prefix[:10]), (0, prefix), (1, prefix)]):
        alone.truncate(0, 0)
        expected = rows()
        alone.prefill(0, np.concatenate([start, tails[which]]), expected)
        np.testing.assert_allclose(got[row], expected[0], atol=0.02)
        assert np.abs(got[row] - got[row - 1]).max() > 0.5


def test_truncated_tokens_are_forgotten(context: _native.Context) -> None:
    first, again = rows(), rows()
    context.prefill(0, walk(30))
    context.decode(np.zeros(1, np.uint32), ids(7), first)
    context.prefill(0, walk(50, 5))
    context.truncate(0, 30)
    context.decode(np.zeros(1, np.uint32), ids(7), again)
    np.testing.assert_array_equal(first, again)


WRONG: dict[str, tuple[Callable[[_native.Context], object], str]] = {
    "tokens of 64 bits": (lambda c: c.prefill(0, np.zeros(3, np.int64)), "tokens must be int32"),
    "tokens in a matrix": (lambda c: c.prefill(0, np.zeros((3, 1), np.int32)), r"tokens must be \(T,\), not \(3, 1\)"),
    "every other token": (lambda c: c.prefill(0, np.zeros(8, np.int32)[::2]), "tokens must be C-contiguous"),
    "no token": (lambda c: c.prefill(0, ids()), "."),
    "a token too large": (lambda c: c.prefill(0, ids(5, VOCAB)), str(VOCAB)),
    "a token below 0": (lambda c: c.prefill(0, ids(-1)), "-1"),
    "no such sequence": (lambda c: c.prefill(3, ids(1)), "sequence"),
    "logits of 64 bits": (lambda c: c.prefill(0, ids(1), np.zeros((1, VOCAB))), "logits must be float32"),
    "logits of one vector": (lambda c: c.prefill(0, ids(1), rows()[0]), rf"\(4096,\) do not fit: .*\(N, {VOCAB}\)"),
    "narrow logits": (lambda c: c.prefill(0, ids(1), np.zeros((1, 7), np.float32)), r"\(1, 7\) do not fit"),
    "more rows than tokens": (lambda c: c.prefill(0, ids(1, 2), rows(3)), "3 rows for 2 tokens"),
    "no rows": (lambda c: c.prefill(0, ids(1, 2), rows(0)), "0 rows for 2 tokens"),
    "logits with gaps": (lambda c: c.prefill(0, ids(1, 2), rows(4)[::2]), "logits must be C-contiguous"),
    "logits in a list": (lambda c: c.prefill(0, ids(1), [[0.0]]), "logits must be None or a writable float32 array"),
    "logits that are read-only": (
        lambda c: c.prefill(0, ids(1), np.broadcast_to(np.float32(0), (1, VOCAB))),
        "logits must be None or a writable float32 array",
    ),
    "sequences of 64 bits": (lambda c: c.decode(np.zeros(1, np.int64), ids(1)), "sequences must be uint32"),
    "a token too many": (lambda c: c.decode(np.zeros(1, np.uint32), ids(1, 2)), "one token for each"),
    "a sequence twice": (lambda c: c.decode(np.zeros(2, np.uint32), ids(1, 2)), "."),
    "a row too few": (lambda c: c.decode(np.arange(2, dtype=np.uint32), ids(1, 2), rows(1)), r"they are \(2, 4096\)"),
    "more than fits": (lambda c: c.prefill(0, walk(257)), "."),
    "a length beyond the end": (lambda c: c.truncate(0, 5), "."),
    "a fork of nothing": (lambda c: c.fork(0, 9), "sequence"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case: str, context: _native.Context) -> None:
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(context)
    assert [context.length(sequence) for sequence in range(3)] == [0, 0, 0]


def test_wrong_parameters_of_a_context(model: _native.Model) -> None:
    with pytest.raises(ValueError, match="no cache type is called 'q5_0': there are f16, q8_0 and q4_0"):
        _native.Context(model, key_type="q5_0")
    with pytest.raises(ValueError, match="positions"):
        _native.Context(model, positions=2**32 - 1)


class InThread(threading.Thread):
    """Runs work; what it raised or returned."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self._work, self.result, self.raised = work, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result: object = self._work()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.raised: Exception | None = error


def test_cancel_ends_a_prefill_after_a_micro_batch(model: _native.Model) -> None:
    context, tokens = _native.Context(model, **SLOW), walk(1000)
    context.cancel()  # nothing is under way: without effect
    at_work = InThread(lambda: context.prefill(0, tokens))
    while at_work.is_alive():
        time.sleep(0.05)
        context.cancel()
    assert isinstance(at_work.raised, _native.Cancelled)
    done = context.length(0)
    assert 0 < done < 1000 and done % 16 == 0
    got, expected = rows(), rows()
    context.prefill(0, tokens[done : done + 40], got)
    context.truncate(0, 0)
    context.prefill(0, tokens[: done + 40], expected)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_ctrl_c_ends_a_prefill(model: _native.Model) -> None:
    tokens, start = walk(1000), time.perf_counter()
    _native.Context(model, **SLOW).prefill(0, tokens)
    whole = time.perf_counter() - start
    context = _native.Context(model, **SLOW)
    interrupt = threading.Timer(whole / 4, os.kill, (os.getpid(), signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            context.prefill(0, tokens)
        interrupt.join()
    finally:
        signal.signal(signal.SIGINT, handler)
    done = context.length(0)
    assert 0 < done < 1000 and done % 16 == 0
    context.prefill(0, tokens[:1], rows())  # it works on


def test_python_runs_while_c_works(model: _native.Model) -> None:
    context = _native.Context(model, **SLOW)
    at_work, turns = InThread(lambda: context.prefill(0, walk(200))), 0
    while at_work.is_alive():
        time.sleep(0.001)
        turns += 1
    assert at_work.raised is None
    assert turns > 20


def test_one_thread_at_a_time_uses_a_context(model: _native.Model) -> None:
    context = _native.Context(model, **SLOW)
    at_work = InThread(lambda: context.prefill(0, walk(400)))
    time.sleep(0.05)
    for call in (lambda: context.prefill(0, ids(1)), lambda: context.length(0), context.close):
        with pytest.raises(RuntimeError, match="works in another thread"):
            call()
    at_work.join()
    assert at_work.raised is None
    assert context.length(0) == 400


def test_two_contexts_share_a_model(model: _native.Model) -> None:
    def run(seed: int) -> NDArray[np.float32]:
        context, logits = _native.Context(model, positions=256), rows()
        context.prefill(0, walk(100, seed), logits)
        for token in walk(20, seed + 10):
            context.decode(np.zeros(1, np.uint32), ids(token), logits)
        return logits

    expected = [run(seed) for seed in range(4)]
    threads = [InThread(lambda seed=seed: run(seed)) for seed in range(4)]  # type: ignore[misc]
    for thread, wanted in zip(threads, expected, strict=True):
        thread.join()
        np.testing.assert_array_equal(thread.result, wanted)


def test_closing_in_any_order(path: Path) -> None:
    model = _native.Model(path, threads=1)
    context = _native.Context(model, positions=32)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="the model is closed"):
        _ = model.vocab
    with pytest.raises(ValueError, match="the model is closed"):
        _native.Context(model)
    logits = rows()
    context.prefill(0, ids(1, 2), logits)  # the context holds what it needs
    assert np.isfinite(logits).all()
    context.close()
    context.close()
    for call in (lambda: context.prefill(0, ids(1)), lambda: context.length(0), context.cancel, context.cache_bytes):
        with pytest.raises(ValueError, match="the context is closed"):
            call()
    other = _native.Context(_native.Model(path, threads=1), positions=32)  # the model's name is gone
    other.prefill(0, ids(1, 2), logits)


def test_a_closed_session_says_so(path: Path) -> None:
    session = load(path, context=32)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.prefill([1])


def test_sessions_give_the_memory_back(path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").is_file():
        pytest.skip("this system does not tell its resident memory")
    for count in range(30):
        session = load(path, context=512, threads=1)
        session.prefill([int(token) for token in walk(64)])
        session.close()
        if count == 4:
            before = resident()
    assert resident() - before < 8_000_000  # 25 models of 4 MB each, and their caches


RESIDENT = """
import json, sys
from edgekit import _native

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))

before = resident()
model = _native.Model(sys.argv[1], threads=2)
context = _native.Context(model, positions=512)
loaded, cache = resident(), context.cache_bytes()[0]
import numpy as np
start = resident() - loaded + before
context.prefill(0, np.arange(2, 512, dtype=np.int32), np.empty((1, model.vocab), np.float32))
print(json.dumps([loaded - before, cache, resident() - start, context.cache_bytes()[0]]))
"""


def test_memory_is_the_file_and_the_cache(tmp_path: Path) -> None:
    """In a process of its own: packed weights take the place of the file's pages, and no second copy is left."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("this system does not tell its resident memory")
    path = write_plain(tmp_path / "model.gguf", "f16")
    file = path.stat().st_size
    assert file > 12e6
    run = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    loaded, empty_cache, used, full_cache = json.loads(run.stdout)
    assert 0.8 * file < loaded <= file + empty_cache + 4e6
    assert used <= file + full_cache + 64e6  # scratch for a micro-batch of 512 tokens, too


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    return write_plain(folder / "model.gguf", "q8_0", random_checkpoint(folder / "model", "gemma3"))


def test_windows_bound_the_cache(gemma: Path) -> None:
    """Of gemma's three layers two see 24 positions alone: the cache grows by the third one's."""
    model = _native.Model(gemma, threads=1)
    assert model.window == 24
    context = _native.Context(model, positions=256, micro_batch=16)
    context.prefill(0, walk(96))
    before, _, _ = context.cache_bytes()
    context.prefill(0, walk(128))
    after, _, _ = context.cache_bytes()
    one_layer = 128 * 2 * 2 * 32 * 2  # positions, keys and values, KV heads, dimensions (16 of them empty), bytes
    assert one_layer <= after - before < 1.3 * one_layer
    with pytest.raises(ValueError, match="window"):
        context.truncate(0, 100)
    context.truncate(0, 0)


def damaged(whole: bytes) -> dict[str, tuple[bytes, str]]:
    """Name -> what a file holds, and what its error says."""
    name = b"general.architecture"
    place = whole.index(name) + len(name) + 4
    return {
        "nothing": (b"", "."),
        "not a GGUF": (b"PK\3\4" + whole[4:], "GGUF"),
        "version 9": (whole[:4] + struct.pack("<I", 9) + whole[8:], "version"),
        "2 ** 60 tensors": (whole[:8] + struct.pack("<Q", 2**60) + whole[16:], "."),
        "2 ** 60 keys": (whole[:16] + struct.pack("<Q", 2**60) + whole[24:], "."),
        "an unknown architecture": (whole[:place] + struct.pack("<Q", 5) + b"mamba" + whole[place + 13 :], "mamba"),
        "cut in its header": (whole[:300], "."),
        "cut in its tensors": (whole[:-1000], "."),
        "a missing tensor": (whole.replace(b"blk.2.ffn_up.weight", b"blk.2.ffn_xx.weight"), "blk.2.ffn_up.weight"),
        "a tensor of another size": (whole.replace(b"blk.3.attn_q.weight", b"blk.3.attn_k.weight"), "blk.3.attn_"),
    }


@pytest.mark.parametrize("name", list(damaged(b"general.architecture" + bytes(20))))
def test_damaged_files(name: str, path: Path, tmp_path: Path) -> None:
    content, message = damaged(path.read_bytes())[name]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        _native.Model(bad)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        native.load(bad, context=None, threads=1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(ValueError, match=str(name)):
            _native.Model(name)
    with pytest.raises(TypeError):
        _native.Model(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="null byte"):
        _native.Model("a\0b")


def test_a_name_that_is_not_utf_8(path: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/m\xff.gguf"
    Path(os.fsdecode(name)).write_bytes(path.read_bytes())
    assert _native.Model(os.fsdecode(name)).vocab == VOCAB


def test_an_unknown_level_is_named(path: Path) -> None:
    program = "import sys; from edgekit import _native; _native.Model(sys.argv[1])"
    environment = {**os.environ, "EDGEKIT_ISA": "mmx"}
    command = [sys.executable, "-c", program, str(path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ValueError" in run.stderr and "EDGEKIT_ISA in the environment" in run.stderr


BARE = """
import sys
for name in ("torch", "transformers", "safetensors", "huggingface_hub", "llama_cpp", "jinja2", "scipy"):
    sys.modules[name] = None
from edgekit.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_base_packages_are_enough(path: Path) -> None:
    """What `pip install edgekit` brings runs and benches a file."""
    for code, line in (
        (0, ["run", str(path), "-p", "Once upon a time", "-n", "8"]),
        (3, ["bench", str(path), "--prompt-tokens", "8", "--gen-tokens", "4", "--reps", "1", "--json"]),  # few runs
        (0, ["inspect", str(path)]),
    ):
        run = subprocess.run([sys.executable, "-c", BARE, *line], capture_output=True, text=True, check=False)
        assert run.returncode == code, run.stderr
        assert run.stdout.strip()
