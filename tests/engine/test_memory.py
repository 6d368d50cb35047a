import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from splattingocc.engine.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for step in range(20):
    blocks = [torch.zeros(megabytes << 20, dtype=torch.uint8) for megabytes in (16, 40, 60)]
    del blocks
    if step == 14:
        before = resource.getrusage(resource.RUSAGE_SELF)
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


def page_faults_and_growth(how: str) -> tuple[int, int]:
    faults, kilobytes = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True).stdout.split()
    return int(faults), int(kilobytes)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_are_used_again_without_new_pages_and_without_growing_for_ever():
    faults, kilobytes = page_faults_and_growth("kept")
    faults_by_default, _ = page_faults_and_growth("as always")
    assert faults < 100 < 10_000 < faults_by_default
    assert kilobytes < 1000
