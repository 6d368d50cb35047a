import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from splattingocc.config import Config
from splattingocc.engine.checkpoint import (
    CONFIG_KEY,
    AtomicCheckpointIO,
    checkpoint_path,
    load_network,
    newest_checkpoint,
    save_network,
)


class LinearConfig(Config):
    width: int = 3
    deep: dict[str, int] = {"layers": 1}


def build(config: LinearConfig) -> nn.Module:
    return nn.Linear(config.width, 2)


@pytest.fixture
def saved(tmp_path):
    config = LinearConfig()
    network = build(config)
    path = tmp_path / "network.safetensors"
    save_network(network, config, path, {"threshold": "0.25"})
    return network, path


def test_a_saved_network_comes_back_with_its_metadata(saved):
    network, path = saved
    other = build(LinearConfig())
    metadata = load_network(other, LinearConfig(), path)
    assert metadata["threshold"] == "0.25"
    assert torch.equal(other.weight, network.weight)


def test_a_lightning_checkpoint_is_read_by_its_network_part(tmp_path):
    network, path = build(LinearConfig()), tmp_path / "last.ckpt"
    state = {f"network.{key}": value for key, value in network.state_dict().items()} | {"objective.w": torch.zeros(1)}
    torch.save({"state_dict": state, CONFIG_KEY: LinearConfig().model_dump_json()}, path)
    other = build(LinearConfig())
    load_network(other, LinearConfig(), path)
    assert torch.equal(other.weight, network.weight)


def test_a_checkpoint_of_another_network_is_refused_by_the_option_that_differs(saved):
    _, path = saved
    with pytest.raises(ValueError, match=r"network.safetensors: checkpoint of another network: network.deep.layers is 1 there and 2"):
        load_network(build(LinearConfig()), LinearConfig(deep={"layers": 2}), path)


@pytest.mark.parametrize("name", ["network.safetensors", "last.ckpt"])
def test_a_truncated_checkpoint_is_named(tmp_path, name):
    path = tmp_path / name
    if name.endswith("ckpt"):
        torch.save({"state_dict": build(LinearConfig()).state_dict()}, path)
    else:
        save_network(build(LinearConfig()), LinearConfig(), path, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name}: damaged or not a checkpoint"):
        load_network(build(LinearConfig()), LinearConfig(), path)


def test_somebody_elses_file_and_a_missing_one_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2, 3)}, path)
    with pytest.raises(ValueError, match=f"not a checkpoint of this project .key {CONFIG_KEY} is missing"):
        load_network(build(LinearConfig()), LinearConfig(), path)
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_network(build(LinearConfig()), LinearConfig(), tmp_path / "absent.ckpt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "payload": Evil(), CONFIG_KEY: json.dumps({})}, path)
    with pytest.raises(ValueError, match=r"evil\.ckpt: damaged or not a checkpoint"):
        load_network(build(LinearConfig()), LinearConfig(), path)


def write_checkpoints(work_dir: Path, *steps: int) -> None:
    for step in steps:
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(1000)}}, checkpoint_path(work_dir, step))


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    write_checkpoints(tmp_path, 5, 40, 300)
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 300)
    newest, second = checkpoint_path(tmp_path, 300), checkpoint_path(tmp_path, 40)
    newest.write_bytes(newest.read_bytes()[:2000])
    damaged = bytearray(second.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    second.write_bytes(bytes(damaged))
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 5)
    assert [record.args for record in caplog.records] == [(newest,), (second,)]


def test_a_full_disk_leaves_the_checkpoints_that_were_there_and_no_half_one(tmp_path, monkeypatch):
    write_checkpoints(tmp_path, 5)

    opened = Path.open

    class FullDisk:
        """Takes the first kilobytes only."""

        def __init__(self, file):
            self.file, self.left = file, 2000

        def write(self, data) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr(Path, "open", lambda path, *mode: FullDisk(opened(path, *mode)))
    with pytest.raises(OSError, match=r"No space left on device.*step_00000006\.ckpt"):
        write_checkpoints(tmp_path, 6)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005.ckpt"]
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 5)
