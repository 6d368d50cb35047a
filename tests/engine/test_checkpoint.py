import errno
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import nn

from splattingocc.config import Config
from splattingocc.engine.checkpoint import (
    CONFIG_KEY,
    NEEDED_TO_GO_ON,
    check_weights,
    checkpoint_path,
    is_whole,
    load_network,
    newest_checkpoint,
    read_checkpoint,
    read_metadata,
    save_network,
)
from splattingocc.engine.checkpoint_writing import AtomicCheckpointIO, GoOnCleanly


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


def write_options(path: Path, options: object) -> None:
    save_file(build(LinearConfig()).state_dict(), path, metadata={CONFIG_KEY: json.dumps(options)})


def test_an_option_that_there_was_not_yet_has_its_default(tmp_path):
    path = tmp_path / "network.safetensors"
    write_options(path, {"width": 3})
    load_network(build(LinearConfig()), LinearConfig(), path)
    with pytest.raises(ValueError, match=r"another network: network\.deep\.layers is 1 there and 2 in this configuration"):
        load_network(build(LinearConfig()), LinearConfig(deep={"layers": 2}), path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"width": 3, "depht": 1}, "another network: LinearConfig: depht is not an option of LinearConfig; did you mean deep"),
        ({"width": "wide"}, "another network: LinearConfig.width is 'wide': input should be a valid integer"),
        ([], "another network: LinearConfig is \\[\\]: input should be a valid dictionary"),
        (None, "another network: LinearConfig is None"),
    ],
)
def test_options_that_this_version_does_not_know_are_refused_by_name(tmp_path, options, complaint):
    path = tmp_path / "network.safetensors"
    write_options(path, options)
    with pytest.raises(ValueError, match=f"^{path}: checkpoint of {complaint}") as refused:
        load_network(build(LinearConfig()), LinearConfig(), path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["network.safetensors", "last.ckpt"])
def test_a_truncated_checkpoint_is_named(tmp_path, name):
    path = tmp_path / name
    if name.endswith("ckpt"):
        torch.save({"state_dict": build(LinearConfig()).state_dict()}, path)
    else:
        save_network(build(LinearConfig()), LinearConfig(), path, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name}: (damaged or not a checkpoint|not a checkpoint, or a damaged one)"):
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
    with pytest.raises(ValueError, match=r"evil\.ckpt: not a checkpoint that can be loaded: damaged, or holds other things than tensors"):
        load_network(build(LinearConfig()), LinearConfig(), path)


def write_checkpoints(work_dir: Path, *steps: int) -> None:
    rest = dict.fromkeys(NEEDED_TO_GO_ON, 0) | {CONFIG_KEY: "{}"}
    for step in steps:
        AtomicCheckpointIO().save_checkpoint({**rest, "state_dict": {"a": torch.ones(1000)}}, checkpoint_path(work_dir, step))


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
    assert [str(record.args[0]).split(":")[0] for record in caplog.records] == [str(newest), str(second)]


def test_somebody_elses_checkpoint_is_not_gone_on_from_while_there_is_an_own_one(tmp_path):
    write_checkpoints(tmp_path, 1)
    torch.save({"state_dict": {}}, checkpoint_path(tmp_path, 9))
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1)


def test_no_flipped_bit_ends_the_search_for_a_checkpoint(tmp_path):
    """Whatever is wrong with the newest one, the one before it is found."""
    write_checkpoints(tmp_path, 1, 2)
    path, rng, seen = checkpoint_path(tmp_path, 2), np.random.default_rng(0), set()
    whole, content = path.read_bytes(), torch.load(path, weights_only=True)
    table_of_contents = range(len(whole) - 500, len(whole))
    for position in [*rng.integers(len(whole), size=300), *table_of_contents]:
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        found = newest_checkpoint(tmp_path)
        seen.add(found)
        if found == path:
            assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["a"], content["state_dict"]["a"])
    assert seen == {path, checkpoint_path(tmp_path, 1)}


@pytest.mark.parametrize(("offset", "value"), [(8, 1), *((10, method) for method in (1, 6, 8, 9, 12, 14, 93, 99))])
def test_an_encrypted_or_compressed_archive_is_no_checkpoint(tmp_path, offset, value):
    write_checkpoints(tmp_path, 1, 2)
    path = checkpoint_path(tmp_path, 2)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    assert not is_whole(path)
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1)


