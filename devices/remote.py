"""A benchmark on a device, run from the desk: put there, started, followed over links that break, fetched, removed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from edgekit.devices import vendor
from edgekit.devices.answer import Probe, RunAnswer, RunState, read_probe, read_result, read_state
from edgekit.devices.comparison import refuse_emulated
from edgekit.devices.deploy import SHORT_S, Store, file_sha256, last_line, lost
from edgekit.devices.ending import told_to_end
from edgekit.devices.result import ModelFile
from edgekit.devices.runner import runner_file
from edgekit.devices.stored import MOST_BYTES
from edgekit.devices.target import ABIS, Target
from edgekit.devices.transports import LostLink, Ran, open_transport
from edgekit.models.errors import InfrastructureError, InputError

LEASE_S = 120  # the run ends by itself when the desk has not been heard of for so long
REATTACH_S = 60.0  # within the lease
WAIT_S = 20  # of one look at the run: each is a connection, which takes some of the device's time
_STOP_S = 20.0
_GRACE_S = 30.0  # after the deadline, for a runner that ends by itself
_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_SPELLINGS = {"arm64": "aarch64", "amd64": "x86_64"}
_USAGE, _BUSY, _SIGILL, _SIGKILL = 64, 75, 4, 9
_EXITS = {
    65: "cannot run this model",
    71: "was refused by the system",
    73: "could not write its result: free some space there, or choose another workdir",
}


@dataclass(frozen=True)
class Workload:
    """What is asked for; None: as the target says, else the runner's own choice."""

    prompt_tokens: int
    gen_tokens: int
    reps: int
    bos: int | None = None  # of the model, as are the next: the prompt's ids depend on them
    end_tokens: tuple[int, ...] = ()
    threads: int | None = None
    cache: str | None = None
    deadline_s: int = 3600


@dataclass(frozen=True)
class Measured:
    """A whole run, what the device said of itself, and what went wrong with cleaning up."""

    answer: RunAnswer
    identity: vendor.Identity
    throttling: tuple[vendor.Throttling, vendor.Throttling]  # before and after
    runner_sha256: str
    trouble: str | None


def probe(target: Target) -> Probe:
    """The device's facts, Android's own among them.

    Raises InfrastructureError where it cannot be reached or the runner does not run there.
    """
    with _session(target, keep=False) as session:
        facts = named(session.probe(), session.identity())
    if session.trouble is not None:
        raise InfrastructureError(session.trouble)
    return facts


def measure_on(
    models: Sequence[ModelFile], target: Target, workload: Workload, *, keep: bool = False, as_evidence: bool = False
) -> Measured:
    """Run one file or two in turns on the device. Whatever happens, nothing is left there when this returns or raises.

    Raises InfrastructureError, in one sentence, for all that can go wrong there; InvalidResultError for an emulated
    device where the figures are to be evidence, before anything is put there.
    """
    with _session(target, keep=keep) as session:
        facts, identity = session.probe(), session.identity()
        _check_isa(target, facts)
        if as_evidence and (target.emulated or named(facts, identity).emulated):
            refuse_emulated(target.name)
        files = {model.sha256: Path(model.path) for model in models}  # the same file twice is one
        remote = session.store.put_all(files, free_bytes=facts.disk_free_bytes)
        before = session.throttling()
        session.start([remote[model.sha256] for model in models], workload)
        session.follow(workload)
        answer = session.fetch()
        _check_answer(target, answer, models, workload)
        after = session.throttling()
    return Measured(answer, identity, (before, after), session.runner_sha256, session.trouble)


