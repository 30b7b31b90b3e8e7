"""edgekit-bench, the program that runs on a device, on this machine: its life cycle, its result, its faults."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sample_gguf import write_sample_gguf
from test_cross import PAGE_BYTES, load_segments
from test_native import NATIVE, built, demand, run

from edgekit.devices import host
from edgekit.devices.answer import read_probe, read_result
from edgekit.devices.measure import measure, prompt_ids
from edgekit.runtimes import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="edgekit-bench is for Linux")

NONCE = "0123abcd"
PROMPT, GENERATED = 30, 10
USAGE, BAD_MODEL, CANNOT_WRITE, BUSY = 64, 65, 73, 75
WITHOUT_END = ("--gen-tokens", "900", "--reps", "300")  # minutes


@pytest.fixture(scope="session")
def program() -> Path:
    return built("native") / "edgekit-bench"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("model") / "sample.gguf")


@pytest.fixture(scope="session")
def special_tokens(model: Path) -> tuple[str, ...]:
    """The options by which the harness tells the runner what its tokenizer knows."""
    session = load(model, context=40, threads=1)
    ends = ",".join(str(token) for token in sorted(session.end_tokens))
    options = ("--end-tokens", ends) if session.bos is None else ("--bos", str(session.bos), "--end-tokens", ends)
    session.close()
    return options


@dataclass(frozen=True)
class Run:
    """One run of the program, in a work folder of its own."""

    program: Path
    folder: Path

    def start(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        least = {"--nonce": NONCE, "--prompt-tokens": PROMPT, "--gen-tokens": GENERATED, "--reps": 2, "--threads": 1}
        given = [str(argument) for argument in arguments]
        options = [str(part) for name, value in least.items() if name not in given for part in (name, value)]
        return run(self.program, "start", self.folder, "--lock", self.folder.parent, "--", *given, *options)

    def wait(self, seconds: float = 60) -> dict[str, Any]:
        return json.loads(demand(run(self.program, "wait", self.folder, "--seconds", seconds)))

    def stop(self) -> subprocess.CompletedProcess[str]:
        return run(self.program, "stop", self.folder)

    def pids(self) -> tuple[int, int]:
        """Of the worker and the supervisor."""
        fields = (self.folder / "pid").read_text().split()
        return int(fields[0]), int(fields[2])

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture
def a_run(program: Path, tmp_path: Path) -> Iterator[Run]:
    one = Run(program, tmp_path / "run")
    yield one
    for path in tmp_path.iterdir():
        demand(run(program, "stop", path) if (path / "state").exists() else run("true"))


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only what its parent has not asked for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Any, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def of_the_group(leader: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader and fields[0] not in ("Z", "X"):
            found.append(int(path.parent.name))
    return found


# --- what it finds ---


def test_a_whole_run(a_run: Run, model: Path, special_tokens: tuple[str, ...]) -> None:
    demand(a_run.start(model, "--reps", 3, "--cores", "all", *special_tokens))
    said = a_run.wait()
    assert said == {"state": "done", "progress": 1, "exit": 0, "signal": None, "nonce": NONCE, "error": None}
    assert (a_run.folder / "log").read_text().splitlines()[-1] == f"done {NONCE}"
    result = a_run.result()
    assert result["protocol"] == 1
    assert result["nonce"] == NONCE
    read = read_result((a_run.folder / "result.json").read_bytes(), "here")  # as the desk does
    assert read.samples[0][2].inter_token_s == tuple(result["samples"][2]["inter_token_s"])
    expected = measure(model, "native", PROMPT, GENERATED, 1)
    assert len(result["samples"]) == 3
    for sample in result["samples"]:
        assert sample["model"] == 0
        assert sample["output_sha256"] == expected.output_sha256
        assert len(sample["inter_token_s"]) == GENERATED - 1
        assert sample["decode_tps"] == pytest.approx((GENERATED - 1) / sum(sample["inter_token_s"]), rel=1e-6)
        assert sample["ttft_s"] >= PROMPT / sample["prefill_tps"] > 0
        assert sample["load_s"] > 0
    times = [sample["at_s"] for sample in result["samples"]]
    assert times == sorted(times)
    assert [sample["load_cold_s"] for sample in result["samples"][1:]] == [None, None]
    assert result["samples"][0]["load_cold_s"] is not None or "load_cold_s" in result["reasons"]


def test_what_it_ran_with(a_run: Run, model: Path, special_tokens: tuple[str, ...]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    demand(a_run.start(model, "--cores", cores[-1], "--cache", "q8_0,q4_0", *special_tokens))
    assert a_run.wait()["state"] == "done"
    result = a_run.result()
    config = result["config"]
    assert config["affinity"] == [cores[-1]]
    assert config["threads"] == 1
    assert (config["prompt_tokens"], config["gen_tokens"], config["reps"]) == (PROMPT, GENERATED, 2)
    assert (config["cores"], config["cache"]) == (str(cores[-1]), "q8_0,q4_0")
    assert config["cooldown_c"] is None
    (facts,) = result["models"]
    assert facts["bytes"] == model.stat().st_size
    assert facts["architecture"] == "llama"
    assert 0 < facts["decode_bytes"] <= facts["weight_bytes"]
    assert facts["isa"] in result["build"]["isa_built"]
    assert result["build"]["compiler"]
    (memory,) = result["memory"]
    assert memory["reason"] is None
    assert 0 < memory["baseline_bytes"] < memory["pss_bytes"] <= memory["peak_bytes"]
    assert memory["peak_bytes"] - memory["baseline_bytes"] > facts["weight_bytes"]
    assert result["suspended_s"] == 0
    assert result["timeline"][0]["at_s"] >= 0
    for figure in ("freq_hz", "temp_c", "load", "throttling"):  # each is there, or why it is not
        assert (result["timeline"][0][figure] is None) == (figure in result["reasons"])
    types = measure_hash(model, "q8_0,q4_0")
    assert {sample["output_sha256"] for sample in result["samples"]} == {types}


def measure_hash(model: Path, types: str) -> str:
    from edgekit.runtimes import CacheTypes

    return measure(model, "native", PROMPT, GENERATED, 1, CacheTypes.parse(types)).output_sha256


def test_two_models_take_turns(a_run: Run, model: Path, tmp_path: Path, special_tokens: tuple[str, ...]) -> None:
    other = write_sample_gguf(tmp_path / "other.gguf", "q4_0")
    demand(a_run.start(model, other, "--reps", 3, *special_tokens))
    assert a_run.wait()["state"] == "done"
    result = a_run.result()
    assert [sample["model"] for sample in result["samples"]] == [0, 1, 1, 0, 0, 1]
    hashes = [measure(path, "native", PROMPT, GENERATED, 1).output_sha256 for path in (model, other)]
    assert [sample["output_sha256"] for sample in result["samples"]] == [hashes[k] for k in (0, 1, 1, 0, 0, 1)]
    assert len(result["models"]) == len(result["memory"]) == 2
    assert result["models"][0]["weight_bytes"] > result["models"][1]["weight_bytes"]
    assert result["memory"][0]["peak_bytes"] > result["memory"][1]["peak_bytes"]
    assert [sample["load_cold_s"] for sample in result["samples"][2:]] == [None] * 4


def test_a_file_that_cannot_be_made_cold(a_run: Run, model: Path) -> None:
    """A tmpfs has its files in memory alone."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    resident = Path("/dev/shm") / f"edgekit-runner-{os.getpid()}.gguf"
    shutil.copyfile(model, resident)
    try:
        demand(a_run.start(resident))
        assert a_run.wait()["state"] == "done"
    finally:
        resident.unlink()
    result = a_run.result()
    assert [sample["load_cold_s"] for sample in result["samples"]] == [None, None]
    assert "in memory" in result["reasons"]["load_cold_s"]


