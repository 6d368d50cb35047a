import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from splattingocc.data.loaders import TrainingSet
from splattingocc.engine.batches import TrainingBatches
from splattingocc.engine.loading import LoaderFailed, dead_workers_named, prediction_loader
from splattingocc.files import BadFile
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


class DamagedFile(Numbers):
    def __getitem__(self, i: int) -> Number:
        raise BadFile(Path("labels/scene-0001.safetensors"), "damaged: sha256 is 12…, the manifest says 34…")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_is_named_whoever_reads_it(num_workers):
    with pytest.raises(BadFile, match=r"labels/scene-0001\.safetensors: damaged: sha256 is"):
        values(DamagedFile(), num_workers=num_workers)


def test_a_file_that_cannot_be_used_is_named_in_any_process():
    error = pickle.loads(pickle.dumps(BadFile(Path("a/b.png"), "no such file")))
    assert (type(error), str(error)) == (BadFile, "a/b.png: no such file")


class Progress:
    """Stands for a trainer as far as the place in an epoch goes."""

    def __init__(self, per_epoch: int) -> None:
        self.num_training_batches = per_epoch
        self.total = SimpleNamespace(processed=0)
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=self.total)))


def place_after(steps: int, *, per_epoch: int, resumed: dict | None = None) -> dict:
    """Take steps in a run, which may go on from another one's place."""
    batches = TrainingBatches(TrainingSet.__new__(TrainingSet), batch_size=1, num_workers=0)
    batches.trainer = Progress(per_epoch)  # type: ignore[assignment]
    if resumed is not None:
        batches.load_state_dict(resumed)
    batches.trainer.total.processed = steps + (resumed or {"total": 0})["total"]  # type: ignore[union-attr]
    return batches.state_dict()


def epochs_done(place: dict) -> float:
    return TrainingBatches.epochs_done({"TrainingBatches": place})


def test_epochs_are_counted_right_where_their_length_changes():
    """Another batch size, number of processes or of labelled scenes makes the epochs after a resume longer or shorter."""
    place = place_after(8, per_epoch=4)
    assert epochs_done(place) == 2
    place = place_after(2, per_epoch=2, resumed=place)
    assert epochs_done(place) == 3
    place = place_after(7, per_epoch=7, resumed=place)
    assert (epochs_done(place), place["batches"]) == (4, 0)
    middle = place_after(3, per_epoch=7, resumed=place)
    assert (middle["epochs"], middle["batches"]) == (4, 3)
    assert epochs_done(place_after(4, per_epoch=7, resumed=middle)) == 5


def test_a_place_as_it_was_once_written_is_understood():
    assert epochs_done({"batches": 6, "batches_per_epoch": 4}) == 1.5
