"""The statistics against plain autograd over the whole model, and their prediction of KL against measured KL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import VARIANTS, random_checkpoint, variant_id

import edgekit.models.sampled_text
import edgekit.quant.collection as collection_module
from edgekit.models.calibration import calibration_windows
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.forward import HeldOut, Parts, load_model, parts, replaced
from edgekit.models.sampled_text import draw
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.collection import FREQUENCY_FROM_TEXT, _head, collect, held_out
from edgekit.quant.statistics import MatrixStatistics

SAMPLE = Path(__file__).parent / "assets" / "sample"
IDS = np.random.default_rng(0).integers(0, 4096, (6, 32))  # one batch of four windows and one of two
HELD = torch.tensor([False, False, False, True, False, False])[:, None].expand(6, 32).flatten()
FAMILY_NAMES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")


def matrices(checkpoint: Checkpoint) -> set[str]:
    return {spec.name for spec in checkpoint.tensors if spec.role in MATRIX_ROLES}


def predicted_kl(statistics: MatrixStatistics, change: np.ndarray) -> float:
    return sum(0.5 * float(term.rows @ ((change @ term.columns) * change).sum(axis=1)) for term in statistics.terms)


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The pairs of labels (rows, 2) that `collect` draws, in order."""
    drawn: list[torch.Tensor] = []

    def record(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        drawn.append(draw(weights, uniform))
        return drawn[-1]

    monkeypatch.setattr(edgekit.models.sampled_text, "draw", record)
    return drawn


class Dense:
    """One forward and one backward pass over everything: x and g of each linear, and g at the embedding's output."""

    def __init__(self, model: Any, labels: torch.Tensor) -> None:
        """labels (tokens, 2): the gradient is that of sum (log p(first) - log p(second)) / sqrt(2)."""
        self.x: dict[str, torch.Tensor] = {}
        self.g: dict[str, torch.Tensor] = {}
        part = parts(model)
        handles = [
            module.register_forward_hook(self._watch(f"{name}.weight", module is part.embedding))
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) or module is part.embedding
        ]
        logits = model(torch.from_numpy(IDS)).logits.flatten(0, 1)
        chosen = torch.gather(logits.log_softmax(-1), 1, labels)
        ((chosen[:, 0] - chosen[:, 1]).sum() / 2**0.5).backward()
        for handle in handles:
            handle.remove()

    def _watch(self, name: str, root: bool) -> Any:
        def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self.x[name] = args[0].detach().flatten(0, 1).double()
            if root:
                output.requires_grad_()
            output.register_hook(lambda g: self.g.__setitem__(name, g.flatten(0, 1).double()))

        return hook


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_every_term_equals_dense_autograd(
    tmp_path: Path,
    labels: list[torch.Tensor],
    variant: tuple[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection_module, "RECORDED", "float32")
    monkeypatch.setattr(collection_module, "WORTH_COUPLING", np.inf)
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", variant[0], **variant[1]))
    model = load_model(checkpoint)
    found = {statistics.name: statistics for statistics in collect(model, checkpoint, IDS, seed=4)}
    assert set(found) == matrices(checkpoint)
    dense = Dense(model, torch.cat(labels))
    tokens = IDS.size
    tied = checkpoint.spec.tied
    for name, statistics in found.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            continue
        x, g = dense.x[name], dense.g[name]
        weights = g.square().sum(1)
        (term,) = statistics.terms
        gradients = g.view(*IDS.shape, -1).transpose(1, 2) @ x.view(*IDS.shape, -1)  # of the weights, per window
        coherence = gradients.square().sum() / (weights * x.square().sum(1)).sum()
        assert_close(term.rows, coherence * g.square().sum(0) / tokens, name)
        for columns, side in ((term.columns, ~HELD), (statistics.held_out[0], HELD)):
            assert_close(columns, (x * weights[:, None])[side].T @ x[side] / weights[side].sum(), name)
        assert (statistics.correlation is None) == (g.shape[1] > x.shape[1])
        if statistics.correlation is not None:
            for found_of, side in ((statistics.correlation.fitted, ~HELD), (statistics.correlation.held_out, HELD)):
                assert_close(found_of, correlation(g[side]), name)
    head_x = dense.x["lm_head.weight"]
    head = found["model.embed_tokens.weight" if tied else "lm_head.weight"]
    rows, _, mean = dense_head(head_x, parts(model))
    assert_close(head.terms[0].rows, rows, "head")
    for columns, side in ((head.terms[0].columns, ~HELD), (head.held_out[0], HELD)):
        assert_close(columns, dense_head(head_x[side], parts(model))[1], "head")
    lookup = found["model.embed_tokens.weight"].terms[-1]
    assert len(found["model.embed_tokens.weight"].terms) == (2 if tied else 1)
    g = dense.g["model.embed_tokens.weight"] * checkpoint.spec.embedding_scale
    weights = g.square().sum(1)
    for columns, side in (
        (lookup.columns, ~HELD),
        (found["model.embed_tokens.weight"].held_out[-1], HELD),
    ):
        assert_close(columns, g[side].T @ g[side] / weights[side].sum(), "lookup")
    ids = torch.from_numpy(IDS)
    seen, first = torch.zeros(4096).double(), torch.zeros(4096).double()
    first.index_add_(0, ids[:, 0], weights.view(ids.shape)[:, 0])
    seen.index_add_(0, ids[:, 1:].flatten(), weights.view(ids.shape)[:, 1:].flatten())
    smoothed = FREQUENCY_FROM_TEXT * seen + (1 - FREQUENCY_FROM_TEXT) * seen.sum() * mean
    assert_close(lookup.rows, (first + smoothed) / tokens, "lookup")


def test_a_layers_inputs_may_wait_as_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", "gemma3"))
    model = load_model(checkpoint)
    found = list(collect(model, checkpoint, IDS, seed=4))
    monkeypatch.setattr(collection_module, "RECORDED", "float32")
    for short, exact in zip(found, collect(model, checkpoint, IDS, seed=4), strict=True):
        assert short.name == exact.name
        for mine, theirs in zip(short.terms, exact.terms, strict=True):
            for a, b in ((mine.rows, theirs.rows), (mine.columns, theirs.columns)):
                assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


def correlation(g: torch.Tensor) -> torch.Tensor:
    """(N, N) of gradients (tokens, N), whose mean is taken as zero."""
    moment = g.T @ g
    return moment / torch.outer(moment.diagonal(), moment.diagonal()).sqrt()


def dense_head(x: torch.Tensor, part: Parts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """rows (V,) and columns (K, K) from each position's dense Fisher of the raw logits, and the mean p."""
    raw = x @ part.head.weight.double().T
    slope = torch.ones_like(raw)
    if part.softcap is not None:
        slope = 1 - torch.tanh(raw / part.softcap).square()
        raw = part.softcap * torch.tanh(raw / part.softcap)
    p = raw.softmax(1)
    rows, moment, total = torch.zeros(p.shape[1]).double(), torch.zeros(x.shape[1], x.shape[1]).double(), 0.0
    for position in range(len(x)):
        q, s = p[position], slope[position]
        diagonal = (q - q * q) * s * s
        rows += diagonal
        moment += diagonal.sum() * torch.outer(x[position], x[position])
        total += float(diagonal.sum())
    return rows / len(x), moment / total, p.mean(0)


def assert_close(found: np.ndarray, expected: torch.Tensor, name: str) -> None:
    """Within float32 rounding of the whole array's scale."""
    scale = float(expected.abs().max())
    assert scale > 0, name
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4 * scale, rtol=0, err_msg=name)


class TinyHead(torch.nn.Module):
    """A head over 24 tokens and 6 features with no norm: the smallest softmax model."""

    def __init__(self, softcap: float | None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.linear = torch.nn.Linear(6, 24, bias=False).requires_grad_(False)
        self.linear.weight.copy_(torch.randn(24, 6, generator=generator))
        self.part = Parts(None, (), torch.nn.Identity(), self.linear, 1.0, softcap)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_head_term_and_label_gradients_have_the_exact_fisher(softcap: float | None) -> None:
    """20,000 draws at one hidden state: E[g g^T] at the head's input is W^T S (diag(p) - p p^T) S W."""
    tiny = TinyHead(softcap)
    state = torch.tensor([0.3, -0.5, 0.8, 0.1, -0.2, 0.6])
    states = state.expand(40, 500, 6).contiguous()
    head = _head(tiny.part, states, torch.zeros(40, dtype=torch.bool), torch.Generator().manual_seed(2))
    weight = tiny.linear.weight.double()
    raw = (weight @ state.double()).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(
        lambda z: z if softcap is None else softcap * torch.tanh(z / softcap), raw
    )
    p = (raw if softcap is None else softcap * torch.tanh(raw / softcap)).detach().softmax(0)
    fisher = jacobian @ (torch.diag(p) - torch.outer(p, p)) @ jacobian  # of the raw logits
    g = head.gradient.reshape(-1, 6).double()
    expected = weight.T @ fisher @ weight
    np.testing.assert_allclose(g.T @ g / len(g), expected, atol=0.04 * float(expected.abs().max()))
    np.testing.assert_allclose(head.factors.term.rows, torch.diagonal(fisher), rtol=1e-4)
    np.testing.assert_allclose(head.factors.term.columns, torch.outer(state, state), rtol=1e-4)
    np.testing.assert_allclose(head.mean_softmax, p, rtol=1e-4)


@pytest.mark.parametrize(
    ("windows", "expected"), [(1, []), (2, [1]), (3, [2]), (4, [3]), (7, [3]), (12, [3, 7, 11]), (13, [3, 7, 11])]
)
def test_every_fourth_window_is_held_out(windows: int, expected: list[int]) -> None:
    assert np.flatnonzero(held_out(windows)).tolist() == expected


def test_a_single_window_serves_for_both(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", "llama", layers=1))
    for statistics in collect(load_model(checkpoint), checkpoint, IDS[:1]):
        for term, columns in zip(statistics.terms, statistics.held_out, strict=True):
            np.testing.assert_array_equal(term.columns, columns)


def test_layers_come_last_first_and_the_embedding_at_the_end(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", "llama"))
    names = [statistics.name for statistics in collect(load_model(checkpoint), checkpoint, IDS)]
    assert names[0] == "lm_head.weight"
    assert names[-1] == "model.embed_tokens.weight"
    layers = [int(name.split(".")[2]) for name in names[1:-1]]
    assert layers == sorted(layers, reverse=True)
    assert len(layers) == 3 * 7


def ratios(
    checkpoint: Checkpoint, model: Any, windows: np.ndarray, held_out: np.ndarray, names: set[str], target: float
) -> Iterator[tuple[str, float]]:
    """Measured over predicted KL of white noise in each named matrix alone, scaled to a prediction of `target`."""
    rng = np.random.default_rng(7)
    statistics = {item.name: item for item in collect(model, checkpoint, windows) if item.name in names}
    measure = HeldOut(model, held_out, first=held_out.shape[1] // 8)
    for name in sorted(names):
        values = checkpoint.read(name)
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        noise *= np.float32((target / predicted_kl(statistics[name], noise)) ** 0.5)
        with replaced(model, {name: values + noise}.items(), checkpoint.read):
            yield name, measure.kld() / target


def test_rows_are_coupled_where_that_holds_for_other_text() -> None:
    """Those that write to the residual stream; queries and keys are not, whose gradients pass through the softmax."""
    checkpoint = open_checkpoint(SAMPLE)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    windows = calibration_windows(tokenizer, [], tokens=8 * 512, seed=1, model=model)
    coupled = {s.name: s.correlation is not None for s in collect(model, checkpoint, windows, seed=2)}
    for layer in range(checkpoint.spec.layers):
        names = {role: f"model.layers.{layer}.{role}_proj.weight" for role in ("self_attn.q", "self_attn.k")}
        assert not any(coupled[name] for name in names.values())
        assert coupled[f"model.layers.{layer}.self_attn.o_proj.weight"]
        assert coupled[f"model.layers.{layer}.mlp.down_proj.weight"]
        assert not coupled[f"model.layers.{layer}.mlp.up_proj.weight"]  # more rows than columns
    assert not coupled["model.embed_tokens.weight"]


def test_prediction_is_within_a_factor_of_two_on_the_sample() -> None:
    checkpoint = open_checkpoint(SAMPLE)
    model = load_model(checkpoint)
    windows = calibration_windows(load_tokenizer(checkpoint), [], tokens=24 * 128, length=128, model=model)
    names = {name for name in matrices(checkpoint) if ".layers." not in name or ".layers.0." in name or ".4." in name}
    found = dict(ratios(checkpoint, model, windows[:20], windows[20:], names, 2e-3))
    assert len(found) == 15
    outside = {name: ratio for name, ratio in found.items() if not 0.5 < ratio < 2}
    assert not outside, outside
    assert 0.75 < np.exp(np.mean(np.log(list(found.values())))) < 1.4, found


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_prediction_is_within_a_factor_of_two_on_random_models(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", family, layers=2))
    model = load_model(checkpoint)
    ids = np.random.default_rng(1).integers(0, 4096, (24, 48))
    found = dict(ratios(checkpoint, model, ids[:16], ids[16:], matrices(checkpoint), 1e-3))
    outside = {name: ratio for name, ratio in found.items() if not 0.5 < ratio < 2}
    assert not outside, outside


PRINT_HASH = """
import hashlib, sys
from pathlib import Path
from edgekit.models.calibration import calibration_windows
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.forward import load_model
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.collection import collect
checkpoint = open_checkpoint(Path(sys.argv[1]))
model = load_model(checkpoint)
seed = int(sys.argv[2])
windows = calibration_windows(load_tokenizer(checkpoint), [], tokens=6 * 24, length=24, seed=seed, model=model)
digest = hashlib.sha256(windows.tobytes())
for item in collect(model, checkpoint, windows, seed=seed):
    for term in item.terms:
        digest.update(item.name.encode() + term.rows.tobytes() + term.columns.tobytes())
print(digest.hexdigest())
"""


def test_the_same_seed_gives_the_same_bits_in_another_process() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_HASH, str(SAMPLE), str(seed)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 1, 2)
    ]
    first, again, other = (run.communicate()[0].strip() for run in runs)
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(first) == 64
    assert first == again
    assert first != other
