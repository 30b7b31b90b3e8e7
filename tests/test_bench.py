"""The benchmark on the sample, its schema, and the verdict on made-up samples."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plain_files import GGUF_RUNTIMES, needs, write_plain, write_plain_onnx

from edgekit.devices import bench as bench_module
from edgekit.devices.bench import bench
from edgekit.devices.measure import measure, prompt_ids
from edgekit.devices.result import SCHEMA_VERSION, BenchResult, Config, Machine, Memory, Sample, summarise
from edgekit.devices.verdict import judge
from edgekit.models.errors import InputError
from edgekit.models.tokenizer_gguf import read_gguf
from edgekit.models.vocabulary import TokenizerFiles
from edgekit.runtimes import load, native

runtimes = pytest.mark.parametrize("runtime", [pytest.param(name, marks=needs(name)) for name in GGUF_RUNTIMES])
MACHINE = Machine("a cpu", ("x86_64",), 2, 8 * 10**9, 4096, "Linux", "6.1", 0.1)
CONFIG = Config(prompt_tokens=100, gen_tokens=5, reps=4, threads=2)
MEMORY = Memory(10**8, 10**7)


def sample(decode_s: float = 1.0, prefill_tps: float = 500.0, **changes: object) -> Sample:
    steps = (decode_s / 4,) * 4
    return replace(Sample(0.5, 0.2, prefill_tps, 4 / decode_s, steps, "same"), **changes)


def verdict(samples: tuple[Sample, ...], **changes: object) -> tuple[str, tuple[str, ...]]:
    settings = {"config": CONFIG, "memory": MEMORY, "machine": MACHINE, **changes}
    return judge(samples, summarise(samples), **settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("files") / "model.gguf", "q4_0")


@runtimes
def test_a_run_on_this_machine(model: Path, runtime: str) -> None:
    ballast = np.ones(400 << 17)  # 400 MiB here must not count there
    reps = 1 if runtime == "torch" else 2
    result = bench(model, runtime=runtime, prompt_tokens=24, gen_tokens=6, reps=reps, threads=1)
    assert isinstance(result, BenchResult)
    assert result.status == "degraded"
    assert any(f"only {reps} repetitions" in reason for reason in result.reasons)
    assert len(result.samples) == reps
    for one in result.samples:
        assert len(one.inter_token_s) == 5
        assert one.decode_tps == pytest.approx(5 / sum(one.inter_token_s))
        assert one.ttft_s >= 24 / one.prefill_tps > 0
        assert one.load_s > 0
    assert len({one.output_sha256 for one in result.samples}) == 1
    memory = result.memory
    assert memory.reason is None
    assert 0 < memory.baseline_bytes < memory.peak_bytes
    assert memory.peak_bytes - memory.baseline_bytes > 3_000_000  # the weights at least
    if runtime != "torch":
        assert memory.peak_bytes < ballast.nbytes
    assert result.model.types == {"Q4_0": 7_340_032 // 32 * 18, "F32": 4 * 17 * 256}
    assert result.model.bytes == model.stat().st_size


@needs("onnx")
def test_an_onnx_folder(tmp_path: Path) -> None:
    folder = write_plain_onnx(tmp_path / "onnx", "q4_0")
    result = bench(folder, prompt_tokens=24, gen_tokens=6, reps=1, threads=1)
    assert result.build.runtime == "onnx" and result.build.runtime_version[0].isdigit()
    assert result.model.types == {"Q4_0": 7_340_032 // 32 * 20, "F32": 4 * 17 * 256}
    assert result.model.bytes == (folder / "model.onnx").stat().st_size
    assert len(result.samples[0].inter_token_s) == 5 and result.memory.reason is None


def test_json(model: Path) -> None:
    result = bench(model, prompt_tokens=4, gen_tokens=2, reps=1, threads=1)
    document = json.loads(result.to_json())
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["status"] in ("degraded", "invalid")
    for name in ("load_s", "ttft_s", "prefill_tps", "decode_tps"):
        quantiles = document["summary"][name]
        assert set(quantiles) == {"median", "p10", "p90", "mad", "n", "ci95"}
        assert 0 < quantiles["p10"] <= quantiles["median"] <= quantiles["p90"]
    assert document["memory"]["peak_bytes"] == result.memory.peak_bytes
    assert document["build"]["runtime"] == "native"
    asked = {"prompt_tokens": 4, "gen_tokens": 2, "reps": 1, "threads": 1}
    assert document["config"] == {**asked, "cache_type": None, "affinity": None}
    assert len(document["model"]["sha256"]) == 64
    assert document["machine"]["ram_bytes"] > 2**28


def test_the_tokens_are_the_greedy_ones(model: Path) -> None:
    """The hash is of what a plain loop over the session generates."""
    import hashlib

    session = load(model, context=40, threads=1)
    prompt = prompt_ids(session, 30)
    assert prompt[0] == session.bos
    assert len(set(prompt)) == 30
    assert not set(prompt) & session.end_tokens
    tokens = [int(session.prefill(prompt).argmax())]
    for _ in range(9):
        tokens.append(int(session.decode(tokens[-1]).argmax()))
    session.close()
    found = measure(model, "native", 30, 10, 1)
    assert found.output_sha256 == hashlib.sha256(b"".join(t.to_bytes(4, "little") for t in tokens)).hexdigest()


def test_loading_includes_the_tokenizer(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp opens it at once, the native session at its first use: their load_s are of the same work."""

    def slow(path: Path) -> TokenizerFiles:
        time.sleep(0.3)
        return read_gguf(path)

    monkeypatch.setattr(native, "read_gguf", slow)
    found = measure(model, "native", 4, 2, 1)
    assert found.load_s >= 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reps": 0}, "--reps 0"),
        ({"gen_tokens": 1}, "--gen-tokens 1"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0"),
        ({"threads": 0}, "--threads 0"),
        ({"prompt_tokens": 1000, "gen_tokens": 25}, "context of 1024 tokens: 1025"),
        ({"runtime": "tflite"}, "no runtime"),
    ],
)
def test_refusals(model: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench(model, **options)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        bench(tmp_path / "none.gguf")


def test_memory_that_cannot_be_measured_has_a_reason(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module.sys, "executable", "/bin/false")
    result = bench(model, prompt_tokens=4, gen_tokens=3, reps=1, threads=1)
    assert result.memory.peak_bytes is None
    assert "ended with 1" in str(result.memory.reason)
    assert any("memory was not measured" in reason for reason in result.reasons)
    assert json.loads(result.to_json())["memory"]["peak_bytes"] is None


def test_quantiles_by_hand() -> None:
    summary = summarise(tuple(sample(prefill_tps=float(value)) for value in (50, 10, 30, 20, 40)))
    assert (summary.prefill_tps.median, summary.prefill_tps.p10, summary.prefill_tps.p90) == (30, 14, 46)


def test_steady_samples_are_valid() -> None:
    assert verdict((sample(), sample(1.02), sample(0.99), sample(1.01))) == ("valid", ())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"load_s": 0.0}, "zero"),
        ({"ttft_s": -1.0}, "zero"),
        ({"prefill_tps": math.inf}, "not a number"),
        ({"decode_tps": math.nan}, "not a number"),
        ({"inter_token_s": (0.25, 0.0, 0.25, 0.25)}, "zero"),
        ({"inter_token_s": (0.25, 0.25)}, "generated 3 of 5"),
    ],
)
def test_absurd_figures_are_invalid(bad: dict[str, object], reason: str) -> None:
    status, reasons = verdict((sample(), sample(), sample(), sample(**bad)))
    assert status == "invalid"
    assert any(reason in text and "4" in text for text in reasons)