class _Session:
    """The runner on one device, and one run of it."""

    def __init__(self, target: Target, keep: bool) -> None:
        self.target = target
        self.nonce = secrets.token_hex(16)
        self.store = Store(open_transport(target), target, self.nonce, keep=keep)
        self.runner: tuple[str, ...] = ()
        self.runner_sha256 = ""
        self.started = False
        self.start_lost: Ran | None = None
        self.trouble: str | None = None

    def open(self) -> None:
        machine = self.target.abi or self._machine()
        file = runner_file(machine)
        self.store.open()
        self.runner_sha256 = file_sha256(file)
        path = self.store.put(file, self.runner_sha256, executable=True)
        settings = [f"{name}={value}" for name, value in self.target.env.items()]
        self.runner = (*(("env", *settings) if settings else ()), *self.target.runner_prefix, path)

    def _machine(self) -> str:
        told = self.store.must(["uname", "-m"], "cannot tell its kind of processor").stdout.strip()
        machine = _SPELLINGS.get(told, told)
        if machine not in ABIS:
            raise InfrastructureError(
                f"{self.target.name} is a {last_line(told)!r} machine: there are runners for {' and '.join(ABIS)} alone"
            )
        return machine

    def ask(self, arguments: Sequence[str], timeout_s: float = SHORT_S) -> Ran:
        return self.store.command([*self.runner, *arguments], timeout_s=timeout_s)

    def probe(self) -> Probe:
        done = self.ask(["probe", self.store.workdir])
        self._check(done)
        return read_probe(done.stdout, self.target.name)

    def identity(self) -> vendor.Identity:
        return vendor.identity(self.store.transport, self.target.transport)

    def throttling(self) -> vendor.Throttling:
        return vendor.throttling(self.store.transport, self.target.transport)

    def start(self, models: Sequence[str], workload: Workload) -> None:
        self.started = True  # even if the answer is lost
        line = ["start", self.store.run_folder, "--lock", self.store.workdir, "--", *models]
        done = self.ask([*line, *_arguments(self.target, workload, self.nonce)])
        if done.lost:  # it may have started: `follow` sees
            self.start_lost = done
            return
        if done.returncode == _BUSY:
            raise InfrastructureError(
                f"{self.target.name} is busy with another benchmark: wait until that one has ended"
            )
        self._check(done)

    def follow(self, workload: Workload) -> None:
        """Until the run has ended well; a lost link is taken up again for REATTACH_S."""
        start = time.monotonic()
        with tqdm(total=100, desc=f"bench on {self.target.name}", unit="%", disable=None) as bar:
            while (state := self._look()).state == "running":
                bar.update(int(100 * (state.progress or 0)) - bar.n)
                if time.monotonic() - start > workload.deadline_s + _GRACE_S:  # the runner itself did not see to it
                    raise self._too_late(workload)
        if state.state == "gone" and time.monotonic() - start >= workload.deadline_s:
            raise self._too_late(workload)
        if not (state.state == "done" and state.exit in (0, None) and state.nonce == self.nonce):
            raise self._failure(state)

    def _too_late(self, workload: Workload) -> InfrastructureError:
        return InfrastructureError(
            f"the run on {self.target.name} did not end within {workload.deadline_s} s and was stopped: "
            "raise --deadline or ask for fewer tokens"
        )

    def _look(self) -> RunState:
        heard = time.monotonic()
        for wait_s in (*_BACKOFF_S, *[_BACKOFF_S[-1]] * 100):
            done = self.ask(["wait", self.store.run_folder, "--seconds", str(WAIT_S)], timeout_s=WAIT_S + _STOP_S)
            if not done.lost:
                self._check(done)
                return read_state(done.stdout, self.target.name)
            if time.monotonic() - heard > REATTACH_S:
                break
            time.sleep(wait_s)
        raise lost(self.target, done)

    def fetch(self) -> RunAnswer:
        """The result, whole and of this very run."""
        path = f"{self.store.run_folder}/result.json"
        answer = read_result(self._pull(path, MOST_BYTES), self.target.name)
        if answer.nonce != self.nonce:
            raise InfrastructureError(f"{self.target.name} gave back another run's result: nothing was measured")
        return answer

    def _pull(self, path: str, limit_bytes: int) -> bytes:
        for wait_s in _BACKOFF_S:
            try:
                return self.store.transport.pull(path, limit_bytes, SHORT_S)
            except LostLink:
                time.sleep(wait_s)
        return self.store.transport.pull(path, limit_bytes, SHORT_S)

    def _failure(self, state: RunState) -> InfrastructureError | InputError:
        if state.state == "gone" and self.start_lost is not None:
            return lost(self.target, self.start_lost)
        if state.state == "gone":
            return InfrastructureError(f"the run is gone from {self.target.name}: it ended, or was stopped, without us")
        if state.state == "done":
            return InfrastructureError(f"the run on {self.target.name} ended without proof that its result is whole")
        status = state.exit or 0 if state.signal is None else 128 + state.signal
        return self._runner_error(status, state.error or "")

    def _check(self, done: Ran) -> None:
        if done.lost:
            raise lost(self.target, done)
        if done.returncode != 0:
            raise self._runner_error(done.returncode, done.stderr)

    def _runner_error(self, status: int, said: str) -> InfrastructureError | InputError:
        """One sentence for a status of the runner's, or of the shell's in its place."""
        name, why = self.target.name, last_line(self.store.in_our_words(said))
        if status == _USAGE:  # such as a prompt that the model's context does not hold
            return InputError(f"{name}: {why or 'the runner refuses its options'}: ask for something else")
        if status == 128 + _SIGILL:
            text = "the runner met an instruction that this processor lacks: build it for an older one"
        elif status == 128 + _SIGKILL:
            text = "the runner was killed, as happens when memory runs out: choose a smaller model or a shorter prompt"
        elif status > 128:
            text = f"the runner died of signal {status - 128}"
        elif status not in _EXITS:  # a shell's, which may even take a program for another processor for a script
            text = f"the runner cannot be started{f' ({why})' if why else ''}: check abi, runner_prefix and workdir"
        else:
            text = f"the runner {_EXITS[status]}{f': {why}' if why else ''}"
        return InfrastructureError(f"{name}: {text}")

    def end(self) -> str | None:
        """Stop the run and remove everything; what went wrong with that, in words."""
        try:
            if self.started:
                stopped = self.store.surely([*self.runner, "stop", self.store.run_folder], timeout_s=_STOP_S)
            self.store.close()
        except InfrastructureError as error:
            return str(error)
        if self.started and stopped.returncode != 0:
            why = last_line(stopped.stderr) or f"it ended with {stopped.returncode}"
            return (
                f"{self.target.name}: the runner could not stop its run ({why}): look at {self.store.run_folder} there"
            )
        return None


