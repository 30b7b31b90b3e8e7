"""How exact the native runtime is: on every family's random model and on the sample, against transformers on the
dequantised weights, beside llama.cpp, and on every level of this machine's kernels.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from models_random import VARIANTS, VOCAB, random_checkpoint, random_model, variant_id
from numpy.typing import NDArray
from plain_files import SAMPLE, needs, story, write_plain
from test_native import PROCESSORS, built, demand, run

from edgekit.evaluation import evaluate
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.families import family_named
from edgekit.models.sources.stored import TensorSource
from edgekit.runtimes import load, native

pytestmark = needs("torch")
FLOAT_TOLERANCE = 1e-4  # of the largest logit
AS_LLAMA = 1.05  # times llama.cpp's distance
LEVELS = ("scalar", "avx2", "avx512vnni", "neon", "dotprod", "i8mm")
# Rows of the random models have 64 or 96 weights, which the types in blocks of 256 cannot store.
FORMATS = ("f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "iq4_nl")


def windows(count: int, length: int, seed: int = 0) -> list[list[int]]:
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (count, length))
    return [[int(token) for token in window] for window in tokens]


def scores(session: Any, token_windows: list[list[int]]) -> NDArray[np.float32]:
    """(windows x positions, vocab); the session is closed."""
    rows = np.concatenate([session.score(window, 0) for window in token_windows])
    session.close()
    return rows


def relative(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def sample_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(story(900), encoding="utf-8")
    return path


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_float_mode_equals_transformers(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """Each matrix in one type, two families in every type that carries them: what differs is the order of sums."""
    family, options = variant
    formats = ("f16", "q4_0") if options else ("f16", "q4_0", *FORMATS)
    folder = random_checkpoint(tmp_path / "model", family, **options)
    length = min(120, open_checkpoint(folder).spec.context)  # beyond every sliding window
    token_windows = windows(1, length)
    for format in formats:
        path = write_plain(tmp_path / f"{format}.gguf", format, folder)
        expected = scores(load(path, runtime="torch", threads=1), token_windows)
        session = native.load(path, context=None, threads=2, float_activations=True)
        assert relative(scores(session, token_windows), expected) < FLOAT_TOLERANCE, format
        assert np.abs(expected).max() > 1  # logits that would show a difference


@needs("llama.cpp")
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_int8_activations_are_as_near_as_llama_cpps(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """Root mean square over 600 positions of the distance from the torch reference on the same file."""
    family, options = variant
    folder = random_checkpoint(tmp_path / "model", family, **options)
    length = min(200, open_checkpoint(folder).spec.context)
    token_windows = windows(-(-600 // length), length)
    for format in ("q8_0", "q4_0"):
        path = write_plain(tmp_path / f"{format}.gguf", format, folder)
        expected = scores(load(path, runtime="torch", threads=1), token_windows)
        distance = {
            runtime: np.sqrt(np.mean((scores(load(path, runtime=runtime, threads=2), token_windows) - expected) ** 2))
            for runtime in ("native", "llama.cpp")
        }
        assert distance["native"] <= AS_LLAMA * distance["llama.cpp"], (format, distance)
        assert distance["native"] > 0  # int8: the comparison could have failed


@pytest.mark.parametrize("format", ["q4_k", "q5_k", "q6_k"])
def test_types_in_blocks_of_256(format: str, tmp_path: Path) -> None:
    path = write_plain(tmp_path / "model.gguf", format)
    token_windows = windows(1, 120)
    expected = scores(load(path, runtime="torch", threads=1), token_windows)
    session = native.load(path, context=None, threads=2, float_activations=True)
    assert relative(scores(session, token_windows), expected) < FLOAT_TOLERANCE
    assert 1e-4 < relative(scores(load(path, threads=2), token_windows), expected) < 0.1


@needs("llama.cpp")
@pytest.mark.parametrize(("format", "chunks"), [("q8_0", 25), ("q4_0", 5), ("q4_k", 5)])
def test_divergence_of_the_sample_is_as_small_as_llama_cpps(
    format: str, chunks: int, tmp_path: Path, sample_text: Path
) -> None:
    """On paired tokens; that of q8_0 is so small that it takes more of them to tell."""
    path = write_plain(tmp_path / "model.gguf", format)
    found = {
        runtime: evaluate(path, reference=SAMPLE, text=sample_text, runtime=runtime, threads=2, chunks=chunks)
        for runtime in ("native", "llama.cpp")
    }
    assert found["native"].tokens == found["llama.cpp"].tokens > 1000
    assert found["native"].kld_mean <= AS_LLAMA * found["llama.cpp"].kld_mean


@pytest.fixture(scope="module")
def side_by_side() -> ModuleType:
    """tests/side_by_side/native_accuracy.py, which measures all this on a real file."""
    path = Path(__file__).parent / "side_by_side" / "native_accuracy.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


@needs("llama.cpp")
def test_the_side_by_side_measures_the_same(side_by_side: ModuleType, tmp_path: Path, sample_text: Path) -> None:
    path = write_plain(tmp_path / "model.gguf", "q4_0")
    found = side_by_side.measure(path, SAMPLE, sample_text, chunks=3, length=128, threads=2)
    assert found["tokens"] == 3 * 63
    assert 1e-7 < found["float_activations"]["relative_difference"] < FLOAT_TOLERANCE
    for runtime in side_by_side.RUNTIMES:
        expected = evaluate(path, reference=SAMPLE, text=sample_text, runtime=runtime, chunks=3, context=128)
        assert found["int8_activations"]["f16"]["kld_from_checkpoint"][runtime] == pytest.approx(expected.kld_mean)
    for rows in found["int8_activations"].values():
        assert 0 < rows["kld_from_reference"]["native"] < rows["kld_from_checkpoint"]["native"]
        for row in rows.values():
            assert row["ratio"] == pytest.approx(row["native"] / row["llama.cpp"])
            assert 0 < row["ratio_stderr"] < 1
    assert side_by_side.show(found) in (True, False)
    found["int8_activations"]["f16"]["kld_from_checkpoint"]["ratio"] = 1.0501
    assert side_by_side.show(found) is False


def test_the_side_by_side_tells_its_noise(side_by_side: ModuleType) -> None:
    """Of a ratio of means of exponential variables, whose variance is 1; none where both move together."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.exponential(1, (2, 64 * 256))
    ratio, difference = side_by_side.bootstrap(ours, theirs, side_by_side.mean, window=256)
    assert ratio == pytest.approx((2 / len(ours)) ** 0.5, rel=0.15)
    assert difference == pytest.approx((2 / len(ours)) ** 0.5, rel=0.15)
    paired, _ = side_by_side.bootstrap(1.1 * theirs, theirs, side_by_side.mean, window=256)
    assert paired < 1e-12
    alike = np.repeat(rng.exponential(1, 64 * 8), 32)  # neighbours are the same: 32 times fewer to learn from
    _, clustered = side_by_side.bootstrap(alike, np.ones_like(alike), side_by_side.mean, window=256)
    assert clustered == pytest.approx((1 / (64 * 8)) ** 0.5, rel=0.15)


