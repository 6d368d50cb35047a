import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from splattingocc.engine.batches import LoaderFailed, dead_workers_named, prediction_loader
from splattingocc.struct import Struct


@dataclass(frozen=True)
class Number(Struct):
    value: Tensor


class Numbers(Dataset):
    """Samples of which one may end, or stop, the process that makes it."""

    def __init__(self, *, deadly: int = -1, endless: int = -1) -> None:
        self.deadly, self.endless = deadly, endless

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Number:
        if i == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if i == self.endless:
            time.sleep(1000)
        return Number(torch.full((1000,), float(i)))


def values(dataset: Dataset, *, num_workers: int, worker_timeout: float = 60.0) -> list[float]:
    loader = prediction_loader(dataset, num_workers=num_workers, worker_timeout=worker_timeout)
    with dead_workers_named():
        return [batch.value[0, 0].item() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_samples_come_in_order_from_any_number_of_workers(num_workers):
    assert values(Numbers(), num_workers=num_workers) == [0, 1, 2, 3, 4, 5]


def test_a_loader_serves_epoch_after_epoch_from_the_same_workers():
    loader = prediction_loader(Numbers(), num_workers=1, worker_timeout=60.0)
    for _ in range(3):
        assert [batch.value[0, 0].item() for batch in loader] == [0, 1, 2, 3, 4, 5]


def run(script: str, *prefix: str) -> str:
    """Run a script in a process of its own, which torch may send signals as it likes, and return its last line."""
    begin = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_batches import *\n"
    command = [*prefix, sys.executable, "-c", begin + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_a_dead_worker_is_one_line_with_a_remedy():
    last = run("values(Numbers(deadly=3), num_workers=1)")
    ways = "by the signal Killed|unexpectedly|while it handed over a batch"
    assert re.search(rf"LoaderFailed: a process that loads samples ended ({ways})\. .*--data\.num-workers", last), last


def test_a_batch_that_never_comes_ends_the_wait():
    began = time.monotonic()
    with pytest.raises(LoaderFailed, match=r"the loader's 1 workers have handed over no batch for . s \(data\.worker_timeout\)"):
        values(Numbers(endless=3), num_workers=1, worker_timeout=3.0)
    assert time.monotonic() - began < 20


def test_a_small_dev_shm_is_named_at_once():
    """As in a container: Docker gives 64 MiB."""
    mount = "mount -t tmpfs -o size=16m tmpfs /dev/shm"
    try:
        subprocess.run(["unshare", "-m", "bash", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small /dev/shm is not allowed here")
    script = "Numbers.__getitem__ = lambda self, i: Number(torch.ones(7_000_000))\nvalues(Numbers(), num_workers=1)"
    last = run(script, "unshare", "-m", "bash", "-c", f'{mount} && exec "$0" "$@"')
    assert "cannot hand over a batch: unable to allocate shared memory" in last
    assert "--shm-size" in last
