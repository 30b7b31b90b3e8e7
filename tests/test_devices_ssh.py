"""The harness over real OpenSSH on the loopback interface: the whole way, broken links, keys, and hostile names."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_lab import SshServer, demand_runner, install_fake_runner, left_behind, needs_sshd, write_profile
from sample_gguf import write_sample_gguf

from edgekit.cli import main
from edgekit.devices import remote
from edgekit.devices.measure import measure
from edgekit.devices.target import Target
from edgekit.devices.transports import LostLink, Transport, open_transport
from edgekit.models.errors import InfrastructureError

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("device") / "sample.gguf")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SshServer:
    return SshServer(tmp_path_factory.mktemp("ssh") / "server")


@pytest.fixture
def server(keys: SshServer) -> Iterator[SshServer]:
    keys.trust("host")
    keys.start()
    yield keys
    keys.cut()


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_runner(tmp_path / "runners", monkeypatch)
    monkeypatch.setattr(remote, "REATTACH_S", 15.0)  # a connection takes seconds on a machine that is busy
    monkeypatch.setattr(remote, "_STOP_S", 10.0)
    return tmp_path / "device"


def profile(server: SshServer, workdir: Path, faults: str = "", more: str = "") -> Path:
    return write_profile(workdir.parent / "board.toml", "ssh", workdir, faults, server.settings() + more)


def bench(model: Path, file: Path, *more: str) -> int:
    return main(["bench", str(model), "--device", str(file), "--gen-tokens", "8", "--reps", "4", *more])


@pytest.fixture
def transport(server: SshServer, tmp_path: Path) -> Transport:
    return open_transport(Target.parse(str(profile(server, tmp_path / "device"))))


HOSTILE = ("; touch {0}", "$(touch {0})", "`touch {0}`", "a' ; touch {0} ; '", '"; touch {0}; "', "-n", "--help", "*",
           "a\nb", "~", "$HOME", "\\", "ü", "", "%h", "# x", "!!", "{{a,b}}")  # fmt: skip


def test_what_is_said_comes_back_as_it_was(transport: Transport, tmp_path: Path) -> None:
    """Every word arrives whole, none is read by a shell; stdout, stderr and status stay apart."""
    words = [word.format(tmp_path / "pwned") for word in HOSTILE]
    done = transport.run(["printf", "%s\\0", *words], 20)
    assert (done.returncode, done.lost, done.stderr) == (0, False, "")
    assert done.stdout.split("\0") == [*words, ""]
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 20)
    assert (done.returncode, done.stdout, done.stderr.strip(), done.lost) == (7, "out\n", "err", False)
    done = transport.run(["sh", "-c", "exit 255"], 20)
    assert (done.returncode, done.lost) == (255, False)  # ssh's own 255 is something else
    done = transport.run(["sh", "-c", "kill -ILL $$"], 20)
    assert (done.returncode, done.lost) == (132, False)
    assert not (tmp_path / "pwned").exists()


def test_files_go_and_come_back(transport: Transport, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(content)
    remote_name = str(tmp_path / "b '; touch pwned; $(x)")
    assert transport.push(tmp_path / "a", remote_name, 20).returncode == 0
    assert Path(remote_name).read_bytes() == content == transport.pull(remote_name, len(content), 20)
    for limit in (len(content) - 1, 10):
        with pytest.raises(InfrastructureError):
            transport.pull(remote_name, limit, 20)
    with pytest.raises(InfrastructureError, match="No such file"):
        transport.pull(str(tmp_path / "none"), 10, 20)
    assert transport.push(tmp_path / "a", str(tmp_path / "none" / "b"), 20).returncode != 0


def test_too_much_output_is_refused(transport: Transport) -> None:
    with pytest.raises(InfrastructureError, match="more than"):
        transport.run(["head", "-c", str(3 << 20), "/dev/zero"], 20)


def test_a_command_that_takes_too_long_is_given_up(transport: Transport) -> None:
    start = time.monotonic()
    done = transport.run(["sleep", "5"], 1)
    assert done.lost and "no answer within 1 s" in done.stderr and time.monotonic() - start < 4


def test_a_link_cut_in_mid_command_is_lost(transport: Transport, server: SshServer, tmp_path: Path) -> None:
    threading.Timer(1.0, server.cut).start()
    done = transport.run(["sh", "-c", "echo half; sleep 4; echo whole"], 20)
    assert done.lost
    with pytest.raises(LostLink):
        transport.pull("/etc/hostname", 1000, 5)


def test_a_run(model: Path, server: SshServer, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, profile(server, workdir), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "valid" and found["device"]["transport"] == "ssh"
    assert left_behind(workdir) == []


def test_names_that_a_shell_would_run(model: Path, server: SshServer, tmp_path: Path, workdir: Path) -> None:
    pwned = f"pwned-{time.time_ns()}"
    way = f"-rf; touch {pwned}; $(touch {pwned}) `touch {pwned}` ' ; touch {pwned} ; ' a b  c \"$HOME\" * ~ \\"
    more = f"tags = {json.dumps([way])}\nrunner_prefix = {json.dumps(['env', f'A={way}'])}"
    file = write_profile(tmp_path / "board.toml", "ssh", tmp_path / way, "", server.settings() + more)
    file.write_text(f"{file.read_text()}HOSTILE = {json.dumps(way)}\n")
    before = set(tmp_path.iterdir())
    assert bench(model, file) == 0
    assert set(tmp_path.iterdir()) == before and left_behind(tmp_path / way) == []
    assert not any((folder / pwned).exists() for folder in (Path.home(), Path.cwd()))


def test_from_the_home_folder(model: Path, server: SshServer, workdir: Path) -> None:
    """ssh starts there, and no shell expands ~ in what is quoted."""
    name = f".cache/edgekit-test-{time.time_ns()}"
    file = write_profile(workdir.parent / "board.toml", "ssh", Path("~") / name, "", server.settings())
    try:
        assert bench(model, file, "--keep") == 0
        assert len(list((Path.home() / name / "blobs").iterdir())) == 4
        assert not (Path.home() / "~").exists()
    finally:
        shutil.rmtree(Path.home() / name, ignore_errors=True)


def cut_in_mid_run(server: SshServer, workdir: Path, *, back_after_s: float | None) -> threading.Thread:
    def act() -> None:
        until = time.monotonic() + 20
        while not list(workdir.glob("run-*/pid")) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.3)
        server.cut()
        if back_after_s is not None:
            time.sleep(back_after_s)
            server.start()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_link_that_comes_back(model: Path, server: SshServer, workdir: Path) -> None:
    """The run went on meanwhile, and its result is as good as any."""
    other = cut_in_mid_run(server, workdir, back_after_s=1.0)
    code = bench(model, profile(server, workdir, "slow=3"))
    other.join()
    assert code == 0
    assert left_behind(workdir) == []


def test_a_link_that_stays_away(
    model: Path, server: SshServer, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 6; on the device the run ends by itself when its lease is up, and what is left is named."""
    monkeypatch.setattr(remote, "LEASE_S", 10)
    other = cut_in_mid_run(server, workdir, back_after_s=None)
    code = bench(model, profile(server, workdir, "hang"))
    other.join()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 6 and "cannot be reached" in told and f"{workdir} there could not be cleaned up" in told
    until = time.monotonic() + 30
    while list(workdir.glob("run-*")) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [line for line in left_behind(workdir) if "run-" in line]
    server.start()
    assert bench(model, profile(server, workdir)) == 0  # and the device is free again