def test_cooling_down_without_a_thermometer(a_run: Run, model: Path) -> None:
    demand(a_run.start(model, "--cooldown-c", 40, "--cooldown-s", 1, "--cooldown-sensor", "none-such"))
    assert a_run.wait()["state"] == "done"
    result = a_run.result()
    assert "none-such" in result["reasons"]["cooldown"]
    assert result["config"]["cooldown_sensor"] == "none-such"


PHONE = {
    "cpu/present": "0-1",
    "cpu/online": "0-1",
    "cpu/cpu0/cpu_capacity": "400",
    "cpu/cpu1/cpu_capacity": "1024",
    "cpu/cpu0/cpufreq/scaling_cur_freq": "1400000",
    "cpu/cpu1/cpufreq/scaling_cur_freq": "2400000",
    "cpu/cpu1/cpufreq/cpuinfo_max_freq": "2840000",
    "thermal/thermal_zone0/type": "cpu-1-7",
    "thermal/thermal_zone0/temp": "50000",
    "thermal/thermal_zone1/type": "battery",
    "thermal/thermal_zone1/temp": "31500",
    "thermal/cooling_device0/type": "thermal-cpufreq-1",
    "thermal/cooling_device0/cur_state": "0",
}


@pytest.fixture
def phone(tmp_path: Path, program: Path) -> list[str]:
    """What to put before a command that shall see clocks, thermometers, a little core and a big one: tmp_path/sys."""
    for name, text in PHONE.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    if {0, 1} - os.sched_getaffinity(0):
        pytest.skip("this machine has no two cores to play a phone's")
    script = f"""mount --bind {tmp_path}/sys/cpu /sys/devices/system/cpu &&
        mount --bind {tmp_path}/sys/thermal /sys/class/thermal && exec "$@\""""
    command = ["unshare", "--mount", "sh", "-c", script, "phone"]
    if run(*command, "true").returncode != 0:
        pytest.skip("a mount namespace with another /sys is not allowed here")
    return command