@contextmanager
def _session(target: Target, keep: bool) -> Iterator[_Session]:
    session = _Session(target, keep)
    with told_to_end():
        try:
            session.open()
            yield session
        except BaseException as error:
            trouble = session.end()
            if trouble is not None and isinstance(error, InfrastructureError):
                raise InfrastructureError(f"{error}; {trouble}") from error
            raise
        session.trouble = session.end()


def _arguments(target: Target, workload: Workload, nonce: str) -> list[str]:
    options: dict[str, object] = {
        "--nonce": nonce,
        "--prompt-tokens": workload.prompt_tokens,
        "--gen-tokens": workload.gen_tokens,
        "--reps": workload.reps,
        "--bos": workload.bos,
        "--end-tokens": ",".join(map(str, workload.end_tokens)) or None,
        "--threads": workload.threads or target.threads,
        "--cache": workload.cache,
        "--cores": target.affinity,
        "--deadline": workload.deadline_s,
        "--lease": LEASE_S,
    }
    if target.cooldown is not None:
        cooldown = target.cooldown
        options |= {"--cooldown-c": f"{cooldown.max_c:g}", "--cooldown-s": f"{cooldown.timeout_s:g}"}
        options |= {"--cooldown-sensor": cooldown.sensor}
    return [word for name, value in options.items() if value is not None for word in (name, str(value))]


def _check_isa(target: Target, facts: Probe) -> None:
    missing = sorted(set(target.required_isa) - set(facts.isa))
    if missing:
        raise InfrastructureError(
            f"{target.name} lacks {', '.join(missing)}, which its profile requires: it has {' '.join(facts.isa)}"
        )


def _check_answer(target: Target, answer: RunAnswer, models: Sequence[ModelFile], workload: Workload) -> None:
    """What was run is what was asked for: a runner that ignores an option is found out here."""
    wanted = {
        "prompt_tokens": (workload.prompt_tokens, answer.config.prompt_tokens),
        "gen_tokens": (workload.gen_tokens, answer.config.gen_tokens),
        "reps": (workload.reps, answer.config.reps),
        "threads": (workload.threads or target.threads or answer.config.threads, answer.config.threads),
        "cache": (workload.cache or answer.config.cache, answer.config.cache),
        "models": (len(models), len(answer.models)),
        "bytes": ([model.bytes for model in models], [model.bytes for model in answer.models]),
    }
    for name, (asked, used) in wanted.items():
        if asked != used:
            raise InfrastructureError(f"{target.name}: the runner used {used} as {name} where {asked} was asked for")


def named(facts: Probe, identity: vendor.Identity) -> Probe:
    """The probe with what Android alone tells: the model's name, and that it is an emulator."""
    why = facts.emulated_why or ("Android says that it runs in qemu" if identity.emulated else None)
    return replace(
        facts, model=facts.model or identity.model, emulated=facts.emulated or identity.emulated, emulated_why=why
    )
