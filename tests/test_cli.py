"""The command line: what it passes on, what it prints, and what bad input gets."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sample_gguf import SAMPLE, write_sample_gguf

from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.cli.app import COMMANDS, app
from edgekit.devices.result import (
    BenchResult,
    Build,
    Config,
    Machine,
    Memory,
    ModelFile,
    Quantiles,
    Sample,
    Summary,
)
from edgekit.export.onnx.options import OnnxOptions
from edgekit.models.errors import InputError, MissingExtra, TargetError
from edgekit.pipeline import PlanResult
from edgekit.quant.plan import Plan
from edgekit.runtimes import CacheTypes

NAMES = [name for name, _ in COMMANDS]
PLAN = Plan("0" * 64, {"model.embed_tokens.weight": "q8_0"}, 1000, 0.01, (), (), note="a note")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("cli") / "sample.gguf")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The pipeline replaced by a recorder."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def record(name: str) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            made.append((name, positional, named))
            print("a library that prints to stdout")
            os.write(1, b"C code that writes to stdout\n")
            ctypes.CDLL(None).puts(b"C code that holds its output back")
            if name == "plan":
                return PlanResult(PLAN, 0.011, {"plan": 1.5}, ("a note",))
            report = Path("model.report.html") if named.get("report") else None
            seconds = {"plan": 1.5, "export": 2.0}
            return Artifact(Path("model.gguf"), 1000, "ab" * 32, PLAN, 0.01, float("nan"), seconds, ("a note",), report)

        return call

    for name in ("quantize", "plan", "export"):
        monkeypatch.setattr(f"edgekit.pipeline.{name}", record(name))
    return made


def edgekit(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    command = [sys.executable, "-c", "import sys; from edgekit.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def one_sentence(stderr: str) -> str:
    """The only line on stderr, without its beginning."""
    assert "Traceback" not in stderr
    match = re.fullmatch(r"edgekit: (?:error: )?(\S[^\n]*\S)\n", stderr)
    assert match, stderr
    return match[1]


# Help


def test_help_starts_fast() -> None:
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        done = edgekit("--help")
        spent.append(time.perf_counter() - start)
        assert done.returncode == 0 and done.stderr == ""
        assert all(name in done.stdout for name in NAMES)
        if min(spent) <= 0.5:
            break
    assert min(spent) <= 0.5, spent


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from edgekit.cli import main
assert main(["quantize", "--help"]) == 0
heavy = {"numpy", "torch", "transformers", "gguf", "tokenizers", "tqdm", "rich", "edgekit.pipeline", "edgekit._native"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_are_those_promised() -> None:
    assert NAMES == ["prune", "quantize", "plan", "export", "eval", "run", "bench", "compare", "inspect", "devices"]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Examples:" in out and f"    edgekit {name} " in out
    assert "--json" in out and "--debug" in out


@pytest.mark.parametrize("example", [example for _, module in COMMANDS for example in module.EXAMPLES])
def test_every_example_parses(example: str) -> None:
    program, name, *arguments = shlex.split(example)
    assert program == "edgekit"
    group = typer.main.get_command(app)
    with group.make_context("edgekit", [name]) as context:
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        context = command.make_context(name, list(arguments), parent=context)
        if hasattr(command, "commands") and arguments:  # a command that has commands
            name, *arguments = arguments
            command.get_command(context, name).make_context(name, arguments, parent=context)


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage: edgekit" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"edgekit \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


# What is passed on


def test_quantize_passes_its_options_on(calls: list[Any], tmp_path: Path) -> None:
    text, output = tmp_path / "notes.txt", tmp_path / "m.gguf"
    text.write_text("words")
    line = f"quantize {SAMPLE} --size 190MB --bits 4,8 --calib {text} --calib {text} --seed 7 --no-report -o {output}"
    assert main(shlex.split(line)) == 0
    ((name, positional, named),) = calls
    checkpoint, path, target = positional
    assert (name, checkpoint, path) == ("quantize", str(SAMPLE), output)
    assert (target.size_bytes, target.bits, target.formats, target.bpw, target.device) == (
        190_000_000,
        (4, 8),
        (),
        None,
        None,
    )
    wanted = {"plan": None, "calib": [text, text], "seed": 7, "adapter": None, "work": None, "report": False}
    assert named == {**wanted, "distil": False, "qat": None, "prune": None}


def test_a_device_brings_its_defaults(calls: list[Any], tmp_path: Path) -> None:
    line = f"{SAMPLE} --device pi4b -o {tmp_path / 'm.gguf'}"
    assert main(["quantize", *shlex.split(line)]) == 0
    target = calls[0][1][2]
    assert (target.device, target.tps, target.max_kl, target.context) == ("pi4b", 15.0, 0.005, None)
    assert target.objective == "size"
    assert calls[0][2]["report"] is True and calls[0][2]["calib"] == []
    line += " --tps 8 --max-kl 0.01 --context 512 --objective speed"
    assert main(["quantize", *shlex.split(line)]) == 0
    target = calls[1][1][2]
    assert (target.tps, target.max_kl, target.context, target.objective) == (8.0, 0.01, 512, "speed")


def test_one_format_without_a_budget_is_uniform(calls: list[Any], tmp_path: Path) -> None:
    assert main(["quantize", str(SAMPLE), "--formats", "Q4_0", "-o", str(tmp_path / "m.gguf")]) == 0
    assert calls[0][1][2].uniform == "q4_0"


def test_plan_and_export_pass_their_options_on(calls: list[Any], tmp_path: Path) -> None:
    plan, output = tmp_path / "plan.json", tmp_path / "m.gguf"
    assert main(shlex.split(f"plan {SAMPLE} --bpw 4.5 --formats q4_0,q8_0 -o {plan}")) == 0
    name, (checkpoint, target, path), named = calls[0]
    assert (name, checkpoint, path) == ("plan", str(SAMPLE), plan)
    assert (target.bpw, target.formats) == (4.5, ("q4_0", "q8_0"))
    assert named == {"calib": [], "seed": 0, "adapter": None, "work": None}
    plan.write_text("{}")
    assert main(shlex.split(f"quantize {SAMPLE} --plan {plan} -o {output}")) == 0
    assert calls[1][1] == (str(SAMPLE), output, None) and calls[1][2]["plan"] == plan
    assert main(shlex.split(f"export {SAMPLE} --plan {plan} --adapter {tmp_path} --work {tmp_path} -o {output}")) == 0
    named = {"plan": plan, "calib": [], "adapter": tmp_path, "work": tmp_path}
    assert calls[2] == ("export", (str(SAMPLE), output), {**named, "onnx": None})
    line = f"export {SAMPLE} --plan {plan} --format onnx -o {tmp_path / 'm'}"
    assert main(shlex.split(line)) == 0
    assert main(shlex.split(f"{line} --accuracy-level 1 --context 512 --external-data")) == 0
    assert main(shlex.split(f"{line} --opset 23")) == 0
    made = [named["onnx"] for _, _, named in calls[3:]]
    assert made == [OnnxOptions(4, None, False), OnnxOptions(1, 512, True), OnnxOptions(portable=True)]


def test_what_is_for_onnx_is_refused_without_it(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--accuracy-level 1", "--opset 23", "--context 512", "--external-data"):
        assert main(shlex.split(f"export {SAMPLE} --plan plan.json -o {tmp_path / 'm.gguf'} {option}")) == 2
        assert f"{option.split()[0]} goes with --format onnx only" in capsys.readouterr().err
    assert main(shlex.split(f"export {SAMPLE} --plan plan.json -o {tmp_path / 'm'} --format tflite")) == 2
    assert "--format tflite: choose gguf or onnx" in capsys.readouterr().err
    line = f"export {SAMPLE} --plan plan.json -o {tmp_path / 'm'} --format onnx"
    assert main(shlex.split(f"{line} --opset 21")) == 2
    assert "--opset 21: choose 23" in capsys.readouterr().err
    assert main(shlex.split(f"{line} --opset 23 --accuracy-level 4")) == 2
    assert "drop it, or --opset" in capsys.readouterr().err
    assert calls == []


# What is printed


def test_quantize_tells_what_was_made(calls: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(SAMPLE), "--bpw", "5", "-o", str(tmp_path / "m.gguf")]) == 0
    out = capfd.readouterr().out
    for fact in ("model.gguf", "1,000 bytes", "0.0100 nats per token", "a note", "model.report.html", "edgekit run"):
        assert fact in out


@pytest.mark.parametrize("name", ["quantize", "export"])
def test_json_of_a_file_is_one_document(
    name: str, calls: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    assert main([name, str(SAMPLE), "--plan", str(plan), "-o", str(tmp_path / "m.gguf"), "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert {key: found[key] for key in ("path", "bytes", "kld_predicted", "seconds")} == {
        "path": "model.gguf",
        "bytes": 1000,
        "kld_predicted": 0.01,
        "seconds": {"plan": 1.5, "export": 2},
    }
    assert found["kld_measured"] is None  # JSON has no NaN
    assert found["sha256"] == "ab" * 32 and found["notes"] == ["a note"]
    assert "a library that prints" in err and "C code that writes" in err and "C code that holds" in err


def test_a_real_file_and_its_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.gguf"
    assert main(["quantize", str(SAMPLE), "--formats", "f16", "-o", str(output), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["path"] == str(output) and found["bytes"] == output.stat().st_size and found["bpw"] == 16
    assert found["report"] == str(tmp_path / "m.report.html")
    report = (tmp_path / "m.report.html").read_text(encoding="utf-8")
    assert f"{found['bytes']:,} bytes" in report and found["sha256"] in report
    assert found["seconds"] and all(spent >= 0 for spent in found["seconds"].values())


def test_json_of_a_plan(calls: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert main(["plan", str(SAMPLE), "--bpw", "5", "-o", str(path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["path"] == str(path) and found["bytes"] == 1000 and found["formats"] == PLAN.formats
    assert found["kld_predicted"] == 0.01 and found["kld_measured"] == 0.011 and found["seconds"] == {"plan": 1.5}


@pytest.mark.parametrize("kept", ["", " --work kept"])
def test_a_plan_tells_how_it_goes_on(
    kept: str, calls: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert main([*shlex.split(f"plan {SAMPLE} --bpw 5 -o {path}{kept}")]) == 0
    assert f"edgekit quantize {SAMPLE} --plan {path}{kept} -o model.gguf" in capfd.readouterr().out


def test_stdout_is_given_back_after_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(path: str) -> None:
        raise InputError("no")

    monkeypatch.setattr("edgekit.inspection.inspect", fail)
    assert main(["inspect", "x", "--json"]) == 2
    print("python")
    os.write(1, b"c\n")
    assert capfd.readouterr().out == "python\nc\n" or capfd.readouterr().out == "c\npython\n"


def test_inspect_json(model: Path) -> None:
    done = edgekit("inspect", str(model), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert (found["architecture"], found["layers"], found["bytes"]) == ("llama", 8, model.stat().st_size)
    assert {
        "parameters",
        "tensors",
        "by_type",
        "by_role",
        "header_bytes",
        "context",
        "tokenizer",
        "chat_template",
    } <= found.keys()
    assert found["bpw"] == 8.5


def test_inspect_for_people(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--tensors"]) == 0
    out = capsys.readouterr().out
    for fact in ("llama: 8 layers, 256 wide", "8 query, 4 KV, 32 each", "7.34 M", "8.50", "q8_0", "token_embd.weight"):
        assert fact in out


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "show", "pi4b"]) == 0
    out = capsys.readouterr().out
    assert "5.5 GB/s" in out and "armv8.0" in out and "sci-pi" in out
    assert main(["devices", "show", "pi4b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "pi4b" and found["ram_bytes"] == 4_000_000_000 and found["sources"]
    assert main(["devices", "--json"]) == 0
    names = {device["name"] for device in json.loads(capsys.readouterr().out)["devices"]}
    assert {"pi4b", "pi5", "sd865", "generic-arm64", "host"} <= names
    assert main(["devices"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("pi4b"))
    assert "5.5 GB/s" in line and "3.3 GB/s" in line  # the memory's, and what llama.cpp reaches


def test_run_streams_tokens_and_is_seeded(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = ["run", str(model), "-p", "Once upon a time", "-n", "12", "--runtime", "torch", "--seed", "3"]
    assert main(line) == 0
    text, told = capfd.readouterr()
    assert main([*line, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["text"] == text.removesuffix("\n") != ""
    assert 0 < found["tokens"] <= 12 and found["prompt_tokens"] > 3 and found["stop"] in ("length", "end")
    assert f"{found['tokens']} tokens in" in told


def test_run_passes_its_options_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.runtimes.generate import Piece

    seen: dict[str, Any] = {}

    class Session:
        def close(self) -> None:
            seen["closed"] = True

    def load(path: Path, **options: Any) -> Session:
        seen.update(path=path, **options)
        return Session()

    def prompt_tokens(session: Session, text: str, **options: Any) -> list[int]:
        seen.update(prompt=text, **options)
        return [1, 2]

    def generate(session: Session, tokens: list[int], *, max_tokens: int, sampling: Any) -> list[Piece]:
        seen.update(tokens=tokens, max_tokens=max_tokens, sampling=sampling)
        return [Piece(5, "ab"), Piece(None, "", "end")]

    monkeypatch.setattr("edgekit.runtimes.load", load)
    monkeypatch.setattr("edgekit.runtimes.chat.prompt_tokens", prompt_tokens)
    monkeypatch.setattr("edgekit.runtimes.generate.generate", generate)
    line = (
        f"run {model} -p hi -n 9 --system s --raw --temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 "
        "--repeat-penalty 1.2 --seed 4 --context 64 --threads 2 --runtime llama.cpp --cache-type q8_0,q4_0"
    )
    assert main(shlex.split(line)) == 0
    sampling = seen.pop("sampling")
    assert seen == {
        "path": model, "runtime": "llama.cpp", "context": 64, "threads": 2, "cache": CacheTypes("q8_0", "q4_0"),
        "prompt": "hi", "system": "s", "raw": True, "tokens": [1, 2], "max_tokens": 9, "closed": True,
    }  # fmt: skip
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 3, 0.9)
    assert (sampling.min_p, sampling.repetition_penalty, sampling.seed) == (0.1, 1.2, 4)


@pytest.fixture
def benched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The harness replaced by one with a result ready; what it was asked for."""
    asked: list[dict[str, Any]] = []
    sample = Sample(0.1, 0.2, 300.0, float("inf"), (0.02, 0.03), "0" * 64)
    ready = BenchResult(
        run_id="1",
        status="degraded",
        reasons=("the machine was busy",),
        machine=Machine("A CPU", ("avx2",), 2, 8_000_000_000, 4096, "Linux", "6.1", 0.5),
        build=Build("0.1.0", "3.11", "torch", "2.13"),
        model=ModelFile("m.gguf", "0" * 64, 7_947_008, {"Q8_0": 7_800_000}),
        config=Config(512, 64, 5, 2),
        samples=(sample,),
        memory=Memory(70_000_000, 30_000_000),
        summary=Summary(*(Quantiles(value, value / 2, value * 2, 0.01, 5, None) for value in (0.1, 0.2, 300.0, 40.0))),
    )

    def bench(model: Path, **options: Any) -> BenchResult:
        asked.append({"model": model, **options})
        return ready

    monkeypatch.setattr("edgekit.devices.bench.bench", bench)
    return asked


