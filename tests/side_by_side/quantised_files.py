#!/usr/bin/env python3
"""One run that judges edgekit's file and llama.cpp's own mixes with stock llama-perplexity.

    python tests/side_by_side/quantised_files.py CHECKPOINT --tools LLAMA_BIN --size 261MB \\
        --calib calibration.txt --text evaluation.txt --work DIR

LLAMA_BIN holds llama-perplexity, llama-imatrix and llama-quantize. Base logits come from an F32 GGUF; the importance
matrix of llama.cpp's rows comes from the same calibration text as edgekit's statistics. Prints a table and, last, one
JSON document.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import gguf

KLD_LINES = {
    "kld_mean": r"Mean\s+KLD:\s+(\S+)",
    "kld_stderr": r"Mean\s+KLD:\s+\S+\s+±\s+(\S+)",
    "kld_p999": r"99\.9%\s+KLD:\s+(\S+)",
    "same_top1_percent": r"Same top p:\s+(\S+)",
}


def run(*command: str | Path) -> str:
    """The command's output, both streams; its tail and an exit where it fails."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\nfailed with {done.returncode}")
    return done.stdout


def run_measured(*command: str | Path) -> tuple[dict[str, object], float, int]:
    """A command that prints JSON: the document, wall seconds and peak resident bytes (VmHWM, polled)."""
    start = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    peak = 0

    def poll() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(0.2)

    thread = threading.Thread(target=poll)
    thread.start()
    out, _ = process.communicate()
    thread.join()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with {process.returncode}")
    return json.loads(out), time.monotonic() - start, peak


def tensor_bytes(path: Path) -> int:
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--size", action="append", required=True, help="one edgekit file per --size")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--chunks", default="12")
    parser.add_argument("--peers", default="Q4_K_M", help="comma-separated llama-quantize types")
    arguments = parser.parse_args()
    work, tools = arguments.work, arguments.tools
    work.mkdir(parents=True, exist_ok=True)
    edgekit = Path(sys.executable).parent / "edgekit"

    base, logits, matrix = work / "f32.gguf", work / "base.kld", work / "imatrix.gguf"
    if not base.exists():
        run(edgekit, "quantize", arguments.checkpoint, "--formats", "f32", "--no-report", "-o", base)
    window = ("-c", "512", "--chunks", arguments.chunks)
    if not logits.exists():
        run(tools / "llama-perplexity", "-m", base, "-f", arguments.text, *window, "--kl-divergence-base", logits)

    rows: list[dict[str, object]] = []

    def judge(name: str, path: Path, **more: object) -> None:
        out = run(tools / "llama-perplexity", "-m", path, *window, "--kl-divergence-base", logits, "--kl-divergence")
        row: dict[str, object] = {"name": name, "bytes": path.stat().st_size, "tensor_bytes": tensor_bytes(path)}
        for key, pattern in KLD_LINES.items():
            found = re.search(pattern, out)
            if not found:
                sys.exit(f"llama-perplexity printed no {key} for {path}:\n{out[-2000:]}")
            row[key] = float(found[1])
        rows.append(row | more)
        print(json.dumps(rows[-1]), file=sys.stderr)

    for size in arguments.size:
        path = work / f"edgekit-{size}.gguf"
        document, seconds, peak = run_measured(
            edgekit, "quantize", arguments.checkpoint, "--size", size, "--calib", arguments.calib, "--json", "-o", path
        )
        judge(f"edgekit --size {size}", path, seconds=round(seconds, 1), peak_rss_bytes=peak, edgekit=document)
    for peer in filter(None, arguments.peers.split(",")):
        if not matrix.exists():
            run(tools / "llama-imatrix", "-m", base, "-f", arguments.calib, "-o", matrix, "--chunks", "40", "-c", "512")
        path = work / f"llama-{peer}.gguf"
        run(tools / "llama-quantize", "--imatrix", matrix, base, path, peer, "2")
        judge(f"llama-quantize {peer}, imatrix", path)

    print(f"{'made by':40} {'file bytes':>12} {'tensor bytes':>12} {'mean KLD':>9} {'99.9 %':>8} {'same top-1':>10}")
    for row in rows:
        print(
            f"{row['name']:40} {row['bytes']:12,} {row['tensor_bytes']:12,} {row['kld_mean']:9.5f} "
            f"{row['kld_p999']:8.4f} {row['same_top1_percent']:9.2f} %"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
