"""The comparison with llama.cpp, on the sample: what it reports, its turns and ratios, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from plain_files import needs, write_plain
from tqdm import tqdm

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
