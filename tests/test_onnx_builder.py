"""The comparison with ONNX Runtime's own int4 tools: its plain session, the quantiser's model, what it reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from models_random import SAMPLE, VOCAB, random_checkpoint
from plain_files import write_plain_onnx

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.spec import MATRIX_ROLES
from edgekit.runtimes import load

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")

SCRIPTS = Path(__file__).parent / "side_by_side"
TEXT = Path(__file__).parent.parent / "README.md"
ROUNDS = 2


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def onnx_builder(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "onnx_builder.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("format", ["q4_0", "f32"])
def test_the_plain_session_computes_what_edgekits_does(format: str, tmp_path: Path) -> None:
    from onnx_graph import GraphSession, model_bytes

    checkpoint = random_checkpoint(tmp_path / "model", "llama")
    folder = write_plain_onnx(tmp_path / "onnx", format, checkpoint)
    expected, session = load(folder, runtime="onnx", threads=1), GraphSession(folder, 16, 64, 1)
    tokens = np.random.default_rng(0).integers(0, VOCAB, 40)
    for _ in range(2):  # nothing of the first time is left
        session.reset()
        expected.reset()
        np.testing.assert_array_equal(session.run(tokens[:30], 1)[-1], expected.prefill(tokens[:30].tolist()))
        for place in range(30, 40):
            logits = session.run(tokens[place : place + 1], 1)
            np.testing.assert_array_equal(logits[-1], expected.decode(int(tokens[place])))
    session.reset()
    np.testing.assert_array_equal(session.run(tokens, 25), expected.score(tokens.tolist(), 15))
    assert model_bytes(folder) == (folder / "model.onnx").stat().st_size


@pytest.mark.parametrize(("family", "tied", "products"), [("gemma3", True, 22), ("llama", False, 16)])
def test_the_quantisers_model_is_the_floats_rounded(family: str, tied: bool, products: int, tmp_path: Path) -> None:
    """Every matrix in int4, tied ones once: no code is a whole scale from its weight."""
    from onnx_graph import GraphSession, tensor_bytes
    from onnx_peers import quantised

    path = random_checkpoint(tmp_path / "model", family, tied=tied)
    floats = write_plain_onnx(tmp_path / "floats", "f32", path)
    peer = quantised(floats, tmp_path, 1)
    graph = onnx.load(peer.folder / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert (operators.count("MatMulNBits"), operators.count("GatherBlockQuantized")) == (products, 1)
    assert not {"MatMul", "FusedMatMul", "Gather"} & set(operators)

    stored, weights = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in each.initializer}
        for each in (graph, onnx.load(floats / "model.onnx").graph)
    )
    products_codes = {name: values for name, values in stored.items() if name.endswith(".transposed_Q4")}
    assert len(products_codes) == products
    for name, codes in products_codes.items():
        scales = stored[name.replace("_Q4", "_scales")].reshape(*codes.shape[:2], 1)
        values = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1).astype(np.float32) - 8
        original = weights[name.removesuffix(".transposed_Q4")].reshape(values.shape)
        assert np.all(np.abs(values * scales - original) <= 1.001 * np.abs(scales))  # where it is cut off: half else

    checkpoint = open_checkpoint(path)
    count = sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES)
    shapes = 2 * 2 * 8 * tied  # of the head's codes and scales as the embedding has them
    assert tensor_bytes(peer.folder) - 5 * count // 8 == tensor_bytes(floats) - 4 * count + shapes

    tokens, ours = np.random.default_rng(0).integers(0, VOCAB, 60), write_plain_onnx(tmp_path / "ours", "q4_0", path)
    logits = [GraphSession(each, 16, 64, 1).run(tokens, 60) for each in (floats, peer.folder, ours)]
    assert 0.7 < np.std(logits[1] - logits[0]) / np.std(logits[2] - logits[0]) < 1.4


def test_the_whole_comparison(tmp_path: Path) -> None:
    """Of a random model, whose KLs and speeds are no measure of anything."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    pytest.importorskip("onnx_ir", reason="onnx-ir is not installed")
    checkpoint, written = random_checkpoint(tmp_path / "model", "llama", tied=True), tmp_path / "result.json"
    options = ("--work", tmp_path / "work", "--rounds", ROUNDS, "--chunks", 1, "--threads", 1, "--json", written)
    done = onnx_builder(checkpoint, "--calib", TEXT, "--text", TEXT, *options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(written.read_text())
    rows, sides = result["rows"], result["sides"]
    assert result["peer"] == "builder" and set(rows) == {"prefill", "prefill_all", "decode"}
    for row in rows.values():
        samples = row["samples"]
        assert len(samples["edgekit"]) == len(samples["peer"]) == ROUNDS
        assert row["ratio"] == median(a / b for a, b in zip(samples["edgekit"], samples["peer"], strict=True))
        assert row["label"] in done.stdout
    for side, folder in (("edgekit", "edgekit"), ("peer", "builder")):
        files = (tmp_path / "work" / folder).glob("model.onnx*")
        assert sides[side]["bytes"] == sum(file.stat().st_size for file in files)
        assert sides[side]["tokens"] == 256 - 1 - 128
    assert sides["edgekit"]["bytes"] <= sides["peer"]["bytes"]
    difference = sides["edgekit"]["kld_mean"] - sides["peer"]["kld_mean"]
    assert result["kld_difference"]["mean"] == pytest.approx(difference)
    assert result["verdicts"]["no more bytes of graph and weights"] is True
    assert all(f"{what}: {'met' if met else 'MISSED'}" in done.stdout for what, met in result["verdicts"].items())


def test_verdicts_are_of_bytes_kl_and_speed() -> None:
    from onnx_builder import verdicts

    sides = {"edgekit": {"tensor_bytes": 5}, "peer": {"tensor_bytes": 5}}
    rows = {"decode": {"label": "decode", "ratio": 0.96}, "prefill": {"label": "prefill", "ratio": 0.94}}
    result = {"sides": sides, "rows": rows, "counted": "tensor_bytes", "kld_difference": {"mean": -0.1, "stderr": 0.02}}
    assert list(verdicts(result).values()) == [True, True, True, False]
    sides["edgekit"]["tensor_bytes"], result["kld_difference"] = 6, {"mean": -0.1, "stderr": 0.06}
    assert list(verdicts(result).values()) == [False, False, True, False]


def test_what_cannot_be_compared_is_refused_in_a_sentence(tmp_path: Path) -> None:
    common = (SAMPLE, "--calib", TEXT, "--work", tmp_path / "work")
    for arguments, sentence in (
        ((*common, "--text", "nowhere.txt"), "nowhere.txt is not there"),
        ((*common, "--text", TEXT, "--rounds", 0), "--rounds 0 is out of range"),
    ):
        done = onnx_builder(*arguments)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