def test_on_a_phone(phone: list[str], program: Path, model: Path, tmp_path: Path) -> None:
    cores = json.loads(demand(run(*phone, program, "probe")))["cores"]
    assert cores[0] == {"cpu": 0, "max_hz": None, "capacity": 400, "big": False}
    assert cores[1] == {"cpu": 1, "max_hz": 2840000000, "capacity": 1024, "big": True}
    one = Run(program, tmp_path / "run")
    options = ("--nonce", NONCE, "--prompt-tokens", PROMPT, "--gen-tokens", GENERATED, "--reps", 2)
    cooling = ("--cooldown-c", 45, "--cooldown-s", 20)
    demand(run(*phone, program, "start", one.folder, "--lock", tmp_path, "--", model, *options, *cooling))
    assert one.wait(1.5)["state"] == "running"  # it waits
    (tmp_path / "sys" / "thermal" / "thermal_zone0" / "temp").write_text("44000\n")
    assert one.wait()["state"] == "done"
    result = one.result()
    demand(one.stop())
    assert (result["config"]["affinity"], result["config"]["threads"]) == ([1], 1)
    assert not {"cooldown", "freq_hz", "temp_c", "throttling"} & result["reasons"].keys()
    entry = result["timeline"][0]
    assert entry["freq_hz"] == [1.4e9, 2.4e9]
    assert entry["temp_c"] == {"cpu-1-7": 50, "battery": 31.5}
    assert entry["throttling"] == {"thermal-cpufreq-1": 0}
    times = [entry["at_s"] for entry in result["timeline"]]
    assert all(0.9 < later - earlier < 5 for earlier, later in pairwise(times))
    assert result["samples"][0]["at_s"] > 1


def test_a_phone_that_does_not_cool_down(phone: list[str], program: Path, model: Path, tmp_path: Path) -> None:
    one = Run(program, tmp_path / "run")
    options = ("--nonce", NONCE, "--prompt-tokens", PROMPT, "--gen-tokens", GENERATED, "--reps", 1)
    cooling = ("--cooldown-c", 30, "--cooldown-s", 0.5, "--cooldown-sensor", "battery")
    demand(run(*phone, program, "start", one.folder, "--lock", tmp_path, "--", model, *options, *cooling))
    assert one.wait()["state"] == "done"
    assert one.result()["reasons"]["cooldown"].startswith("still at 31.5 degrees Celsius after 0.5 s")
    demand(one.stop())


def test_probe(program: Path, tmp_path: Path) -> None:
    said = demand(run(program, "probe", tmp_path / "not" / "there"))
    assert read_probe(said, "here").machine == os.uname().machine
    found = json.loads(said)
    assert found["protocol"] == 1
    assert found["isa"] == list(host.isa())
    assert found["ram_bytes"] == host.ram_bytes()
    assert found["machine"] == os.uname().machine
    assert found["kernel"] == os.uname().release
    assert found["online"] == os.cpu_count() <= len(found["cores"])
    assert found["page_bytes"] == os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(tmp_path).free
    assert found["disk_free_bytes"] == pytest.approx(free, rel=0.05)
    assert 0 < found["available_bytes"] < found["ram_bytes"]
    assert found["emulated"] in (True, False)
    assert (found["emulated_why"] is None) == (not found["emulated"])
    for figure in ("model", "cpu"):
        assert (found[figure] is None) == (figure in found["reasons"])
    assert any(core["big"] for core in found["cores"])


# --- how it lives and ends ---


