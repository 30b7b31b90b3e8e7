"""edgekit bench: this machine's load time, first token, prefill, decode and peak memory."""

from __future__ import annotations

EXAMPLES = ("edgekit bench model.gguf --runtime llama.cpp --prompt-tokens 512 --gen-tokens 64 --reps 5 --threads 2",)


def command() -> None:
    """Bench."""