def test_bench_json(model: Path, benched: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    line = f"bench {model} --runtime torch --prompt-tokens 8 --gen-tokens 4 --reps 1 --threads 1 --json"
    assert main(shlex.split(line)) == 3  # degraded
    found = json.loads(capsys.readouterr().out)
    for figure, median in {"load_s": 0.1, "ttft_s": 0.2, "prefill_tps": 300.0, "decode_tps": 40.0}.items():
        wanted = {"median": median, "p10": median / 2, "p90": median * 2, "mad": 0.01, "n": 5, "ci95": None}
        assert found["summary"][figure] == wanted
    assert found["memory"]["peak_bytes"] == 70_000_000 and found["status"] == "degraded"
    assert found["samples"][0]["decode_tps"] is None  # JSON has no infinity
    wanted = {"model": model, "runtime": "torch", "prompt_tokens": 8, "gen_tokens": 4, "reps": 1, "threads": 1,
              "cache": None}  # fmt: skip
    assert benched == [wanted]


def test_bench_for_people(model: Path, benched: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model)]) == 3
    wanted = {"runtime": None, "prompt_tokens": 512, "gen_tokens": 64, "threads": None, "cache": None}
    assert benched == [{"model": model, **wanted}]
    out = capsys.readouterr().out
    for fact in ("prefill, 512 tokens", "300.0", "40.0", "degraded: the machine was busy", "70.0 MB", "2 threads"):
        assert fact in out