def test_it_leaves_nothing(a_run: Run, model: Path, tmp_path: Path) -> None:
    demand(a_run.start(model))
    worker, supervisor = a_run.pids()
    assert a_run.wait()["state"] == "done"
    demand(a_run.stop())
    assert not of_the_group(supervisor)
    assert not lives(worker)
    assert list(tmp_path.iterdir()) == []
    demand(a_run.stop())  # once more: nothing to do
    assert a_run.wait(1)["state"] == "gone"


def test_it_is_detached(a_run: Run, model: Path) -> None:
    """Nothing keeps the pipes of whoever starts it open, which run() reads to their ends; nor is it in its session."""
    demand(a_run.start(model, *WITHOUT_END))
    worker, supervisor = a_run.pids()
    assert os.getsid(worker) == os.getsid(supervisor) == supervisor
    assert Path(f"/proc/{worker}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{worker}/fd/1").readlink() == a_run.folder / "log"
    said = a_run.wait(0)
    assert (said["state"], said["exit"], said["nonce"]) == ("running", None, None)
    assert 0 <= said["progress"] < 1
    assert not (a_run.folder / "result.json").exists()
    demand(a_run.stop())
    assert until(lambda: not of_the_group(supervisor), 1)
    assert not a_run.folder.exists()


def test_one_at_a_time(a_run: Run, program: Path, model: Path) -> None:
    demand(a_run.start(model, *WITHOUT_END))
    second = Run(program, a_run.folder.with_name("second"))
    refused = second.start(model)
    assert refused.returncode == BUSY
    assert refused.stderr == "edgekit-bench: another benchmark runs on this device: wait until it has ended\n"
    assert not second.folder.exists()
    demand(a_run.stop())
    demand(second.start(model))
    assert second.wait()["state"] == "done"
    third = Run(program, a_run.folder.with_name("third"))
    demand(third.start(model))  # the lock is free though the second one's result is still there
    assert third.wait()["state"] == "done"


def test_a_lock_file_is_made(program: Path, tmp_path: Path, model: Path) -> None:
    lock = tmp_path / "lock"
    command = (program, "start", tmp_path / "run", "--lock", lock, "--", tmp_path / "none.gguf")
    options = ("--nonce", NONCE, "--prompt-tokens", 2, "--gen-tokens", 2, "--reps", 1)
    demand(run(*command, *options))
    Run(program, tmp_path / "run").wait()
    demand(run(program, "stop", tmp_path / "run"))
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(*command, *options).returncode == BUSY


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGILL])
def test_a_killed_worker(a_run: Run, model: Path, number: signal.Signals) -> None:
    demand(a_run.start(model, *WITHOUT_END))
    worker, supervisor = a_run.pids()
    os.kill(worker, number)
    said = a_run.wait()
    assert (said["state"], said["exit"], said["signal"], said["nonce"]) == ("failed", None, number, None)
    assert f"signal {int(number)}" in said["error"]
    assert not list(a_run.folder.glob("result*"))
    assert until(lambda: of_the_group(supervisor) == [supervisor])
    demand(a_run.stop())
    assert not of_the_group(supervisor)


def test_a_killed_supervisor_takes_the_worker_along(a_run: Run, model: Path) -> None:
    demand(a_run.start(model, *WITHOUT_END))
    worker, supervisor = a_run.pids()
    os.kill(supervisor, signal.SIGKILL)
    said = a_run.wait()
    assert (said["state"], said["exit"], said["signal"]) == ("failed", None, None)
    assert "from outside" in said["error"]
    assert not lives(worker)
    demand(a_run.stop())
    assert not a_run.folder.exists()


@pytest.mark.parametrize("who", ["worker", "supervisor"])
def test_sigterm_clears_up(a_run: Run, model: Path, tmp_path: Path, who: str) -> None:
    demand(a_run.start(model, *WITHOUT_END))
    worker, supervisor = a_run.pids()
    os.kill(worker if who == "worker" else supervisor, signal.SIGTERM)
    assert until(lambda: not of_the_group(supervisor))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--lease", "--deadline"])
def test_it_does_not_outlive_its_time(a_run: Run, model: Path, tmp_path: Path, option: str) -> None:
    demand(a_run.start(model, *WITHOUT_END, option, 1))
    _, supervisor = a_run.pids()
    assert until(lambda: not of_the_group(supervisor))
    assert list(tmp_path.iterdir()) == []
    assert a_run.wait(1)["state"] == "gone"


