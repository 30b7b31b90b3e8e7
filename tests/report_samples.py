"""Synthetic reports of any depth, shared by the report's tests."""

from __future__ import annotations

from pathlib import Path

from edgekit.models.spec import ModelSpec, Role, Rope, TensorSpec
from edgekit.quant.containers import GGUF
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Candidate, CurvePoint, MeasuredKl, Plan, Sensitivity
from edgekit.report import AblationRow, DevicePrediction, ReportData

CANDIDATES = ("q4_0", "iq4_nl", "q4_k", "q5_0", "q6_k", "q8_0", "f16")


def sample_report(
    layers: int = 8,
    *,
    hidden: int = 256,
    ffn: int = 768,
    vocab: int = 4096,
    family: str = "llama",
    tied: bool = True,
    path: Path = Path("model.gguf"),
    model: str = "tests/assets/sample",
) -> ReportData:
    """A report whose KLs follow a fixed formula: no randomness, every candidate present."""
    tensors = _tensors(layers, hidden, ffn, vocab, tied)
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2]
    sensitivities = tuple(_sensitivity(tensor, index, layers) for index, tensor in enumerate(matrices))
    formats = {s.name: ("q8_0", "q4_k", "q5_0", "q6_k", "q4_0")[index % 5] for index, s in enumerate(sensitivities)}
    sizes = {(s.name, c.format): c.bytes for s in sensitivities for c in s.candidates}
    kls = {(s.name, c.format): c.kl for s in sensitivities for c in s.candidates}
    header = 120_000 + 16 * vocab
    vectors = sum(GGUF.stored_bytes(format_of("f32"), (1, t.shape[0])) for t in tensors if len(t.shape) == 1)
    size = header + vectors + sum(sizes[choice] for choice in formats.items())
    kl = sum(kls[choice] for choice in formats.items())
    curve = tuple(CurvePoint(int(size * (0.8 + 0.05 * step)), kl * 4.0 ** (4 - step)) for step in range(16))
    plan = Plan(
        fingerprint="0" * 64,
        formats=formats,
        bytes=size,
        kld_predicted=kl,
        sensitivities=sensitivities,
        curve=curve,
        measured=tuple(
            MeasuredKl(f"all at {4 + index} bits", point.kl, point.kl * (1.3 - 0.1 * index), point.bytes)
            for index, point in enumerate(curve[:5])
        ),
    )
    return ReportData(
        model=model,
        path=path,
        bytes=size,
        sha256="ab" * 32,
        spec=_spec(family, layers, hidden, ffn, vocab, tied),
        tensors=tensors,
        plan=plan,
        seconds={"read": 0.31, "calibrate": 4.2, "sensitivity": 41.7, "plan": 1.25, "round": 12.4, "export": 0.8},
        kld_measured=kl * 1.12,
        max_bytes=int(size / 0.995),
        max_kl=0.005,
        device=DevicePrediction("Raspberry Pi 4B", 36.4, "4.5 MB are read for each token at 5.5 GB/s (a prediction)"),
        ablation=(
            AblationRow("plain", "IQ4_NL everywhere, to nearest", int(size * 0.96), kl * 3.1),
            AblationRow("+ allocation", "the plan's types, to nearest with weighted errors", size, kl * 1.9),
            AblationRow("+ GPTQ", "errors made up for by later weights", size, kl * 1.3),
            AblationRow("+ descent", "the same types", size, kl * 1.12),
        ),
    )


def _spec(family: str, layers: int, hidden: int, ffn: int, vocab: int, tied: bool) -> ModelSpec:
    return ModelSpec(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=(hidden // 32,) * layers,
        kv_heads=(hidden // 64,) * layers,
        head_dim=32,
        ffn=(ffn,) * layers,
        vocab=vocab,
        context=1024,
        norm_eps=1e-5,
        rope=Rope(10000.0),
        tied=tied,
    )


def _tensors(layers: int, hidden: int, ffn: int, vocab: int, tied: bool) -> tuple[TensorSpec, ...]:
    tensors = [TensorSpec("model.embed_tokens.weight", "token_embd.weight", (vocab, hidden), "embedding")]
    shapes: dict[Role, tuple[int, ...]] = {
        "norm": (hidden,),
        "q": (hidden, hidden),
        "k": (hidden // 2, hidden),
        "v": (hidden // 2, hidden),
        "o": (hidden, hidden),
        "gate": (ffn, hidden),
        "up": (ffn, hidden),
        "down": (hidden, ffn),
    }
    for layer in range(layers):
        for role, shape in shapes.items():
            name = f"model.layers.{layer}.{role}.weight"
            tensors.append(TensorSpec(name, f"blk.{layer}.{role}.weight", shape, role, layer))
    tensors.append(TensorSpec("model.norm.weight", "output_norm.weight", (hidden,), "norm"))
    if not tied:
        tensors.append(TensorSpec("lm_head.weight", "output.weight", (vocab, hidden), "head"))
    return tuple(tensors)


def _sensitivity(tensor: TensorSpec, index: int, layers: int) -> Sensitivity:
    rows, columns = tensor.shape
    base = 2e-3 * (1 + index * 37 % 11) / (1 + index % 7) ** 2 / layers
    candidates = []
    for name in CANDIDATES:
        format = format_of(name)
        kl = base * 4.0 ** (4.5 - format.bits_per_weight)
        candidates.append(Candidate(name, GGUF.stored_bytes(format, (rows, columns)), kl))
    return Sensitivity(tensor.name, tensor.role, tensor.layer, tuple(sorted(candidates, key=lambda c: c.bytes)))
