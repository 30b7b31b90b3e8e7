"""The device's program built on its first use: when it is made anew, and what is said where it cannot be."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from test_native import demand, run, tool

from edgekit.devices import build_runner, runner
from edgekit.models.errors import InputError

ROOT = Path(build_runner.__file__).resolve().parent.parent


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources of their own, which do not compile but have a digest."""
    folder = tmp_path / "native"
    for part in ("cmake", "include", "src", "tools/bench"):
        (folder / part).mkdir(parents=True)
    for machine in build_runner.MACHINES:
        (folder / "cmake" / f"{machine}-musl-zig.cmake").touch()
        (folder / "cmake" / f"{machine}-linux-gnu.cmake").touch()
    (folder / "CMakeLists.txt").write_text("message(FATAL_ERROR not_today)\n")
    (folder / "src" / "a.c").write_text("int a;\n")
    monkeypatch.setattr(build_runner, "SOURCE", folder)
    return folder


def test_a_runner_of_other_sources_is_not_current(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runner"
    folder.mkdir()
    assert not build_runner.is_current("aarch64", folder)
    build_runner.runner_path("aarch64", folder).write_text("program")
    assert not build_runner.is_current("aarch64", folder)
    (folder / "edgekit-bench-aarch64.source").write_text(build_runner.source_digest())
    assert build_runner.is_current("aarch64", folder) and not build_runner.is_current("x86_64", folder)
    (source / "src" / "a.c").write_text("int b;\n")
    assert not build_runner.is_current("aarch64", folder)


def test_a_renamed_source_has_another_digest(source: Path) -> None:
    before = build_runner.source_digest()
    (source / "src" / "a.c").rename(source / "src" / "b.c")
    assert build_runner.source_digest() != before


def test_what_the_build_says_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "default_folder", lambda: tmp_path / "runner")
    with pytest.raises(InputError, match=r"runner for x86_64 cannot be built: cmake failed:[\s\S]*not_today"):
        runner.runner_file("x86_64")
    assert not build_runner.runner_path("x86_64", tmp_path / "runner").exists()


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "default_folder", lambda: tmp_path / "runner")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(InputError, match="pip install ziglang cmake ninja"):
        runner.runner_file("aarch64")


def test_a_checkout_has_it_in_its_build_folder() -> None:
    assert build_runner.default_folder() == ROOT / "build" / "runner"


def test_the_sources_that_a_wheel_carries_are_all_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are installed, no checkout around them."""
    site = tmp_path / "site"
    (site / "edgekit" / "devices").mkdir(parents=True)
    shutil.copy(build_runner.__file__, site / "edgekit" / "devices")
    like_a_wheel = ["-DSKBUILD=2", "-DSKBUILD_STATE=wheel", "-DSKBUILD_PROJECT_VERSION=9.8.7"]
    nanobind = demand(run(sys.executable, "-m", "nanobind", "--cmake_dir")).strip()
    configure = [f"-Dnanobind_DIR={nanobind}", f"-DPython_EXECUTABLE={sys.executable}"]
    demand(run(tool("cmake"), "-S", ROOT / "native", "-B", tmp_path / "b", "-G", "Ninja", *like_a_wheel, *configure))
    demand(run(tool("cmake"), "--install", tmp_path / "b", "--component", "sources", "--prefix", site))
    installed = site / "edgekit" / "native"
    monkeypatch.setattr(build_runner, "SOURCE", installed)
    carried = build_runner.source_digest()
    monkeypatch.undo()
    assert carried == build_runner.source_digest()
    # What is left to show is that nothing else is read: it is configured where no checkout is around it.
    demand(run(tool("cmake"), "-S", installed, "-B", tmp_path / "r", "-G", "Ninja", "-DEDGEKIT_RUNNER=ON"))
    assert "-DVERSION=9.8.7" in (tmp_path / "r" / "build.ninja").read_text()