class _Pruned:
    """A checkpoint's tensors with only the first heads of a layer; `kept`: its query and KV heads."""

    def __init__(self, source: TensorSource, layer: int, kept: tuple[int, int], head_dim: int) -> None:
        self._source, self.stored = source, source.stored
        self._rows = {
            f"model.layers.{layer}.self_attn.{name}_proj.weight": heads * head_dim
            for name, heads in zip("qkv", (kept[0], kept[1], kept[1]), strict=True)
        }
        self._output = f"model.layers.{layer}.self_attn.o_proj.weight", kept[0] * head_dim

    def dtype(self, name: str) -> str:
        return self._source.dtype(name)

    def read(self, name: str) -> NDArray[np.float32]:
        values = self._source.read(name)
        if name == self._output[0]:
            return np.ascontiguousarray(values[:, : self._output[1]])
        return values[: self._rows.get(name, len(values))]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_counts_of_heads_per_layer(family: str, tmp_path: Path) -> None:
    """A layer without its last two query heads is one whose output projection ignores them."""
    import torch

    from edgekit.export.gguf import write_gguf
    from edgekit.models.spec import MATRIX_ROLES
    from edgekit.models.tokenizer import load_tokenizer
    from edgekit.quant.formats import format_of

    whole = open_checkpoint(random_checkpoint(tmp_path / "model", family))
    spec = replace(whole.spec, heads=(4, 2, 4), kv_heads=(2, 1, 2))
    source = _Pruned(whole.source, 1, (2, 1), spec.head_dim)
    pruned = Checkpoint(whole.path, spec, whole.config, family_named(family).tensors(spec), source)
    names = [tensor.name for tensor in pruned.tensors if tensor.role in MATRIX_ROLES]
    blocks = ((name, format_of("f32").encode(pruned.read(name), None)) for name in names)
    path = tmp_path / "pruned.gguf"
    write_gguf(pruned, load_tokenizer(whole), blocks, dict.fromkeys(names, "f32"), path)

    [window] = windows(1, 60)
    model = random_model(family)
    with torch.no_grad():
        complete = model(torch.tensor([window])).logits[0].numpy()
        model.model.layers[1].self_attn.o_proj.weight[:, 2 * spec.head_dim :] = 0
        expected = model(torch.tensor([window])).logits[0].numpy()
    session = native.load(path, context=None, threads=2, float_activations=True)
    assert [session.heads(layer) for layer in range(3)] == [(4, 2), (2, 1), (4, 2)]
    assert relative(scores(session, [window]), expected) < FLOAT_TOLERANCE
    assert relative(complete, expected) > 0.01


