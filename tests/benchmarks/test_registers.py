"""What the command for registers (`benchmarks/registers.py`) makes of what ptxas says; ptxas itself need not be here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import splattingocc

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import registers

SAID = """ptxas info    : 154 bytes gmem
ptxas info    : Compiling entry function 'render_kernels__locals__backward_d63f9edc_cuda_kernel_forward' for 'sm_90'
ptxas info    : Function properties for render_kernels__locals__backward_d63f9edc_cuda_kernel_forward
    1928 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 121 registers, used 0 barriers, 1928 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 370.079 ms
ptxas info    : Compiling entry function 'widen_79741079_cuda_kernel_forward' for 'sm_90'
ptxas info    : Function properties for widen_79741079_cuda_kernel_forward
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 400 bytes cmem[0]
"""


def test_each_kernel_has_what_ptxas_says_of_it():
    assert registers.read(SAID) == {
        "render_kernels__locals__backward": registers.Resources(121, 24, 28, 1928, 1024),
        "widen": registers.Resources(40, 0, 0, 0, 0),
    }


@pytest.mark.parametrize(
    ("taken", "architecture", "expected"),
    [(32, 90, (2048, 2048)), (33, 90, (1536, 2048)), (128, 90, (512, 2048)), (129, 90, (256, 2048)), (32, 120, (1536, 1536))],
)
def test_registers_are_given_out_in_eights_and_threads_in_whole_blocks(taken: int, architecture: int, expected: tuple[int, int]):
    assert registers.threads_of_sm(taken, architecture) == expected


def test_all_kernels_of_the_package_are_looked_at():
    package = Path(splattingocc.__file__).parent
    defining = {path for path in package.rglob("*.py") if "@wp.kernel" in path.read_text()}
    assert {path.parent for path in defining} == {Path(room.__path__[0]) for room in registers.ROOMS}
    looked_at = {module.name for module in registers.modules(channels=3)}
    for path in defining:
        name = ".".join(("splattingocc", *path.relative_to(package).with_suffix("").parts))
        assert any(each.startswith(name) for each in looked_at), name


def test_without_ptxas_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --target NVCC nvidia-cuda-nvcc"):
        registers.find_ptxas(None)


def test_the_table_has_a_row_for_each_kernel_and_a_column_for_each_architecture():
    line = {"module": "kernels.gaussian_index", "kernel": "a__locals__pack", "registers": 32, "spill_stores": 0, "stack_frame": 8}
    lines = [line | {"architecture": 90, "threads_of_sm": 2048}, line | {"architecture": 120, "threads_of_sm": 1536}]
    assert registers.table_of(lines).splitlines()[2] == "| gaussian_index.pack | 32, 0, 8, 2048 | 32, 0, 8, 1536 |"