def write_file(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "foreign":
        torch.save({"state_dict": {}, "epoch": 3}, path)
    elif kind == "weights only":
        torch.save({"state_dict": {}, CONFIG_KEY: "{}"}, path)
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "old": b"\x80\x02}q\x00."}[kind])


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("empty", "damaged or not a checkpoint"),
        ("text", "damaged or not a checkpoint"),
        ("old", "damaged or not a checkpoint"),
        ("pipe", "damaged or not a checkpoint"),
        ("list", "holds a list"),
        ("foreign", f"key {CONFIG_KEY} is missing"),
        ("weights only", "not a checkpoint to go on from: without epoch"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused_in_one_line(tmp_path, kind, complaint):
    path = tmp_path / "x.ckpt"
    write_file(path, kind)
    with pytest.raises(ValueError, match=rf"^{path}: .*{complaint}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_any_changed_byte_of_a_network_is_noticed(saved):
    network, path = saved
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        other = build(LinearConfig())
        try:
            metadata = load_network(other, LinearConfig(), path)
        except ValueError as error:
            message = str(error)
        else:  # white space in the header
            message = f"{path}: "
            assert metadata["threshold"] == "0.25"
            assert torch.equal(other.weight, network.weight)
        assert message.startswith(f"{path}: ")


def test_equal_networks_make_equal_bytes(tmp_path):
    network = build(LinearConfig())
    for number in range(8):
        save_network(network, LinearConfig(), tmp_path / f"{number}.safetensors", {"threshold": "0.25", "ü": "x"})
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}) == 1
    assert read_metadata(tmp_path / "0.safetensors")["ü"] == "x"


def test_a_network_of_before_there_were_digests_is_read(saved):
    network, path = saved
    state = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(state, path, metadata={CONFIG_KEY: LinearConfig().model_dump_json()})
    load_network(build(LinearConfig()), LinearConfig(), path)


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


def checkpoint_of(module: nn.Module) -> dict:
    return {"state_dict": dict(module.state_dict())}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", torch.zeros(1), r"weight weight is \(1,\) there and \(2, 3\) here"),
        ("weight", 3, r"weight weight\)"),
        ("more", torch.zeros(1), r"weight more\)"),
    ],
)
def test_a_weight_that_does_not_fit_is_named_before_training_goes_on(tmp_path, name, value, message):
    module = build(LinearConfig())
    check_weights(module, checkpoint_of(module), tmp_path)
    checkpoint = checkpoint_of(module)
    checkpoint["state_dict"][name] = value
    with pytest.raises(ValueError, match=rf"^{tmp_path}: written by another version of the network \({message}"):
        check_weights(module, checkpoint, tmp_path)


def test_weights_that_are_not_finite_are_named(tmp_path):
    module = build(LinearConfig())
    module.bias.data[0] = torch.inf
    path = tmp_path / "network.safetensors"
    with pytest.raises(ValueError, match=f"^{path}: weight bias holds numbers that are not finite"):
        check_weights(module, checkpoint_of(module), path)
    save_network(module, LinearConfig(), path, {})
    with pytest.raises(ValueError, match=f"^{path}: weight bias holds numbers that are not finite"):
        load_network(build(LinearConfig()), LinearConfig(), path)


def trainer_at(step: int, path: Path | None, *, known: tuple[str, ...] = (), optimizer: torch.optim.Optimizer | None = None) -> Any:
    """What `GoOnCleanly` looks at of a trainer."""
    trainer = create_autospec(Trainer, instance=True)
    writer = create_autospec(ModelCheckpoint, instance=True)
    writer.best_k_models = {f"/elsewhere/{name}": torch.tensor(1.0) for name in known}
    trainer.ckpt_path, trainer.global_step, trainer.is_global_zero = path, step, True
    trainer.checkpoint_callbacks, trainer.optimizers = [writer], [] if optimizer is None else [optimizer]
    return trainer


def test_checkpoints_that_nothing_keeps_are_removed_as_training_goes_on(tmp_path):
    """That a training went on from, that it was killed before it removed, that a signal left."""
    write_checkpoints(tmp_path, 1, 2, 3, 4, 5, 9)
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.touch()
    trainer = trainer_at(5, checkpoint_path(tmp_path, 3), known=("step_00000001.ckpt", "step_00000005.ckpt"))
    for happens in (GoOnCleanly(tmp_path, keep=2).on_train_epoch_start, GoOnCleanly(tmp_path, keep=1).on_train_end):
        happens(trainer, LightningModule())
        left = {path.name for path in best.parent.iterdir()}
        kept = (1, 4, 5, 9) if happens.__name__ == "on_train_epoch_start" else (1, 5, 9)
        assert left == {"best.ckpt", *(checkpoint_path(tmp_path, step).name for step in kept)}


def test_a_training_that_begins_removes_no_checkpoint(tmp_path):
    write_checkpoints(tmp_path, 1, 2, 3)
    GoOnCleanly(tmp_path, keep=1).on_train_end(trainer_at(3, None), LightningModule())
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_an_optimizer_state_of_another_network_is_refused(tmp_path):
    module = build(LinearConfig())
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    clean, trainer = GoOnCleanly(tmp_path, keep=1), trainer_at(1, tmp_path / "a.ckpt", optimizer=optimizer)
    clean.on_train_start(trainer, LightningModule())
    fresh = trainer_at(1, tmp_path / "a.ckpt", optimizer=torch.optim.AdamW(module.parameters()))
    with pytest.raises(ValueError, match=r"a\.ckpt: cannot be gone on from: it holds no state of the optimizer"):
        clean.on_train_start(fresh, LightningModule())
    optimizer.state[module.weight]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"a\.ckpt: its optimizer state is not of this network"):
        clean.on_train_start(trainer, LightningModule())
