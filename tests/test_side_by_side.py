"""The comparisons with llama.cpp: speed on the sample, and how the fidelity bench reads, compares and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from models_random import random_checkpoint
from plain_files import needs, write_plain
from tqdm import tqdm

from edgekit.models.errors import InputError

SCRIPTS = Path(__file__).parent / "side_by_side"
ROUNDS = 2
# What llama-bench prints, and a line in a file for each time that it is called.
LLAMA_BENCH = """#!/bin/sh
echo "$*" >> "$0.log"
case "$*" in
*"-p 0"*) echo '[{"n_prompt": 0, "n_gen": 32, "avg_ts": 50.0}]' ;;
*) echo '[{"n_prompt": 512, "n_gen": 0, "avg_ts": 4000.0}, {"n_prompt": 0, "n_gen": 32, "avg_ts": 100.0}]' ;;
esac
"""


def native_speed(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "native_speed.py", *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=os.environ | environment
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("files") / "model.gguf", "q4_0")


@pytest.fixture(scope="module")
def llama_bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("program") / "llama-bench"
    program.write_text(LLAMA_BENCH)
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def run(model: Path, llama_bench: Path) -> tuple[str, dict[str, Any]]:
    """What it prints, and its JSON."""
    written = llama_bench.with_name("result.json")
    done = native_speed(model, "--rounds", ROUNDS, "--threads", 1, "--json", written, LLAMA_BENCH=str(llama_bench))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(written.read_text())


@needs("llama.cpp")
def test_every_quantity_has_a_sample_from_each_round(run: tuple[str, dict[str, Any]], model: Path) -> None:
    printed, result = run
    both = {"native", "llama.cpp"}
    assert {key: set(row["samples"]) for key, row in result["rows"].items()} == {
        "load": both,
        "prefill": both | {"llama-bench"},
        "decode": both | {"llama-bench"},
        "decode_deep": both | {"llama-bench"},
        "read": {"memory"},
        "read_best": {"memory"},
        **{key: {"native"} for key in ("first_token", "all_logits", "all_logits_anew", "cancel", "micro_batch")},
    }
    for key, row in result["rows"].items():
        assert row["label"] in printed.replace("Memory", "memory")
        for values in row["samples"].values():
            assert len(values) == ROUNDS
            assert all(value >= 0 if key == "cancel" else value > 0 for value in values)
    # The sample's context of 1024 does not hold 4096 tokens: decoding begins where all rounds of it fit.
    assert result["rows"]["decode_deep"]["label"] == f"decode from depth {1024 - ROUNDS * 32}, q8_0 cache"
    assert (result["rounds"], result["threads"], result["file_bytes"]) == (ROUNDS, 1, model.stat().st_size)
    assert result["versions"].keys() == {"edgekit", "llama-cpp-python"}
    assert 0 <= result["others_share"] <= 1


@needs("llama.cpp")
def test_ratios_and_shares_follow_from_the_samples(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    rows = result["rows"]
    load, decode = rows["load"], rows["decode"]
    assert load["ratios"]["llama.cpp"] == median(
        theirs / ours for ours, theirs in zip(load["samples"]["native"], load["samples"]["llama.cpp"], strict=True)
    )
    assert decode["ratios"]["llama-bench"] == median(speed / 100.0 for speed in decode["samples"]["native"])
    for side, share in result["bandwidth"].items():
        speed = median(decode["samples"][side]) * result["decode_bytes"] / 1e9
        assert share["gb_per_s"] == pytest.approx(speed)
        assert share["of_best"] == pytest.approx(speed / max(rows["read_best"]["samples"]["memory"]))
    assert all(
        best >= read for best, read in zip(*(rows[k]["samples"]["memory"] for k in ("read_best", "read")), strict=True)
    )


@needs("llama.cpp")
def test_memory_is_that_of_a_process_of_its_own(run: tuple[str, dict[str, Any]]) -> None:
    held = run[1]["memory"]
    assert held["positions"] == 1024
    assert 5e6 < held["process"] < 200e6  # Python and numpy; torch alone would be more
    assert held["loaded"] > held["process"] + 0.5 * run[1]["file_bytes"]
    assert held["loaded_cache"] < held["filled_cache"] <= 1.1 * held["all_layers_f16_cache"]  # with its tables
    assert held["all_layers_f16_cache"] == 1024 * 8 * 4 * 32 * 2 * 2  # layers, KV heads, their dimensions
    assert held["filled"] >= held["loaded"]


@needs("llama.cpp")
def test_llama_bench_takes_its_turn_in_each_round(
    run: tuple[str, dict[str, Any]], llama_bench: Path, model: Path
) -> None:
    start = f"-m {model} -t 1 -r 1 -o json"
    calls = Path(f"{llama_bench}.log").read_text().splitlines()
    depth = 1024 - ROUNDS * 32
    assert (
        calls
        == [f"{start} -p 512 -n 32"] * ROUNDS + [f"{start} -p 0 -n 32 -d {depth} -ctk q8_0 -ctv q8_0 -fa 1"] * ROUNDS
    )


def test_turns_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import turns

    order: list[str] = []

    def side(name: str) -> dict[str, float]:
        order.append(name)
        return {"speed": float(len(order))}

    found = turns.in_turns({name: lambda name=name: side(name) for name in "AB"}, 3, tqdm(disable=True))
    assert order == list("ABABAB")
    row = turns.row("speed", "tok/s", "speed", {"native": found["A"], "llama.cpp": found["B"], "memory": [{}] * 3})
    assert row.samples == {"native": [1, 3, 5], "llama.cpp": [2, 4, 6]}
    assert row.ratios() == {"llama.cpp": 3 / 4}
    assert turns.Row("load", "s", row.samples).ratios() == {"llama.cpp": 4 / 3}


@needs("llama.cpp")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.gguf"], "nowhere.gguf is not there"),
        ([__file__], "is not a GGUF file"),
        (["MODEL", "--rounds", "0"], "--rounds 0 is out of range"),
        (["MODEL", "--rounds", "40"], "has a context of 1024 tokens: 1312 are needed for 40 rounds"),
        (["MODEL", "--threads", "0"], "--threads 0 is out of range"),
        (
            ["MODEL", "--rounds", "1", "--threads", "1", "--llama-bench", "/bin/false"],
            "/bin/false does not do what llama-bench does",
        ),
        (
            ["MODEL", "--rounds", "1", "--threads", "1", "--llama-bench", "/bin/true"],
            "/bin/true does not do what llama-bench does",
        ),
        (
            ["MODEL", "--rounds", "1", "--threads", "1", "--llama-bench", "nowhere"],
            "nowhere does not do what llama-bench does",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(arguments: list[str], sentence: str, model: Path) -> None:
    done = native_speed(*(model if part == "MODEL" else part for part in arguments), LLAMA_BENCH="")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


JUDGED = """
Mean PPL(Q)                   :  40.120000 ±   1.000000
====== KL divergence statistics ======
Mean    KLD:   0.022800 ±   0.000400
Maximum KLD:   5.218742
99.9%   KLD:   0.412300
Median  KLD:   0.010000
Same top p: 91.797 ± 0.350 %
"""


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def fidelity(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "fidelity.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("scripts")
def test_the_judges_words_are_read() -> None:
    from judge import read_judgement

    figures = {"kld_mean": 0.0228, "kld_stderr": 0.0004, "kld_p999": 0.4123, "same_top1_percent": 91.797}
    assert read_judgement(JUDGED) == figures
    with pytest.raises(InputError, match="printed no kld_p999"):
        read_judgement(JUDGED.replace("99.9%", "99%"))


@pytest.mark.usefixtures("scripts")
def test_a_run_is_timed_with_its_peak_memory() -> None:
    from judge import run_measured

    script = "import json, time; held = b'x' * 60_000_000; time.sleep(0.7); print(json.dumps({'held': len(held)}))"
    ran = run_measured(sys.executable, "-c", script)
    assert ran.document == {"held": 60_000_000}
    assert ran.seconds > 0.7
    if Path("/proc/self/status").exists():
        assert 60e6 < ran.peak_rss_bytes < 120e6
    with pytest.raises(InputError, match="failed with 3"):
        run_measured(sys.executable, "-c", "raise SystemExit(3)")


@pytest.mark.usefixtures("scripts")
def test_parts_and_marks_are_chosen() -> None:
    from fidelity import PARTS, chosen_parts, chosen_points, marked
    from fidelity_parts import Point

    assert chosen_parts(None) == PARTS
    assert chosen_parts("training, points") == ("points", "training")
    assert marked("190MB=0.027", "--size") == ("190MB", 0.027) and marked("Q4_K_M", "--like") == ("Q4_K_M", None)
    unused: Any = None
    points = chosen_points(unused, ["190MB=0.027", "165MB"], [])
    assert points == [Point("190MB", kld=0.027), Point("165MB")]
    for wrong in ("190MB=", "=0.1", "190MB=-1", "190MB=nan"):
        with pytest.raises(InputError, match="a positive number"):
            marked(wrong, "--size")
    with pytest.raises(InputError, match="no part speed"):
        chosen_parts("speed")


@pytest.mark.usefixtures("scripts")
def test_the_table_has_every_part_and_a_verdict_each() -> None:
    from fidelity_parts import Findings
    from fidelity_table import table, verdicts

    judged = {"bytes": 190_000_000, "tensor_bytes": 183_500_000, "kld_mean": 0.0228, "kld_stderr": 0.0004}
    judged |= {"kld_p999": 0.4123, "same_top1_percent": 91.797}
    ran = {"seconds": 378.0, "peak_rss_bytes": 3_820_000_000, "edgekit": {"kld_predicted": 0.018, "kld_measured": None}}
    findings = Findings()
    findings.row("points", "edgekit --size 190MB", **judged, **ran)
    findings.row("points", "llama-quantize Q4_K_M, imatrix", **judged)
    findings.row("ablation at 190MB", "+ GPTQ", **judged)["share_of_first"] = 0.61
    findings.row("training", "--qat", **judged, top1=0.3125, top1_reference=0.3131)
    findings.row("training", "prune", **judged, stored={"zlib_before": 10_100_000, "zlib_after": 6_100_000})
    findings.ask("KLD of --size 190MB", 0.0228, 0.027)
    findings.ask("--distil", 0.95, 0.9)
    lines = list(table(findings.rows))
    assert lines.count("\npoints") == lines.count("\nablation at 190MB") == 1
    ours = next(line for line in lines if line.startswith("edgekit"))
    assert " ".join(ours.split()[3:]) == (
        "190,000,000 183,500,000 0.02280 0.00040 0.4123 91.80 % 0.01800 6 min 18 s, 3.82 GB"
    )
    assert any(line.startswith("+ GPTQ (61%)") for line in lines)
    assert any(line.startswith("--qat (accuracy 31.25%, checkpoint 31.31%)") for line in lines)
    assert any(line.startswith("prune (zlib: 10.1 MB to 6.1 MB)") for line in lines)
    assert [line.rsplit(": ", 1)[1] for line in verdicts(findings.verdicts)] == ["met", "MISSED"]
    assert next(verdicts(findings.verdicts)) == "KLD of --size 190MB: 0.0228, asked for at most 0.027: met"


@pytest.mark.usefixtures("scripts")
def test_a_folder_of_other_inputs_is_refused(tmp_path: Path) -> None:
    from judge import TOOLS, Bench

    for name in (*TOOLS, "a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    bench = Bench("sample", tmp_path, tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "work", 12, 0)
    bench.prepare()
    bench.prepare()
    with pytest.raises(InputError, match="choose another --work"):
        replace(bench, chunks=8).prepare()
    (tmp_path / "b.txt").write_text("other words")
    with pytest.raises(InputError, match="choose another --work"):
        bench.prepare()


def test_what_cannot_be_judged_is_refused_in_a_sentence(tmp_path: Path) -> None:
    common = ("sample", "--tools", tmp_path, "--calib", __file__, "--text", __file__, "--work", tmp_path / "work")
    for arguments, sentence in (
        (common, "llama-perplexity is not there"),
        ((*common, "--only", "speed"), "there is no part speed"),
    ):
        done = fidelity(*arguments)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


@needs("llama.cpp")
def test_each_step_of_head_pruning_is_judged(tmp_path: Path) -> None:
    text = Path(__file__).parent.parent / "README.md"
    folder = random_checkpoint(tmp_path / "model", "llama")
    script = [sys.executable, SCRIPTS / "head_pruning.py", folder, "--calib", text, "--text", text, "--work", tmp_path]
    options = ["--heads", 0.3, "--prune-kv-groups", "--scores", "magnitude", "--chunks", 2]
    done = subprocess.run([*map(str, (*script, *options))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row["made_by"] for row in found] == ["unpruned", "magnitude, cut", "magnitude, made up for"]
    unpruned, cut, repaired = found
    assert unpruned["kld_mean"] < repaired["kld_mean"] < cut["kld_mean"]
    assert unpruned["tensor_bytes"] > cut["tensor_bytes"] == repaired["tensor_bytes"]
    assert repaired["pruning"]["removed"] == [{"kind": "groups", "count": 4, "of": 12}]
    assert "under 1.2%" in done.stdout