PROMPT = (0, 5, 90, 700, 31)
SAID = 64  # tokens
NEARLY = 1e-3  # a gap between the two greatest logits that the order of sums may close

# Greedy decoding of several files in one process, as importing takes longer than decoding.
GREEDY = """
import json, sys
from pathlib import Path
import numpy as np
from edgekit.runtimes import CacheTypes, load
prompt, count = json.loads(sys.argv[1])
for path, cache in json.loads(sys.argv[2]):
    session = load(Path(path), threads=1, cache=CacheTypes.parse(cache))
    rows = [session.prefill(prompt)]
    while len(rows) < count and session.position < session.context:
        rows.append(session.decode(int(rows[-1].argmax())))
    np.save(f"{path}.{cache}.{session.isa}.npy", rows)
print(session.isa)
"""


def first_difference(one: NDArray[np.integer], other: NDArray[np.integer]) -> int | None:
    places = np.flatnonzero(one != other)
    return int(places[0]) if len(places) else None


def gap(logits: NDArray[np.float32]) -> float:
    """Between the two greatest of (vocab,)."""
    second, greatest = np.sort(logits)[-2:]
    return float(greatest - second)


def levels_here(files: list[tuple[Path, str]]) -> list[str]:
    """Decode each (file, cache type) greedily at every level of this machine; the logits lie beside the files."""
    work = json.dumps([(str(path), cache) for path, cache in files])
    command = [sys.executable, "-c", GREEDY, json.dumps((PROMPT, SAID)), work]
    found = []
    for level in LEVELS:
        environment = {**os.environ, "EDGEKIT_ISA": level}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            assert "EDGEKIT_ISA" in done.stderr, done.stderr
        else:
            assert done.stdout.strip() == level
            found.append(level)
    return found


def rounding(path: Path, tokens: NDArray[np.integer], *runs: NDArray[np.float32]) -> float:
    """How far int8 activations move the last of each run's logits (T, vocab), in sum: from the torch reference's."""
    session = load(path, runtime="torch", threads=1)
    exact = session.prefill([*PROMPT, *(int(token) for token in tokens[: len(runs[0]) - 1])])
    session.close()
    return sum(float(np.abs(logits[-1] - exact).max()) for logits in runs)