def test_bench_writes_files_too(
    model: Path, benched: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "out.json", tmp_path / "out.HTML", tmp_path / "out.csv"]
    assert main(["bench", str(model), "--json", *(word for file in files for word in ("-o", str(file)))]) == 3
    assert json.loads(files[0].read_text()) == json.loads(capsys.readouterr().out)
    assert all(file.stat().st_size > 100 for file in files)


def test_eval(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The river ran past the old mill, and nobody remembered who had built it. " * 60)
    line = shlex.split(f"eval {model} --reference {SAMPLE} --text {text} --runtime torch --chunks 1")
    assert main([*line, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    promised = "kld_mean kld_p999 ppl ppl_reference same_top1 top1 top1_reference tokens bytes"
    assert set(promised.split()) <= found.keys()
    assert 0 <= found["kld_mean"] < 0.05 and found["tokens"] == 255 and found["bytes"] == model.stat().st_size
    assert main(line) == 0
    out = capfd.readouterr().out
    assert f"{found['ppl']:.4f}, reference {found['ppl_reference']:.4f}" in out and "255 tokens in 1 windows" in out


# Bad input: one sentence on stderr, nothing on stdout, the right exit code

WRONG_OPTIONS = [
    ("quantize CP -o m.gguf", ["no budget", "--size"]),
    ("quantize CP --size 190MB --bpw 4 -o m.gguf", ["--size", "--bpw", "exclude"]),
    ("quantize CP --size 190MB --device pi4b -o m.gguf", ["--size", "--device", "exclude"]),
    ("quantize CP --bpw 4 --plan PLAN -o m.gguf", ["--plan", "--bpw"]),
    ("quantize CP --formats q4_0 --plan PLAN -o m.gguf", ["--plan", "--formats"]),
    ("quantize CP --formats q4_0 --bits 4 -o m.gguf", ["--formats", "--bits"]),
    ("quantize CP --formats q4_0,q8_0 -o m.gguf", ["budget", "--size"]),
    ("quantize CP --bits 4 -o m.gguf", ["budget", "--size"]),
    ("quantize CP --formats q9_9 -o m.gguf", ["q9_9", "q4_0"]),
    ("quantize CP --formats q4_0, -o m.gguf", ["--formats", "empty place"]),
    ("quantize CP --size 190MB --formats q9_9 -o m.gguf", ["q9_9", "q4_0"]),
    ("quantize CP --size 190MB --bits 7 -o m.gguf", ["7", "4, 5, 6, 8, 16"]),
    ("quantize CP --size 190MB --bits four -o m.gguf", ["--bits", "'four'"]),
    ("quantize CP --size lots -o m.gguf", ["lots", "MB"]),
    ("quantize CP --size -5 -o m.gguf", ["-5"]),
    ("quantize CP --bpw 0 -o m.gguf", ["--bpw"]),
    ("quantize CP --bpw nan -o m.gguf", ["--bpw"]),
    ("quantize CP --bpw four -o m.gguf", ["--bpw", "edgekit quantize --help"]),
    ("quantize CP --size 190MB --tps 5 -o m.gguf", ["--tps", "--device"]),
    ("quantize CP --size 190MB --max-kl 0.1 -o m.gguf", ["--max-kl", "--device"]),
    ("quantize CP --size 190MB --context 99 -o m.gguf", ["--context", "--device"]),
    ("quantize CP --device pi4b --max-kl 0 -o m.gguf", ["--max-kl"]),
    ("quantize CP --device toaster -o m.gguf", ["toaster", "pi4b"]),
    ("quantize CP --size 190MB -o m.onnx", ["m.onnx", ".gguf"]),
    ("quantize CP --size 190MB -o nowhere/m.gguf", ["nowhere", "folder"]),
    ("quantize CP --size 190MB -o folder.gguf", ["folder.gguf", "is a folder"]),
    ("quantize CP --size 190MB --calib absent.txt -o m.gguf", ["--calib", "absent.txt"]),
    ("quantize CP --size 190MB --calib folder.gguf -o m.gguf", ["--calib", "folder.gguf", "not a file"]),
    ("quantize CP --size 5MB --calib EMPTY -o m.gguf", ["empty.txt", "no text", "--calib"]),
    ("quantize CP --size 5MB --calib LATIN -o m.gguf", ["latin.txt", "not UTF-8", "iconv"]),
    ("quantize CP --size 5MB --calib TEXT -o m.gguf", ["text.txt", "3 tokens", "more text"]),
    ("quantize CP --formats q8_0 --qat 2 --calib TEXT -o m.gguf", ["text.txt", "3 tokens", "more text"]),
    ("quantize CP --formats q8_0 --qat 2 -o m.gguf", ["--qat", "--calib"]),
    ("quantize CP --formats q8_0 --qat 0 --calib TEXT -o m.gguf", ["--qat", "edgekit quantize --help"]),
    ("quantize CP --formats q8_0 --qat 2 --distil --calib TEXT -o m.gguf", ["--distil", "--qat", "exclude"]),
    ("quantize CP --formats f32 --qat 2 --calib TEXT -o m.gguf", ["--qat", "f32", "q8_0"]),
    ("quantize CP --formats f16 --distil -o m.gguf", ["--distil", "f16", "q8_0"]),
    ("quantize CP --size 5MB --objective speed -o m.gguf", ["--objective", "--device"]),
    ("quantize CP --device pi4b --objective fast -o m.gguf", ["'fast'", "size or speed"]),
    ("quantize CP --size 5MB --work TEXT -o m.gguf", ["--work text.txt", "is a file", "folder"]),
    ("plan CP --size 5MB --work TEXT/deeper -o m.json", ["--work text.txt/deeper", "text.txt is a file"]),
    ("export CP --plan PLAN --work TEXT -o m.gguf", ["--work text.txt", "is a file"]),
    ("quantize CP --plan absent.json -o m.gguf", ["--plan", "absent.json"]),
    ("quantize CP --plan PLAN -o m.gguf", ["plan.json"]),
    ("quantize CP --size 190MB", ["'--output'", "edgekit quantize --help"]),
    ("quantize absent --size 190MB -o m.gguf", ["absent"]),
    ("quantize MODEL --size 190MB -o MODEL", ["itself", "another file"]),
    ("quantize CP --frobnicate -o m.gguf", ["--frobnicate"]),
    ("plan CP --size 190MB -o plan.yaml", ["plan.yaml", ".json"]),
    ("plan CP -o plan2.json", ["no budget"]),
    ("plan CP --for tflite --bpw 5 -o plan2.json", ["tflite", "gguf or onnx"]),
    ("plan CP --for onnx --bpw 5 --formats q4_0,q4_k -o plan2.json", ["ONNX", "q4_k", "q4_0, q8_0, f16"]),
    ("plan CP --for onnx --device pi4b -o plan2.json", ["--device", "--for onnx", "--size"]),
    ("export CP -o m.gguf", ["'--plan'"]),
    ("export CP --plan absent.json -o m.gguf", ["absent.json"]),
    ("eval absent.gguf --reference CP --text TEXT", ["absent.gguf"]),
    ("eval MODEL --reference CP --text absent.txt", ["absent.txt"]),
    ("eval MODEL --reference CP --text TEXT --runtime torch", ["text.txt", "longer"]),
    ("run MODEL -p hi --runtime abacus", ["abacus", "native", "llama.cpp"]),
    ("run MODEL -p hi --cache-type q5_1", ["--cache-type q5_1", "q8_0"]),
    ("run MODEL -p hi --runtime torch --cache-type f16", ["torch", "float32", "--cache-type"]),
    ("run absent.gguf -p hi", ["absent.gguf"]),
    ("run TEXT -p hi", ["text.txt"]),
    ("run MODEL -p hi --temperature -1", ["temperature"]),
    ("run MODEL -p hi -n 0", ["-n", "edgekit run --help"]),
    ("run MODEL", ["--prompt"]),
    ("bench absent.gguf", ["absent.gguf"]),
    ("bench MODEL --gen-tokens 1", ["--gen-tokens"]),
    ("bench MODEL --device toaster", ["toaster", "pi4b"]),
    ("bench MODEL --device pi4b", ["pi4b", "ssh:USER@HOST"]),
    ("bench MODEL --device local --runtime torch", ["--runtime torch", "native"]),
    ("bench MODEL --deadline 5", ["--deadline", "--device"]),
    ("bench MODEL --keep", ["--keep", "--device"]),
    ("bench MODEL --vs absent.gguf", ["--vs absent.gguf"]),
    ("bench MODEL --vs folder.gguf --device local", ["folder.gguf", "GGUF"]),
    ("bench MODEL --gate 5%", ["--gate", "--vs"]),
    ("bench MODEL --vs MODEL --gate 5", ["--gate 5 ", "5%", "0.05"]),
    ("bench MODEL --vs MODEL --gate 0%", ["--gate 0%"]),
    ("bench MODEL --vs MODEL --gate 100%", ["--gate 100%"]),
    ("bench MODEL --vs MODEL --gate nan", ["--gate nan"]),
    ("bench MODEL --vs MODEL --gate fast", ["--gate fast"]),
    ("bench MODEL --vs MODEL --gate=-5%", ["--gate -5%"]),
    ("bench MODEL -o out.txt", ["-o out.txt", ".json, .html, .csv"]),
    ("bench MODEL -o out.json -o absent/out.html", ["absent"]),
    ("compare plan.json plan.json", ["plan.json", "edgekit bench -o FILE.json"]),
    ("compare MODEL plan.json", ["sample.gguf", "edgekit bench -o FILE.json"]),
    ("compare absent.json plan.json", ["A absent.json"]),
    ("inspect absent.gguf", ["absent.gguf"]),
    ("inspect TEXT", ["text.txt"]),
    ("devices toaster", ["toaster", "edgekit devices --help"]),
    ("devices show toaster", ["toaster", "pi4b"]),
    ("devices show", ["NAME", "edgekit devices show --help"]),
    ("devices --json show pi4b", ["--json", "behind"]),
    ("devices probe", ["probe", "TARGET"]),
    ("devices probe ssh:-x", ["ssh:-x", "host"]),
    ("devices probe local -o board.txt", ["board.txt", ".toml"]),
    ("devices show pi4b local", ["local", "edgekit devices show --help"]),
    ("devices calibrate absent.toml r.json", ["absent.toml", "pi4b"]),
    ("frobnicate", ["frobnicate", "edgekit --help"]),
]


@pytest.mark.parametrize(("line", "told"), WRONG_OPTIONS, ids=[line for line, _ in WRONG_OPTIONS])
def test_wrong_input_gets_one_sentence(
    line: str,
    told: list[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "text.txt").write_text("too short")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_text("café", encoding="latin-1")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    places = {"CP": str(SAMPLE), "MODEL": str(model), "PLAN": "plan.json", "TEXT": "text.txt"}
    places |= {"EMPTY": "empty.txt", "LATIN": "latin.txt", "TEXT/deeper": "text.txt/deeper"}
    assert main([places.get(word, word) for word in shlex.split(line)]) == 2
    out, err = capfd.readouterr()
    sentence = one_sentence(err)
    assert out == ""
    for words in told:
        assert words in sentence
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("x.gguf is odd: mend it"), 2, "x.gguf is odd: mend it"),
        (MissingExtra("torch", "quantize"), 2, "torch is not installed: pip install 'edgekit[quantize]'"),
        (TargetError("cannot write m.gguf: No space left"), 1, "cannot write m.gguf: No space left"),
        (PermissionError(13, "Permission denied", "w.bin"), 1, "w.bin: Permission denied"),
        (MemoryError(), 1, "memory"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (RuntimeError("first\nsecond"), 1, "unexpected RuntimeError: first second (add --debug for the traceback)"),
        (AssertionError(), 1, "unexpected AssertionError"),
    ],
)
def test_errors_become_a_sentence_and_a_code(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr("edgekit.inspection.inspect", fail)
    for line in (["inspect", "x"], ["inspect", "x", "--json"]):
        assert main(line) == code
        out, err = capsys.readouterr()
        assert out == "" and told in one_sentence(err)
    for line in (["--debug", "inspect", "x"], ["inspect", "x", "--debug"]):
        assert main(line) == code
        err = capsys.readouterr().err
        assert "Traceback (most recent call last)" in err and "in fail" in err
        assert err.splitlines()[-1].startswith("edgekit: ")


def test_debug_shows_the_traceback_of_a_usage_error_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "quantize"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(model: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from edgekit.cli import main; sys.exit(main())",
        "inspect",
        str(model),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_terminal_without_unicode_is_no_error(model: Path) -> None:
    done = edgekit("inspect", str(model), "--tensors", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stderr == ""
    assert "256 \\xd7 256" in done.stdout


INTERRUPTIBLE = """
import signal, sys, time
from pathlib import Path
from edgekit import pipeline
from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.models.files import atomic_write

def quantize(checkpoint, output, target, **options):
    with atomic_write(output) as file:
        file.write(b"half")
        file.flush()
        print("writing", file=sys.stderr, flush=True)
        time.sleep(60)

pipeline.quantize = quantize
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_in_mid_write_keeps_the_old_file(tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    output.write_bytes(b"old")
    command = [sys.executable, "-c", INTERRUPTIBLE, "quantize", str(SAMPLE), "--bpw", "5", "-o", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGINT)
        assert "interrupted" in one_sentence(process.stderr.read())
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == [output] and output.read_bytes() == b"old"
