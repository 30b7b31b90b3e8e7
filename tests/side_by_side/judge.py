"""llama.cpp's own tools: stock llama-perplexity as the judge of every file, llama-quantize as the peer."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf

from edgekit.models.errors import InputError

TOOLS = ("llama-perplexity", "llama-imatrix", "llama-quantize")
CONTEXT, IMATRIX_CHUNKS = 512, 40
ATTEMPTS = 5  # llama-perplexity ends well but loses its last lines now and then where the machine is busy
PRINTED = {
    "kld_mean": r"Mean\s+KLD:\s+(\S+)",
    "kld_stderr": r"Mean\s+KLD:\s+\S+\s+±\s+(\S+)",
    "kld_p999": r"99\.9%\s+KLD:\s+(\S+)",
    "same_top1_percent": r"Same top p:\s+(\S+)",
}


def read_judgement(printed: str) -> dict[str, float]:
    """KLs in nats per token over the text, and the share of equal first choices, from what llama-perplexity prints."""
    found = {key: re.search(pattern, printed) for key, pattern in PRINTED.items()}
    missing = [key for key, match in found.items() if match is None]
    if missing:
        raise InputError(f"llama-perplexity printed no {', '.join(missing)}:\n{printed[-2000:]}")
    return {key: float(match[1]) for key, match in found.items() if match is not None}


def tensor_bytes(path: Path) -> int:
    """What the tensors take, without header and padding: headers differ between makers."""
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)


def tensor_types(path: Path) -> dict[str, int]:
    """How many matrices there are of each type."""
    matrices = (tensor for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) > 1)
    return dict(Counter(tensor.tensor_type.name.lower() for tensor in matrices).most_common())


def run(*command: object) -> str:
    """The command's output, both streams. Raises InputError with its tail where it fails."""
    parts = [str(part) for part in command]
    done = subprocess.run(parts, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise InputError(f"{' '.join(parts)}\n{done.stdout[-3000:]}\nfailed with {done.returncode}")
    return done.stdout


@dataclass(frozen=True)
class Ran:
    """A command that printed JSON: the document, wall seconds, and peak resident bytes (VmHWM, polled)."""

    document: dict[str, Any]
    seconds: float
    peak_rss_bytes: int


def run_measured(*command: object) -> Ran:
    """Raises InputError where the command fails; its standard error is shown as it comes."""
    parts = [str(part) for part in command]
    start = time.monotonic()
    process = subprocess.Popen(parts, stdout=subprocess.PIPE, text=True)
    peak = 0

    def poll() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:  # it has just ended, or the system has no /proc
                return
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(0.2)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    out, _ = process.communicate()
    thread.join()
    if process.returncode:
        raise InputError(f"{' '.join(parts)} failed with {process.returncode}")
    return Ran(json.loads(out), time.monotonic() - start, peak)


@dataclass(frozen=True)
class Bench:
    """A checkpoint, the texts, and a folder that keeps what all parts need: float32 file, base logits, statistics."""

    checkpoint: str
    tools: Path
    calib: Path
    text: Path
    work: Path
    chunks: int
    seed: int

    def prepare(self) -> None:
        """Raises InputError where a tool or text is missing, or where the folder belongs to other inputs."""
        for path in (self.calib, self.text, *(self.tools / name for name in TOOLS)):
            if not path.is_file():
                raise InputError(f"{path} is not there")
        self.work.mkdir(parents=True, exist_ok=True)
        texts = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.calib, self.text))
        inputs = json.dumps([str(self.checkpoint), *texts, self.chunks])
        stated = self.work / "inputs.json"
        if stated.exists() and stated.read_text() != inputs:
            raise InputError(f"{self.work} belongs to another checkpoint, text or --chunks: choose another --work")
        stated.write_text(inputs)

    @cached_property
    def base(self) -> Path:
        """The checkpoint as a float32 GGUF."""
        path = self.work / "f32.gguf"
        return path if path.exists() else self.plain(path.name, self.checkpoint)

    @cached_property
    def logits(self) -> Path:
        """Those of the float32 file on the text."""
        path = self.work / "base.kld"
        if not path.exists():
            self._perplexity(self.base, "-f", self.text, "--kl-divergence-base", path)
        return path

    @cached_property
    def matrix(self) -> Path:
        """llama.cpp's importance matrix from the calibration text."""
        path = self.work / "imatrix.gguf"
        if not path.exists():
            chunks = ("--chunks", IMATRIX_CHUNKS, "-c", CONTEXT)
            run(self.tools / "llama-imatrix", "-m", self.base, "-f", self.calib, "-o", path, *chunks)
        return path

    @property
    def statistics(self) -> Path:
        """What `edgekit --work` keeps."""
        return self.work / "statistics"

    def edgekit(self, *arguments: object) -> Ran:
        """A command of edgekit's."""
        return run_measured(sys.executable, "-m", "edgekit", *arguments, "--json")

    def calibrated(self, name: str, *options: object) -> tuple[Path, Ran]:
        """A file made by `edgekit quantize` with the calibration text and the statistics kept."""
        path = self.work / name
        common = ("--calib", self.calib, "--work", self.statistics, "--seed", self.seed)
        return path, self.edgekit("quantize", self.checkpoint, "-o", path, *common, *options)

    def planned(self, name: str, *budget: object) -> Path:
        """A plan file by `edgekit plan`; its statistics are kept."""
        path = self.work / name
        common = ("--calib", self.calib, "--work", self.statistics, "--seed", self.seed)
        self.edgekit("plan", self.checkpoint, "-o", path, *common, *budget)
        return path

    def followed(self, plan: Path, *options: object) -> tuple[Path, Ran]:
        """A file made by `edgekit quantize --plan` with the statistics kept, and trained where options say so."""
        path = plan.with_name("".join([plan.stem, *map(str, options), ".gguf"]))
        common = ("--plan", plan, "--calib", self.calib, "--work", self.statistics, "--no-report")
        return path, self.edgekit("quantize", self.checkpoint, "-o", path, *common, *options)

    def plain(self, name: str, checkpoint: str | Path) -> Path:
        """The checkpoint as a float32 GGUF."""
        path = self.work / name
        self.edgekit("quantize", checkpoint, "-o", path, "--formats", "f32", "--no-report")
        return path

    def peer(self, type: str, *options: object) -> Path:
        """A file made by llama-quantize with the importance matrix."""
        path = self.work / f"llama-{type}{''.join(map(str, options))}.gguf"
        run(self.tools / "llama-quantize", "--imatrix", self.matrix, *options, self.base, path, type)
        return path

    def judged(self, path: Path) -> dict[str, Any]:
        """What the judge says of a file, with its bytes and types."""
        for _ in range(ATTEMPTS):
            printed = self._perplexity(path, "--kl-divergence-base", self.logits, "--kl-divergence")
            if re.search(PRINTED["same_top1_percent"], printed):
                break
        sizes = {"bytes": path.stat().st_size, "tensor_bytes": tensor_bytes(path), "types": tensor_types(path)}
        return {**sizes, **read_judgement(printed)}

    def _perplexity(self, model: Path, *options: object) -> str:
        window = ("-c", CONTEXT, "--chunks", self.chunks)
        return run(self.tools / "llama-perplexity", "-m", model, *window, *options)