def check_levels(files: list[tuple[Path, str]]) -> None:
    """Where two levels part, their two greatest logits were nearly the same.

    Vector levels add in one order. The scalar level, their oracle, adds in the obvious one: a sum beside the border of
    two integers is then rounded the other way, which moves logits by as much as rounding itself does.
    """
    levels = levels_here(files)
    assert levels[0] == "scalar"
    vector = levels[1]
    for path, cache in files:
        runs = {level: np.load(f"{path}.{cache}.{level}.npy") for level in levels}
        tokens = runs[vector].argmax(1)
        assert len(tokens) >= 40  # the shortest context is 48
        for level, logits in runs.items():
            place = first_difference(tokens, logits.argmax(1))
            if place is not None:
                between = runs[vector][: place + 1], logits[: place + 1]
                allowed = rounding(path, tokens, *between) if level == "scalar" else NEARLY
                assert gap(runs[vector][place]) < allowed, f"{path.name}, {cache}, {level}: token {place}"


CACHES = ("f16", "q8_0")


def test_every_level_says_the_same_with_the_sample(tmp_path: Path) -> None:
    """64 greedy tokens; a first difference is at two logits that are nearly the same."""
    paths = [write_plain(tmp_path / f"{format}.gguf", format) for format in ("f16", "q4_0", "q4_k")]
    check_levels([(path, cache) for path in paths for cache in CACHES])


def test_every_level_says_the_same_with_every_family(tmp_path: Path) -> None:
    files = []
    for number, (family, options) in enumerate(VARIANTS):
        folder = random_checkpoint(tmp_path / f"{number}", family, **options)
        for format in ("q8_0", "q4_0"):
            path = write_plain(tmp_path / f"{variant_id((family, options))}-{number}-{format}.gguf", format, folder)
            files += [(path, cache) for cache in CACHES]
    check_levels(files)


def generated(*program: object, model: Path, **environment: str) -> list[int] | None:
    """What examples/generate says after the prompt; None where the level that the environment names is not there."""
    done = run(*program, model, SAID, 0, *PROMPT, **environment)
    if done.returncode and "EDGEKIT_ISA" in done.stderr:
        return None
    return [int(line) for line in demand(done).split()]


@pytest.mark.parametrize("format", ["q4_0", "q4_k"])
def test_arm_processors_say_the_same(format: str, tmp_path: Path) -> None:
    """The example, linked statically, on three emulated processors and on every vector level of this machine."""
    path = write_plain(tmp_path / "model.gguf", format)
    said = {
        processor: generated("qemu-aarch64", "-cpu", processor, built("arm") / "generate", model=path)
        for processor in PROCESSORS
    }
    said |= {level: generated(built("native") / "generate", model=path, EDGEKIT_ISA=level) for level in LEVELS[1:]}
    reference = said["cortex-a72"]
    assert reference is not None and len(reference) == SAID
    session = load(path, threads=1)
    for name, tokens in said.items():
        if tokens is not None:
            assert len(tokens) == SAID
            place = first_difference(np.array(reference), np.array(tokens))
            if place is not None:
                session.reset()
                assert gap(session.prefill([*PROMPT, *reference[:place]])) < NEARLY, f"{name}: token {place}"


def test_threads_do_not_change_results(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "model.gguf", "q4_k")
    [window] = windows(1, 200)
    one, *others = (scores(load(path, threads=threads), [window]) for threads in (1, 2, 3))
    for other in others:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("types", "distance"), [("f16", 0.02), ("q8_0", 0.1), ("q8_0,q4_0", 1.0), ("q4_0", 2.0)])
def test_cache_types(types: str, distance: float, tmp_path: Path) -> None:
    from edgekit.runtimes import CacheTypes

    path = write_plain(tmp_path / "model.gguf", "f32")
    [window] = windows(1, 160)
    expected = scores(load(path, runtime="torch", threads=1), [window])
    session = load(path, threads=1, context=160, cache=CacheTypes.parse(types))
    error = np.sqrt(np.mean((session.score(window, 0) - expected) ** 2))
    assert distance / 1000 < error < distance
    bytes_per_value = {"f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}
    keys, values = types.split(",")[0], types.split(",")[-1]
    # 160 positions, 8 layers, 4 KV heads of 32 dimensions; tables and spare blocks come to it
    least = 160 * 8 * 4 * 32 * (bytes_per_value[keys] + bytes_per_value[values])
    assert least <= session.stats().cache_bytes < 1.2 * least + 60_000