def test_a_result_that_nobody_fetches_is_removed(a_run: Run, model: Path, tmp_path: Path) -> None:
    demand(a_run.start(model, "--reps", 1, "--lease", 3))
    _, supervisor = a_run.pids()
    assert a_run.wait()["state"] == "done"
    assert until(lambda: not of_the_group(supervisor))
    assert list(tmp_path.iterdir()) == []


def test_waiting_renews_the_lease(a_run: Run, model: Path) -> None:
    demand(a_run.start(model, *WITHOUT_END, "--lease", 2))
    for _ in range(6):
        assert a_run.wait(0.5)["state"] == "running"


def test_waiting_costs_nothing(a_run: Run, program: Path, model: Path) -> None:
    demand(a_run.start(model, *WITHOUT_END))
    with subprocess.Popen([program, "wait", a_run.folder, "--seconds", "1"], stdout=subprocess.DEVNULL) as waiting:
        _, _, usage = os.wait4(waiting.pid, 0)
        waiting.returncode = 0
    assert usage.ru_utime + usage.ru_stime < 0.02


# --- what is wrong ---


def test_a_missing_model(a_run: Run, tmp_path: Path) -> None:
    demand(a_run.start(tmp_path / "none.gguf"))
    said = a_run.wait()
    assert (said["state"], said["exit"], said["signal"]) == ("failed", BAD_MODEL, None)
    assert said["error"].startswith(f"{tmp_path / 'none.gguf'} cannot be read")
    assert (a_run.folder / "log").read_text() == f"edgekit-bench: {said['error']}\n"
    assert not (a_run.folder / "result.json").exists()


def test_a_file_that_is_no_model(a_run: Run, model: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    demand(a_run.start(model, half))  # the second of two
    said = a_run.wait()
    assert (said["state"], said["exit"]) == ("failed", BAD_MODEL)
    assert str(half) in said["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt-tokens", "4000", "--gen-tokens", "4000"), "context of 1024 tokens"),
        (("--bos", "4096"), "--bos 4096"),
        (("--cores", "1000"), "--cores 1000"),
    ],
)
def test_options_that_the_model_or_device_does_not_allow(
    a_run: Run, model: Path, options: tuple[str, ...], message: str
) -> None:
    demand(a_run.start(model, *options))
    said = a_run.wait()
    assert (said["state"], said["exit"]) == ("failed", USAGE)
    assert message in said["error"]


def test_usage(program: Path, tmp_path: Path) -> None:
    for arguments in (
        (),
        ("bench",),
        ("probe", "a", "b"),
        ("start", tmp_path / "run"),
        ("start", tmp_path / "run", "--lock", tmp_path, "--", "m", "--reps", "x"),
        ("wait", tmp_path),
        ("wait", tmp_path, "--seconds", "forever"),
        ("stop",),
        ("memory-pass",),
    ):
        assert run(program, *arguments).returncode == USAGE, arguments
    assert list(tmp_path.iterdir()) == []
    assert "edgekit-bench probe" in demand(run(program, "--help"))


def test_where_it_cannot_write(a_run: Run, program: Path, model: Path, tmp_path: Path) -> None:
    nowhere = Run(program, tmp_path / "none" / "run")
    assert nowhere.start(model).returncode == CANNOT_WRITE
    a_run.folder.mkdir()
    (a_run.folder / "log").write_text("somebody's")
    assert a_run.start(model).returncode == CANNOT_WRITE  # the folder is there already
    stopped = a_run.stop()
    assert stopped.returncode == CANNOT_WRITE  # and is no run's
    assert (a_run.folder / "log").read_text() == "somebody's"
    (a_run.folder / "log").unlink()
    demand(a_run.stop())
    demand(a_run.start(model))
    assert a_run.wait()["state"] == "done"
    (a_run.folder / "mine").touch()
    assert a_run.stop().returncode == CANNOT_WRITE
    assert [path.name for path in a_run.folder.iterdir()] == ["mine"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "size=1m", "edgekit-runner", folder).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    demand(run("umount", "--lazy", folder))


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_disk_that_fills_up(small_disk: Path, program: Path, model: Path) -> None:
    """After the start; the run says why it fails, though its log cannot."""
    one = Run(program, small_disk / "run")
    demand(one.start(model, "--gen-tokens", 300))
    worker, _ = one.pids()
    os.kill(worker, signal.SIGSTOP)
    assert one.wait(0)["state"] == "running"
    fill(small_disk)
    os.kill(worker, signal.SIGCONT)
    said = one.wait()
    assert (said["state"], said["exit"], said["nonce"]) == ("failed", CANNOT_WRITE, None)
    assert "disk is full" in said["error"]
    assert not list(one.folder.glob("result*"))
    demand(one.stop())
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_result_that_is_tampered_with(a_run: Run, model: Path) -> None:
    demand(a_run.start(model))
    assert a_run.wait()["state"] == "done"
    with (a_run.folder / "log").open("a") as log:
        log.write("something else\n")
    said = a_run.wait()
    assert (said["state"], said["exit"], said["nonce"]) == ("failed", 0, None)
    assert "has been removed" in said["error"]