@pytest.mark.parametrize(("key", "told"), [("other", "Host key verification failed"), (None, "Host key verification")])
def test_host_keys_are_checked(
    model: Path, server: SshServer, workdir: Path, key: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if key is None:
        (server.folder / "known_hosts").write_text("")
    else:
        server.trust(key)
    assert bench(model, profile(server, workdir)) == 6
    err = capsys.readouterr().err
    assert told in err and "known_hosts" in err and len(err.strip().splitlines()) == 1
    assert not workdir.exists()
    if key is None:
        assert (server.folder / "known_hosts").read_text() == ""  # nor is it learnt by the way


def test_nobody_is_let_in_without_a_key(
    model: Path, server: SshServer, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = profile(server, workdir)
    file.write_text(file.read_text().replace("server/user", "server/other"))
    assert bench(model, file) == 6
    assert "identity_file" in capsys.readouterr().err


def test_nobody_is_there(model: Path, server: SshServer, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.cut()
    assert bench(model, profile(server, workdir)) == 6
    assert "Connection refused" in capsys.readouterr().err
    server.start()


@pytest.mark.parametrize("faults", ["sigill", "killed"])
def test_faults_leave_nothing(model: Path, server: SshServer, workdir: Path, faults: str) -> None:
    assert bench(model, profile(server, workdir, faults)) == 6
    assert left_behind(workdir) == []


def test_the_real_runner(model: Path, server: SshServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demand_runner()
    file = write_profile(tmp_path / "board.toml", "ssh", tmp_path / "device", "", server.settings())
    line = ["--prompt-tokens", "8", "--gen-tokens", "4", "--reps", "1", "--threads", "1", "--json"]
    assert main(["bench", str(model), "--device", str(file), *line]) == 3  # one repetition is few
    found = json.loads(capsys.readouterr().out)
    assert found["samples"][0]["output_sha256"] == measure(model, "native", 8, 4, 1).output_sha256
    assert left_behind(tmp_path / "device") == []
