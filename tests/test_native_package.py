"""The C library as others get it: installed, found by CMake and pkg-config, shared or static; and the example."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

import pytest
from sample_gguf import write_sample_gguf
from test_native import BUILD, NATIVE, built, demand, run, tool

from edgekit.runtimes import native
from edgekit.runtimes.generate import generate as generate_pieces
from edgekit.runtimes.sampling import Sampling
from edgekit.runtimes.torch_reference import load

CONSUMER = Path(__file__).parent / "assets" / "consumer"
PROMPT = (1, 40, 300, 7)
LIBRARIES = ("static", "shared")


def cmake(*arguments: object) -> str:
    program = tool("cmake")
    assert program is not None
    return demand(run(program, *arguments))


def generator() -> tuple[str, ...]:
    ninja = tool("ninja")
    return ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()


@cache
def installed(library: str) -> Path:
    """The folder that libedgekit.a or libedgekit.so is installed under, moved after it was."""
    folder = built("native")
    if library == "shared":
        folder = BUILD / library
        cmake("-S", NATIVE, "-B", folder, *generator(), "-DBUILD_SHARED_LIBS=ON")
        cmake("--build", folder, "--parallel", 2)
    first, moved = BUILD / f"{library}-first", BUILD / f"{library}-installed"
    for prefix in (first, moved):
        shutil.rmtree(prefix, ignore_errors=True)
    cmake("--install", folder, "--prefix", first)
    return first.rename(moved)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_gguf(tmp_path_factory.mktemp("model") / "sample.gguf")


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_installed(library: str) -> None:
    files = {path.name for path in installed(library).rglob("*") if path.is_file()}
    links = {path.name for path in installed(library).rglob("*.so*")}
    expected = {"edgekit.h", "edgekit.pc", "edgekit-config.cmake", "edgekit-config-version.cmake"}
    expected |= {"edgekit-targets.cmake", "edgekit-targets-release.cmake"}
    expected |= links if library == "shared" else {"libedgekit.a"}
    assert files == expected
    assert ("libedgekit.so" in links) == (library == "shared")


@pytest.mark.parametrize("library", LIBRARIES)
def test_cmake_finds_it(library: str, tmp_path: Path, model: Path) -> None:
    cmake("-S", CONSUMER, "-B", tmp_path, *generator(), f"-DCMAKE_PREFIX_PATH={installed(library)}")
    cmake("--build", tmp_path)
    assert demand(run(tmp_path / "consumer", model)).split()[0] == "llama"
    assert demand(run(tmp_path / "consumer_cxx")) == "1 1\n"
    absent = run(tmp_path / "consumer", tmp_path / "none.gguf")
    assert absent.returncode == 1
    assert str(tmp_path / "none.gguf") in absent.stdout


@pytest.mark.parametrize("library", LIBRARIES)
def test_pkg_config_finds_it(library: str, tmp_path: Path, model: Path) -> None:
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        pytest.skip("pkg-config or cc is not installed")
    folder = next(installed(library).rglob("edgekit.pc")).parent
    static = ("--static",) if library == "static" else ()
    flags = demand(run("pkg-config", *static, "--cflags", "--libs", "edgekit", PKG_CONFIG_PATH=str(folder))).split()
    demand(run("cc", "-std=c11", CONSUMER / "main.c", "-o", tmp_path / "consumer", *flags))
    demand(run(tmp_path / "consumer", model, LD_LIBRARY_PATH=str(folder.parent)))


def test_only_the_public_functions_are_exported() -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    header = (NATIVE / "include" / "edgekit.h").read_text()
    public = set(re.findall(r"^EK_API [^;(]*?(ek_\w+)\(", header, re.MULTILINE))
    library = next(installed("shared").rglob("libedgekit.so"))
    exported = {line.split()[-1] for line in demand(run("nm", "-D", "--defined-only", library)).splitlines()}
    assert len(public) > 20
    assert exported == public


def test_pages_of_16_kib() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    table = demand(run("readelf", "-lW", next(installed("shared").rglob("libedgekit.so"))))
    alignments = {int(line.split()[-1], 16) for line in table.splitlines() if line.split()[:1] == ["LOAD"]}
    assert alignments == {16384}


def generate(model: Path, count: object, *ids: object, temperature: float = 0) -> subprocess.CompletedProcess[str]:
    return run(built("native") / "generate", model, count, temperature, *ids)


def greedy(model: Path, count: int) -> list[int]:
    """The same from the torch reference."""
    session = load(model, context=None, threads=None)
    tokens = [int(session.prefill(PROMPT).argmax())]
    while len(tokens) < count:
        tokens.append(int(session.decode(tokens[-1]).argmax()))
    session.close()
    return tokens


def test_the_example_generates(model: Path) -> None:
    tokens = [int(line) for line in demand(generate(model, 5, *PROMPT)).split()]
    assert tokens == greedy(model, 5)
    read = subprocess.run(
        [built("native") / "generate", model, "5", "0"],
        input=" ".join(str(token) for token in PROMPT),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [int(line) for line in read.stdout.split()] == tokens


def test_c_and_python_draw_the_same_tokens(model: Path) -> None:
    """The example's options are top_k 40 and seed 0."""
    drawn = [int(line) for line in demand(generate(model, 40, *PROMPT, temperature=0.8)).split()]
    session = native.load(model, context=None, threads=2)
    sampling = Sampling(temperature=0.8, top_k=40, top_p=1, min_p=0, seed=0)
    pieces = list(generate_pieces(session, PROMPT, max_tokens=40, sampling=sampling))
    session.close()
    tokens = [piece.token for piece in pieces if piece.token is not None]
    assert drawn[: len(tokens)] == tokens and len(tokens) > 4  # the example goes on after an end token
    assert drawn != [int(line) for line in demand(generate(model, 40, *PROMPT)).split()]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ((5,), 2, "usage"),
        ((5, "x"), 2, "usage"),
        ((5, -1), 2, "usage"),
        ((5, 99999999), 1, "token 99999999"),
    ],
)
def test_the_example_refuses(arguments: tuple[object, ...], status: int, sentence: str, model: Path) -> None:
    count, *ids = arguments
    result = generate(model, count, *ids)
    assert result.returncode == status
    assert sentence in result.stderr


def test_the_example_stops_on_interrupt(model: Path) -> None:
    command = [str(part) for part in (built("native") / "generate", model, 1000000, 0, *PROMPT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cancel" in errors or "asked to stop" in errors