def test_a_disk_that_is_full(small_disk: Path, program: Path, model: Path) -> None:
    fill(small_disk)
    one = Run(program, small_disk / "run")
    refused = one.start(model)
    assert refused.returncode == CANNOT_WRITE
    assert "disk is full" in refused.stderr
    assert not one.folder.exists()


def test_a_device_without_memory(program: Path, model: Path, tmp_path: Path) -> None:
    one = Run(program, tmp_path / "run")
    options = f"--nonce {NONCE} --prompt-tokens 900 --gen-tokens 90 --reps 1 --threads 1"
    script = f'ulimit -v 8000; exec "$0" start "$1" --lock "$2" -- "$3" {options}'
    demand(run("sh", "-c", script, program, one.folder, tmp_path, model))
    said = one.wait()
    assert said["state"] == "failed"
    assert said["exit"] in (71, BAD_MODEL)  # a file that cannot be mapped is one that cannot be read
    assert said["error"]
    demand(one.stop())


# --- the static programs that are copied to devices ---


@pytest.fixture(scope="session", params=["aarch64", "x86_64"])
def static_program(request: pytest.FixtureRequest) -> list[str]:
    """The command that runs it here."""
    machine = request.param
    has_zig = importlib.util.find_spec("ziglang") is not None
    if not has_zig and shutil.which(f"{machine}-linux-gnu-gcc") is None:
        pytest.skip(f"neither the Python package ziglang nor {machine}-linux-gnu-gcc is installed")
    demand(run(sys.executable, NATIVE.parent / "devices" / "build_runner.py", machine))
    program = str(NATIVE.parent / "build" / "runner" / f"edgekit-bench-{machine}")
    if os.uname().machine == machine:
        return [program]
    emulator = f"qemu-{machine}"
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed (Debian: qemu-user)")
    return [emulator, *(("-cpu", "cortex-a76") if machine == "aarch64" else ()), program]


def test_a_static_program(
    static_program: list[str], model: Path, tmp_path: Path, special_tokens: tuple[str, ...]
) -> None:
    """It needs no library, loads where pages have 16 KiB, and its tokens are those of every other processor."""
    elf = Path(static_program[-1]).read_bytes()
    for offset, address, align in load_segments(elf):
        assert align >= PAGE_BYTES and (address - offset) % PAGE_BYTES == 0
    probe = json.loads(demand(run(*static_program, "probe")))
    assert Path(static_program[-1]).name == f"edgekit-bench-{probe['machine']}"
    assert probe["emulated"] or len(static_program) == 1
    folder = tmp_path / "run"
    options = ("--nonce", NONCE, "--prompt-tokens", PROMPT, "--gen-tokens", GENERATED, "--reps", 1, "--threads", 1)
    demand(run(*static_program, "start", folder, "--lock", tmp_path, "--", model, *options, *special_tokens))
    supervisor = int((folder / "pid").read_text().split()[2])
    said = json.loads(demand(run(*static_program, "wait", folder, "--seconds", 100)))
    assert said["state"] == "done", said
    (sample,) = json.loads((folder / "result.json").read_text())["samples"]
    assert sample["output_sha256"] == measure(model, "native", PROMPT, GENERATED, 1).output_sha256
    demand(run(*static_program, "stop", folder))
    assert not of_the_group(supervisor)
    assert list(tmp_path.iterdir()) == []


def test_the_prompt_is_the_benchmarks(model: Path) -> None:
    """What native/tests/runner_test.c expects of workload_prompt is what prompt_ids makes."""

    class Gemma:
        bos, vocab, end_tokens = 2, 262144, frozenset({1, 106})

    class Tiny:
        bos, vocab, end_tokens = None, 6, frozenset({1, 5})

    text = (NATIVE / "tests" / "runner_test.c").read_text()
    for session, count in ((Gemma(), 8), (Tiny(), 6)):
        ids = ", ".join(str(token) for token in prompt_ids(session, count))  # type: ignore[arg-type]
        assert f"{{{ids}}}" in text
