"""Kinds of files that a model is written as: the formats that each carries exactly, and what a matrix takes in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.models.errors import InputError
from edgekit.quant.formats import FORMATS, Format


@dataclass(frozen=True)
class Container:
    """A kind of file. Its exporter writes the same values as every other's, in as many bytes as is said here."""

    name: str  # "gguf"
    title: str  # "GGUF"
    block_bytes: Mapping[str, int]  # of the formats that it carries, by name
    alignment: int  # every matrix is padded to a multiple of it

    @property
    def formats(self) -> tuple[str, ...]:
        """The names of the formats that it carries."""
        return tuple(self.block_bytes)

    def bits_per_weight(self, format: Format) -> float:
        return 8 * self.block_bytes[format.name] / format.block

    def bytes(self, format: Format, shape: tuple[int, ...]) -> int:
        """A matrix (rows, columns) without padding."""
        rows, columns = shape
        return rows * (columns // format.block) * self.block_bytes[format.name]

    def stored_bytes(self, format: Format, shape: tuple[int, ...]) -> int:
        """What a matrix (rows, columns) takes in the file, padding included."""
        return -(-self.bytes(format, shape) // self.alignment) * self.alignment

    def require_carried(self, formats: Mapping[str, str], *, source: str) -> None:
        """Raise InputError, naming `source`, with the list of what is possible where a matrix's format is another."""
        possible = ", ".join(self.formats)
        for name, format in formats.items():
            if format not in self.block_bytes:
                raise InputError(
                    f'{source}: {self.title} cannot carry {format}, the type of "{name}": choose from {possible}, '
                    f"as 'edgekit plan --for {self.name}' does"
                )


GGUF = Container("gguf", "GGUF", {format.name: format.block_bytes for format in FORMATS}, alignment=32)
# The formats that ONNX Runtime multiplies as they are, or casts without loss; scales are float32 there.
ONNX = Container("onnx", "ONNX", {"q4_0": 16 + 4, "q8_0": 32 + 4, "f16": 2, "bf16": 2, "f32": 4}, alignment=1)

CONTAINERS = (GGUF, ONNX)


def container_named(name: str) -> Container:
    """The container of that name. Raises InputError with the names there are."""
    for container in CONTAINERS:
        if container.name == name:
            return container
    raise InputError(f"there is no kind of file '{name}': choose {' or '.join(each.name for each in CONTAINERS)}")
