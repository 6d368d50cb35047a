import json
from pathlib import Path

import numpy as np
import pytest

from splattingocc.cli import expand_cfg_options, main, parse
from splattingocc.data.nuscenes import read_index

CONFIG = Path(__file__).parents[1] / "configs" / "splattingocc" / "splattingocc-synth.py"


def test_the_bench_prints_one_json_line_for_each_case(capsys: pytest.CaptureFixture):
    main(["bench", "render", "--rays", "50", "--repeats", "1", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"gaussians, trained-like", "gaussians, untrained", "nerf sampling"} <= {row["what"] for row in rows}


def test_the_bench_prints_a_table(capsys: pytest.CaptureFixture):
    main(["bench", "render", "--rays", "50", "--repeats", "1"])
    assert "untrained" in capsys.readouterr().out


def test_labels_are_made_from_dense_maps_and_verified(tiny_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    index = read_index(tiny_dataroot, "v1.0-tiny", cache_dir=tmp_path / "cache")
    for key_frame in (index[position] for position in range(len(index))):
        for camera in key_frame.cameras:
            assert camera.image_size is not None
            path = tmp_path / "maps" / camera.channel / Path(camera.filename).with_suffix(".npy").name
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.zeros(camera.image_size, np.uint8))
    prepare = ["prepare", "--dataroot", str(tiny_dataroot), "--version", "v1.0-tiny", "--out", str(tmp_path / "labels"), "--workers", "0"]
    main([*prepare, "--dense.semantics", str(tmp_path / "maps"), "--dense.class-map", "cityscapes"])
    main([*prepare, "--verify"])
    printed = capsys.readouterr().out
    assert "labelled rays in 8 key frames of 3 scenes" in printed
    assert "every scene is whole" in printed


def test_maps_that_are_not_there_end_in_one_line(tiny_dataroot: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"splattingocc: .*CAM_FRONT_LEFT/.*: no map of that name"):
        main(["prepare", "--dataroot", str(tiny_dataroot), "--version", "v1.0-tiny", "--out", str(tmp_path), "--workers", "0",
              "--dense.semantics", str(tmp_path / "nowhere")])  # fmt: skip


def test_cfg_options_are_the_options_of_the_same_names():
    words = ["--seed", "3", "--cfg-options", "trainer.max_epochs=2", "data.loader.image-size=[32,64]", "--validate", "x=y"]
    expected = ["--seed", "3", "--trainer.max_epochs", "2", "--data.loader.image-size", "32", "64", "--validate", "x=y"]
    assert expand_cfg_options(words) == expected
    with pytest.raises(ValueError, match="--cfg-options seed: expected key=value"):
        expand_cfg_options(["--cfg-options", "seed", "3"])


def test_command_lines_of_this_family_are_understood(tmp_path: Path):
    words = ["train", str(CONFIG), "--launcher", "none", "--work_dir", str(tmp_path), "--resume-from", "a.ckpt", "--validate"]
    words += [
        "--seed",
        "7",
        "--deterministic",
        "--load_interval",
        "5",
        "--cfg-options",
        "trainer.max_epochs=3",
        "optimization.learning_rate=1e-3",
    ]
    command = parse(words)
    assert (command.work_dir, command.resume_from, command.validate, command.load_interval) == (tmp_path, Path("a.ckpt"), True, 5)
    assert command.experiment.seed == 7
    assert command.experiment.trainer.max_epochs == 3
    assert command.experiment.optimization.learning_rate == 1e-3
    command = parse(["test", str(CONFIG), "net.ckpt", "--launcher", "none", "--eval", "segm", "--gpu-collect", "--dump_dir=out"])
    assert (command.checkpoint, command.eval, command.dump_dir) == (Path("net.ckpt"), ("segm",), Path("out"))


@pytest.mark.parametrize(("launcher", "right"), [("pytorch", "tools/dist_train.sh"), ("slurm", "tools/slurm_train.sh")])
def test_a_launcher_that_started_nothing_is_refused(launcher: str, right: str, tmp_path: Path):
    with pytest.raises(SystemExit, match=f"--launcher {launcher}: .* has not started this process; use {right}"):
        main(["train", str(CONFIG), "--launcher", launcher, "--work-dir", str(tmp_path)])


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    """Return what is said of words that cannot be understood, in few lines and with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.count("\n") <= 12
    return message


def test_an_unknown_score_is_refused_by_name(capsys: pytest.CaptureFixture):
    message = refused(capsys, "test", str(CONFIG), "net.ckpt", "--eval", "bbox")
    assert "bbox" in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--eval", "segmm"), "--eval segm"),
        (("--eval", "segm", "--eval", "rays"), "--eval ray"),
        (("--part", "heldout"), "--part held_out"),
        (("--trainer.precision", "bf16"), "--trainer.precision bf16-mixed"),
        (("--trainer.loggers", "tensorbord"), "--trainer.loggers tensorboard"),
    ],
)
def test_a_misspelled_value_names_the_right_one(words: tuple[str, ...], meant: str, capsys: pytest.CaptureFixture):
    assert refused(capsys, "test", str(CONFIG), "net.ckpt", *words).endswith(f"did you mean {meant}?\n")


def test_a_misspelled_option_names_the_right_one(capsys: pytest.CaptureFixture):
    assert "--split" in refused(capsys, "test", str(CONFIG), "net.ckpt", "--splt", "val")


def test_a_misspelled_command_names_the_right_one(capsys: pytest.CaptureFixture):
    assert refused(capsys, "trian", "x") == "splattingocc: trian is not a command; did you mean train?\n"
    assert "there are demo, synth, prepare, train" in refused(capsys, "xyzzy")
