"""Stands in for `edgekit-bench` in tests of the desk's side: it speaks the protocol and misbehaves when told to.

The first line (the interpreter) is added where it is copied to. FAKE_RUNNER in the environment is a list of words.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

WORDS = os.environ.get("FAKE_RUNNER", "").split(",")
KNOWN = ("pid", "lease", "log", "state", "result.json")


def word(name):
    """The number behind a word, as in "slow=3"; None where it was not given."""
    for each in WORDS:
        key, _, value = each.partition("=")
        if key == name:
            return float(value or 1)
    return None


def probe_facts():
    facts = {
        "protocol": 1,
        "model": "A board of the tests",
        "cpu": "a processor",
        "isa": ["x86_64", "avx2"],
        "cores": [{"cpu": 0, "max_hz": 2.0e9, "capacity": None, "big": True}],
        "online": 1,
        "ram_bytes": 2 << 30,
        "available_bytes": 1 << 30,
        "page_bytes": 4096,
        "os": "Linux",
        "kernel": "6.1",
        "machine": "x86_64",
        "emulated": bool(word("emulated")),
        "emulated_why": "DMI says QEMU" if word("emulated") else None,
        "disk_free_bytes": 1 << 20 if word("nospace") else 1 << 40,
        "reasons": {},
    }
    if word("anonymous"):
        facts["model"] = None
    if word("escape"):
        facts["model"] = "\x1b[2Jboo"
    return facts


def sample(model, count):
    """Of the second model as many times as slow as the word "slower" says."""
    times = (word("slower") or 1) if model else 1
    return {
        "model": model,
        "load_cold_s": None,
        "load_s": 0.05,
        "ttft_s": 0.5 * times,
        "prefill_tps": 40.0 / times,
        "decode_tps": 20.0 / times,
        "inter_token_s": [0.05 * times] * count,
        "output_sha256": "ab" * 32,
    }


def result(options, sizes):
    count = int(options["--gen-tokens"]) - 1
    turns = [model for pair in range(int(options["--reps"])) for model in range(len(sizes))[:: -1 if pair % 2 else 1]]
    if word("forgets"):
        sizes, turns = sizes[:1], [0] * int(options["--reps"])
    reps = int(options["--reps"])
    clocks = [1.0e9 if word("throttle") and at == 2 else 2.0e9 for at in range(reps + 2)]
    return {
        "protocol": 1,
        "nonce": "0" * 32 if word("othernonce") else options["--nonce"],
        "device": probe_facts(),
        "build": {"edgekit": "0.1.0", "git": None, "compiler": "cc", "flags": "-O3", "isa_built": ["avx2"]},
        "config": {
            "prompt_tokens": 1 if word("ignores") else int(options["--prompt-tokens"]),
            "gen_tokens": count + 1,
            "reps": reps,
            "threads": int(options.get("--threads", 1)),
            "cache": options.get("--cache", "f16"),
            "affinity": [0],
            "bos": None,
        },
        "models": [
            {"bytes": size, "architecture": "llama", "isa": "avx2", "weight_bytes": 4000000, "decode_bytes": 4000000}
            for size in sizes
        ],
        "samples": [dict(sample(model, count), at_s=at + 1.0) for at, model in enumerate(turns)],
        "memory": [{"peak_bytes": 9000000, "pss_bytes": 8000000, "baseline_bytes": 1000000, "reason": None}]
        * len(sizes),
        "timeline": [
            {"at_s": at + 0.1, "freq_hz": [clock], "temp_c": None, "load": 0.1, "throttling": None}
            for at, clock in enumerate(clocks)
        ],
        "suspended_s": 0.0,
        "reasons": {"temp_c": "there is no thermal zone"},
    }


def result_text(options, sizes):
    answer = result(options, sizes)
    if word("nan"):
        answer["samples"][0]["decode_tps"] = float("nan")
    if word("null"):
        answer["samples"][0]["decode_tps"] = None
    if word("missing"):
        del answer["memory"]
    text = json.dumps(answer)
    if word("garbage"):
        text = text[: len(text) // 2]
    if word("deep"):
        text = "[" * 100000
    if word("huge"):
        text += " " * (9 << 20)
    return text


def start(run, lock, models, options):
    guard = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 75
    if word("full"):
        print("edgekit-bench: the disk is full", file=sys.stderr)
        return 73
    run.mkdir()
    (run / "lease").touch()
    (run / "state").write_text(json.dumps({"state": "running", "progress": 0.0}))
    if os.fork() == 0:
        os.setsid()
        for descriptor in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        (run / "pid").write_text(f"{os.getpid()}\n")
        os._exit(work(run, models, options))
    while not (run / "pid").exists():
        time.sleep(0.005)
    return 0


def work(run, models, options):
    """The run itself; its end is written down for `wait`."""
    end = {"exit": 0, "signal": None, "nonce": options["--nonce"], "error": None, "state": "done", "progress": 1.0}
    start = time.monotonic()
    until = start + (3600 if word("hang") else word("slow") or 0)
    while time.monotonic() < until:
        time.sleep(0.05)
        if word("obeys") and time.monotonic() - start > float(options["--deadline"]):
            remove(run)
            return 0
        if time.time() - (run / "lease").stat().st_mtime > float(options["--lease"]):
            remove(run)
            return 0
    for name, changes in {
        "die": {"exit": 71, "error": "no memory for a thread"},
        "badmodel": {"exit": 65, "error": f"{models[0]} ends within its last tensor"},
        "killed": {"signal": signal.SIGKILL, "exit": None},
        "illegal": {"signal": signal.SIGILL, "exit": None},
    }.items():
        if word(name):
            end |= {"state": "failed", "nonce": None, **changes}
    if word("unproven"):
        end["nonce"] = None
    if end["state"] == "done":
        (run / "result.json").write_text(result_text(options, [Path(model).stat().st_size for model in models]))
    (run / "state.new").write_text(json.dumps(end))
    (run / "state.new").rename(run / "state")
    return 0


def wait(run, seconds):
    if word("deaf"):
        time.sleep(600)
    if not run.is_dir():
        return {"state": "gone"}
    (run / "lease").touch()
    until = time.monotonic() + seconds
    while True:
        try:
            state = json.loads((run / "state").read_text())
        except FileNotFoundError:
            return {"state": "gone"}
        if state["state"] != "running" or time.monotonic() >= until:
            return state
        time.sleep(0.02)


def stop(run):
    if run.is_dir():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((run / "pid").read_text()), signal.SIGKILL)
        time.sleep(0.05)
        remove(run)


def remove(run):
    for name in (*KNOWN, "state.new"):
        (run / name).unlink(missing_ok=True)
    run.rmdir()


def main(arguments):
    command, rest = arguments[0], arguments[1:]
    if word("sigill"):
        os.kill(os.getpid(), signal.SIGILL)
    if command == "probe":
        print(json.dumps(probe_facts()) if not word("chatty") else "x" * (2 << 20))
        return 0
    run = Path(rest[0])
    if command == "start":
        first = next(at for at, each in enumerate(rest) if at > 3 and each.startswith("--"))
        return start(run, rest[2], rest[4:first], dict(zip(rest[first::2], rest[first + 1 :: 2], strict=True)))
    if command == "wait":
        empty = {"progress": None, "exit": None, "signal": None, "nonce": None, "error": None}
        print(json.dumps({**empty, **wait(run, float(rest[2]))}))
    if command == "stop":
        stop(run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