def test_too_few_finished_is_invalid() -> None:
    assert verdict((sample(),) * 3)[0] == "invalid"


def test_doubts_degrade() -> None:
    four = (sample(),) * 4
    cases = [
        (verdict((sample(),) * 2, config=replace(CONFIG, reps=2)), "only 2 repetitions"),
        (verdict((sample(), sample(1.3), sample(), sample(1.2))), "decode varies by"),
        (verdict((sample(), sample(prefill_tps=900.0), sample(), sample())), "prefill varies by"),
        (verdict((sample(0.05),) * 4), "less than 0.1 s"),
        (verdict((sample(), sample(output_sha256="other"), sample(), sample())), "different tokens"),
        (verdict(four, config=replace(CONFIG, threads=3)), "3 threads on 2 cores"),
        (verdict(four, machine=replace(MACHINE, load_average=1.5)), "busy"),
        (verdict(four, memory=Memory(None, None, "no /proc")), "no /proc"),
    ]
    for (status, reasons), reason in cases:
        assert status == "degraded"
        assert [reason in text for text in reasons] == [True]


def test_a_system_without_a_load_average_is_not_busy() -> None:
    assert verdict((sample(),) * 4, machine=replace(MACHINE, load_average=None)) == ("valid", ())


def test_figures_that_are_no_numbers_become_null() -> None:
    samples = (sample(decode_tps=math.nan),)
    result = BenchResult(
        run_id="1",
        status="invalid",
        reasons=("x",),
        machine=MACHINE,
        build=bench_module.Build("0", "3", "torch", "2"),
        model=bench_module.ModelFile("m", "s", 1, {}),
        config=CONFIG,
        samples=samples,
        memory=MEMORY,
        summary=summarise(samples),
    )
    document = json.loads(result.to_json())
    assert document["samples"][0]["decode_tps"] is None
    assert document["summary"]["decode_tps"]["median"] is None
