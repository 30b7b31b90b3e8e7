"""The tables of a rotary embedding (Su et al., arXiv 2104.09864)."""

from __future__ import annotations

import numpy as np

from edgekit.export.onnx.graph import Graph
from edgekit.models.rope import inverse_frequencies
from edgekit.models.spec import ModelSpec


def rotary_tables(graph: Graph, spec: ModelSpec, positions: int, *, sliding: bool) -> tuple[str, str]:
    """Cosines and sines (positions, D / 2) float32 of full or of sliding layers, as constants of the graph."""
    own = sliding and spec.rope.local_theta is not None
    names = ("rope.local.cos", "rope.local.sin") if own else ("rope.cos", "rope.sin")
    if names[0] not in graph.constants:
        angles = np.arange(positions, dtype=np.float64)[:, None] * inverse_frequencies(spec, sliding=sliding)
        graph.constant(names[0], np.cos(angles).astype(np.float32))
        graph.constant(names[1], np.sin(angles).astype(np.float32))
    return names
