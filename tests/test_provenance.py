import json
from pathlib import Path

import msgspec
import pytest

from splattingocc import provenance
from splattingocc.provenance import circumstances, driver, environment, source_hash


def test_the_environment_is_plain_text_for_any_json_writer():
    found = environment() | circumstances()
    assert json.loads(msgspec.json.encode(found)) == found
    assert {"commit", "python", "torch", "lightning", "warp", "device"} <= set(found)
    assert {"command", "launcher", "processes", "gpus", "cuda", "driver"} <= set(found)


def test_what_started_the_processes_is_known(monkeypatch: pytest.MonkeyPatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (circumstances()["launcher"], circumstances()["processes"]) == ("none", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "16")
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    found = circumstances()
    assert (found["launcher"], found["processes"], found["slurm_job"]) == ("srun", "16", "4242")


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 24 01:09:07 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16-I3-B03-4-3)",
    ],
)
def test_the_driver_is_read_where_linux_keeps_it(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "DRIVER_FILE", tmp_path / "version")
    assert driver() is None
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert driver() == "570.86.15"


def test_the_source_hash_is_stable():
    assert source_hash() == source_hash()
    assert len(source_hash()) == 64
