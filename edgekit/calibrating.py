"""The first half of the line: checkpoint -> calibration windows -> statistics -> error table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.clock import Clock
from edgekit.measuring import Measure, Rounded
from edgekit.models.calibration import calibration_windows, split
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.divergence import WINDOW
from edgekit.models.forward import load_model
from edgekit.models.tokenizer import TokenizerFiles, load_tokenizer
from edgekit.quant.collection import collect
from edgekit.quant.containers import GGUF, Container
from edgekit.quant.formats import format_of
from edgekit.quant.plan import MeasuredKl, Sensitivity, matrices, priced
from edgekit.quant.rescaling import Measurement
from edgekit.quant.rescaling import calibrate as rescaled_by_measurement
from edgekit.quant.rounding import Refinement
from edgekit.quant.sensitivity import error_rows, table_of
from edgekit.quant.statistics import MatrixStatistics
from edgekit.quant.store import Store, kept_windows, store_key

STATISTICS_TOKENS = 16384
HELD_OUT_WINDOWS = 4  # of 512 tokens, of which the second half is scored


@dataclass(frozen=True)
class Source:
    """What is quantised: an opened checkpoint and its tokenizer."""

    checkpoint: Checkpoint
    tokenizer: TokenizerFiles

    @property
    def matrices(self) -> list[str]:
        """The names of the tensors that a plan speaks of."""
        return [tensor.name for tensor in matrices(self.checkpoint.tensors)]

    @cached_property
    def model(self) -> Any:
        """transformers' model, loaded when it is first asked for."""
        return load_model(self.checkpoint)


@dataclass(frozen=True)
class Calibration:
    """What decides the statistics of a checkpoint, and the folder for them."""

    source: Source
    texts: tuple[Path, ...]  # none: sampled from the model
    seed: int
    folder: Path
    kept: bool  # the folder, after the run
    tokens: int = STATISTICS_TOKENS + HELD_OUT_WINDOWS * WINDOW

    def windows(self) -> NDArray[np.int64]:
        """(W, T) token ids for statistics and measurements; those sampled from the model are sampled once."""
        checkpoint = self.source.checkpoint
        length = min(WINDOW, checkpoint.spec.context)

        def make() -> NDArray[np.int64]:
            model = None if self.texts else self.source.model
            return calibration_windows(
                self.source.tokenizer, self.texts, tokens=self.tokens, length=length, seed=self.seed, model=model
            )

        if self.texts:
            return make()
        what = f"sampled {self.tokens} {length}"
        return kept_windows(self.folder / (store_key(checkpoint, what, self.seed) if self.kept else what), make)

    def store(self, windows_sha256: str) -> Store:
        """The store of those windows' statistics."""
        key = store_key(self.source.checkpoint, windows_sha256, self.seed) if self.kept else "calibration"
        return Store(self.folder / key)

    def statistics(self, store: Store, seen: NDArray[np.int64], names: Sequence[str]) -> Iterator[MatrixStatistics]:
        """Of those matrices, on the windows `seen`: as they are kept in the store, or all are collected and kept."""
        source = self.source
        if store.complete(source.matrices):
            yield from map(store.statistics, names)
            return
        for matrix in collect(source.model, source.checkpoint, seen, seed=self.seed):
            store.keep(matrix)
            if matrix.name in names:
                yield matrix


@dataclass(frozen=True)
class Calibrated:
    """The error table, the means to measure a plan, and which windows both come from."""

    table: tuple[Sensitivity, ...]
    probes: tuple[MeasuredKl, ...]
    rounded: Rounded
    measure: Measure
    windows_sha256: str


def open_source(checkpoint: str | Path, adapter: Path | None, clock: Clock) -> Source:
    """A checkpoint, with an adapter merged into it, and its tokenizer."""
    with clock.stage("open"):
        opened = open_checkpoint(checkpoint, adapter=adapter)
        return Source(opened, load_tokenizer(opened))


def calibrate(
    calibration: Calibration, formats: tuple[str, ...], clock: Clock, container: Container = GGUF
) -> Calibrated:
    """Statistics from most of the calibration windows, and the table of those formats, corrected on the rest.

    Its bytes are the container's.
    """
    source = calibration.source
    with clock.stage("calibration"):
        windows = calibration.windows()
        store = calibration.store(windows_sha256(windows))
        seen, measured = split(windows, HELD_OUT_WINDOWS)
    with clock.stage("error table"):
        table = _error_table(calibration, store, seen, formats, clock)
    with clock.stage("measurements"):
        rounded = Rounded(source.checkpoint, store)
        measure = Measure(lambda: source.model, measured, rounded, store)
        rescaled, measurements = rescaled_by_measurement(table, partial(measure, refinement=Refinement.GPTQ))
    return Calibrated(
        priced(rescaled, container), tuple(map(_probe, measurements)), rounded, measure, windows_sha256(windows)
    )


def _error_table(
    calibration: Calibration, store: Store, seen: NDArray[np.int64], formats: tuple[str, ...], clock: Clock
) -> list[Sensitivity]:
    """The rows that are kept, and the others from statistics."""
    source = calibration.source
    rows = {name: row for name in source.matrices if (row := store.candidates(name, formats)) is not None}
    wanted = [name for name in source.matrices if name not in rows]
    statistics = clock.within("statistics", "error table", calibration.statistics(store, seen, wanted))
    progress = tqdm(statistics, desc="error table", total=len(wanted), unit="matrix", disable=None)
    for name, row in error_rows(progress, source.checkpoint, formats, seed=calibration.seed):
        store.keep_candidates(name, formats, row)
        rows[name] = row
    return table_of(rows, source.checkpoint)


def windows_sha256(windows: NDArray[np.int64]) -> str:
    """By which a plan says what its statistics come from."""
    return hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()


def _probe(measurement: Measurement) -> MeasuredKl:
    probe = measurement.probe
    widths = sorted({format_of(name).width for name in probe.formats.values()})
    what = f"{probe.role} at {' or '.join(map(str, widths))} bits"
    return MeasuredKl(what, probe.predicted, measurement.kl)
