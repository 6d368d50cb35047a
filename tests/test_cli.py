import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_parts import MeanLiftConfig, PatchesConfig, ToyNetworkConfig

import splattingocc
from splattingocc.cli import COMMANDS, WAITING, as_flags, expand_cfg_options, expand_home, let_idle_threads_sleep, main, parse
from splattingocc.data.nuscenes import read_index
from splattingocc.models.backbones.from_timm import TimmConfig
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.models.neck import FPNConfig

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "splattingocc" / "splattingocc-synth.py"


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
    for value, values in (
        ("/data/my sets/nuscenes", ["/data/my sets/nuscenes"]),
        ("/data/nuscenes(1)", ["/data/nuscenes(1)"]),
        ("/data/a,b", ["/data/a,b"]),
        ("[1e-3]", ["1e-3"]),
        ("(8, 10)", ["8", "10"]),
        ("8,10", ["8", "10"]),
        ("[]", []),
        ("(old)/x(1)", ["(old)/x(1)"]),
        ("[/a, /b]", ["/a", "/b"]),
        ("256 704", ["256", "704"]),
        ("1,2,", ["1", "2"]),
        ("", []),
    ):
        assert expand_cfg_options(["--cfg-options", f"a.b={value}"]) == ["--a.b", *values]
    with pytest.raises(ValueError, match="--cfg-options seed: expected key=value"):
        expand_cfg_options(["--cfg-options", "seed", "3"])


def test_home_is_the_users_where_shells_leave_it_as_it_is(monkeypatch: pytest.MonkeyPatch):
    """Quoted, or behind a `=`."""
    monkeypatch.setenv("HOME", "/home/me")
    words = ["~/a", "--work-dir=~/runs/x", "--out", "~", "a~/b", "--name=a=~/b", "~other/a", "--x=~y"]
    assert expand_home(words) == ["/home/me/a", "--work-dir=/home/me/runs/x", "--out", "/home/me", *words[4:]]
    assert parse(["train", str(CONFIG), "--work-dir=~/runs", "--cfg-options", "data.dataroot=~/sets"]).work_dir == Path("/home/me/runs")


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


TOY_CONFIG = """
from toy_parts import ToyExperimentConfig


def config():
    return ToyExperimentConfig(name="toy", network={"backbone": {"kind": "resnet", "depth": 34}})
"""


@pytest.fixture
def toy_config(tmp_path: Path) -> str:
    """A configuration whose backbone and lift can be of two kinds."""
    path = tmp_path / "toy.py"
    path.write_text(TOY_CONFIG)
    return str(path)


def test_a_part_of_another_kind_is_chosen_by_an_option_and_has_its_own(toy_config: str):
    words = ["--network.backbone.width", "5", "--network.backbone.kind", "patches", "--network.neck.channels", "16"]
    network = parse(["train", toy_config, *words, "--network.lift.kind=mean"]).experiment.network
    assert network == ToyNetworkConfig(backbone=PatchesConfig(width=5), neck=FPNConfig(channels=16), lift=MeanLiftConfig())
    network = parse(["train", toy_config, "--cfg-options", "network.backbone.kind=patches", "network.backbone.width=5"]).experiment.network
    assert network.backbone == PatchesConfig(width=5)


def test_options_of_the_kind_that_the_configuration_has_need_no_kind(toy_config: str):
    assert parse(["train", toy_config]).experiment.network.backbone == ResNetConfig(depth=34)
    words = ["--network.backbone.kind", "resnet", "--network.backbone.weights", "w.pth"]
    assert parse(["train", toy_config, *words]).experiment.network.backbone == ResNetConfig(depth=34, weights=Path("w.pth"))


def test_an_encoder_of_the_package_is_chosen_with_its_weights(tmp_path: Path):
    path = tmp_path / "plain.py"
    path.write_text("from splattingocc.experiment import ExperimentConfig\n\n\ndef config():\n    return ExperimentConfig(name='plain')\n")
    words = [
        "--network.backbone.kind",
        "timm",
        "--network.backbone.name",
        "swin_tiny_patch4_window7_224",
        "--network.backbone.weights",
        "w.pth",
    ]
    backbone = parse(["train", str(path), *words, "--network.backbone.allow-partial"]).experiment.network.backbone
    assert backbone == TimmConfig(name="swin_tiny_patch4_window7_224", weights=Path("w.pth"), allow_partial=True)
    assert parse(["train", str(path), "--network.backbone.kind", "mobilenet_v2"]).experiment.network.backbone == MobileNetV2Config()


def test_the_last_of_several_kinds_counts(toy_config: str):
    words = ["--network.backbone.kind", "patches", "--network.backbone.kind", "resnet", "--network.backbone.depth", "50"]
    assert parse(["train", toy_config, *words]).experiment.network.backbone == ResNetConfig(depth=50)


def test_a_kind_that_there_is_not_is_refused_by_name(toy_config: str, capsys: pytest.CaptureFixture):
    message = refused(capsys, "train", toy_config, "--network.backbone.kind", "patch")
    kinds = "resnet, patches, narrow_resnet"
    assert message == f"splattingocc train: --network.backbone.kind patch: expected one of {kinds}; did you mean patches?\n"
    message = refused(capsys, "train", str(CONFIG), "--network.lift.kind", "bev")
    assert message == "splattingocc train: --network.lift.kind bev: expected one of sampling, lss\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network.bone.kind", "patches"], "--network.bone.kind"),
        (["--kind", "patches"], "--kind"),
        (["--network.backbone.kind"], "--network.backbone.kind"),
        (["--network.backbone.width", "5"], "--network.backbone.width"),
        (["--network.backbone.kind=patches", "--network.backbone.depth", "18"], "--network.backbone.depth"),
    ],
)
def test_an_option_that_no_part_has_is_refused(words: list[str], said: str, toy_config: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        main(["train", toy_config, *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


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


def test_an_unknown_value_is_refused_by_name_in_one_line(capsys: pytest.CaptureFixture):
    message = refused(capsys, "test", str(CONFIG), "net.ckpt", "--eval", "bbox")
    assert message == "splattingocc test: --eval bbox: expected one of segm, ray, render, all\n"
    message = refused(capsys, "train", str(CONFIG), "--trainer.accelerator", "tpu")
    assert message.startswith("splattingocc train: --trainer.accelerator tpu: expected one of auto, cpu, gpu, cuda")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--trainer.devices", "0", "--trainer.devices is 0"),
        ("--trainer.max-epochs", "-3", "--trainer.max-epochs is -3"),
        ("--trainer.max_epochs", "0", "--trainer.max_epochs is 0"),
        ("--network.lift.channels", "0", "--network.lift.channels is 0"),
        ("--network.lift.coarsening", "0", "--network.lift.coarsening is 0"),
        ("--data.loader.num-rays", "1000000000000", "--data.loader.num-rays is 1000000000000"),
        ("--data.loader.augment.max-zoom", "inf", "--data.loader.augment.max-zoom is inf"),
        ("--optimization.learning-rate", "-1", "--optimization.learning-rate is -1.0"),
        ("--optimization.gradient-clip", "nan", "--optimization.gradient-clip is nan"),
        ("--optimization.ema-decay", "nan", "--optimization.ema-decay is nan"),
        ("--render.near", "1e3", "RenderConfig: render.near is 1000.0 m"),
        ("--seed", "-1", "--seed is -1"),
    ],
)
def test_numbers_out_of_bounds_are_refused_in_one_line(option: str, value: str, key: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(CONFIG), option, value])
    said = str(stopped.value) + capsys.readouterr().err
    assert key in said
    assert said.strip().count("\n") == 0


def test_a_job_that_is_begun_again_goes_on_from_what_it_has_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its command line is the same, with the checkpoint that it began from."""
    begun: list[Path | None] = []
    monkeypatch.setattr("splattingocc.pipeline.training.train", lambda config, work_dir, *, resume_from: begun.append(resume_from) or {})
    monkeypatch.setattr("splattingocc.engine.checkpoint.newest_checkpoint", lambda work_dir: work_dir / "newest.ckpt")
    given = tmp_path / "given.ckpt"
    given.touch()
    words = ["train", str(CONFIG), "--work-dir", str(tmp_path / "run"), "--auto-resume"]
    for name, value in (("SLURM_RESTART_COUNT", "0"), ("SLURM_RESTART_COUNT", "1"), ("TORCHELASTIC_RESTART_COUNT", "2")):
        monkeypatch.setenv(name, value)
        main([*words, "--resume-from", str(given)])
        given.unlink(missing_ok=True)  # as an older checkpoint of the run itself, which newer ones have replaced
        monkeypatch.delenv(name)
    main(words)
    newest = tmp_path / "run" / "newest.ckpt"
    assert begun == [given, newest, newest, newest]


@pytest.mark.parametrize(("option", "name"), [("--trainer.devices", "trainer.devices"), ("--trainer.num-nodes", "trainer.num_nodes")])
def test_processes_that_nothing_starts_are_not_waited_for(option: str, name: str, tmp_path: Path):
    with pytest.raises(SystemExit, match=f"splattingocc: {name} is 2: several processes are started by torchrun or srun, with --launcher"):
        main(["train", str(CONFIG), option, "2", "--work-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["bench", "render", "--rays", "0"], "--rays 0: expected a number that should be greater than or equal to 1"),
        (["bench", "render", "--rays", "1000000000000"], "--rays 1000000000000"),
        (["bench", "render", "--repeats", "-1"], "--repeats -1"),
        (["prepare", "--dataroot", "x", "--workers", "-1"], "--workers -1"),
        (["prepare", "--dataroot", "x", "--workers", "100000"], "--workers 100000"),
        (["synth", "--out", "x", "--scenes", "0"], "--scenes 0: expected a number"),
        (["synth", "--out", "x", "--image-size", "100000", "1"], "SynthConfig.image_size.0 is 100000"),
        (["synth", "--out", "x", "--version", ".."], "SynthConfig.version: the version '..' cannot name a file"),
        (["demo", "--out", "x", "--seed", "-1"], "ExperimentConfig.seed is -1"),
    ],
)
def test_numbers_of_commands_have_bounds_too(words: list[str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert str(stopped.value).startswith(f"splattingocc: {key}")
    assert list(tmp_path.iterdir()) == []


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
    assert "there are demo, synth, prepare, describe, train" in refused(capsys, "xyzzy")


@pytest.mark.parametrize("command", ["train", "test", "visualize"])
@pytest.mark.parametrize("words", [[], ["--seed", "3"]])
def test_a_missing_configuration_is_what_is_said_to_be_missing(command: str, words: list[str], capsys: pytest.CaptureFixture):
    message = refused(capsys, command, *words)
    assert message.startswith(f"splattingocc {command}: expected a configuration first")
    assert ("or a network's file" in message) == (command != "train")
    assert "by name there are renderocc-7frame, splattingocc-1frame" in message
    assert message.count("\n") == 1


def test_the_configuration_of_a_run_is_one_for_the_next(tmp_path: Path):
    config = parse(["train", str(CONFIG), "--seed", "7"]).experiment
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    for words in (["train"], ["test"], ["visualize"]):
        checkpoint = ["net.safetensors"] if words != ["train"] else []
        assert parse([*words, str(tmp_path / "config.json"), *checkpoint, "--trainer.max-epochs", "3"]).experiment == config.model_copy(
            update={"trainer": config.trainer.model_copy(update={"max_epochs": 3})}
        )


def in_python(code: str) -> str:
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


HEAVY = "print('heavy:', [name for name in ('torch', 'lightning', 'warp') if name in sys.modules])"


def test_the_command_line_is_there_before_anything_that_takes_seconds():
    assert "heavy: []" in in_python(f"import sys, splattingocc.cli; {HEAVY}")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["log", "--path", "nowhere"]])
def test_what_needs_no_tensors_does_not_wait_for_them(words: list[str]):
    code = f"import sys\nfrom splattingocc.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    {HEAVY}"
    assert "heavy: []" in in_python(code)


def test_the_help_names_every_command_with_its_first_sentence(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code in (None, 0)
    for name in COMMANDS:
        assert f"• {name}" in printed
    assert "Train a configuration; any of its fields can be set" in printed


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code in (None, 0)
    assert capsys.readouterr().out == f"splattingocc {splattingocc.__version__}\n"


def test_the_only_tables_of_a_data_root_need_no_name(tiny_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    prepare = ["prepare", "--dataroot", str(tiny_dataroot), "--out", str(tmp_path / "labels"), "--workers", "0"]
    main(prepare)
    printed = capsys.readouterr().out
    assert f"{tiny_dataroot}: tables of v1.0-tiny, the only ones there" in printed
    assert "labelled rays in 8 key frames" in printed


def test_a_switch_is_set_as_configurations_write_it_or_as_a_flag():
    switches = {"trainer.sync-batchnorm", "head.learn-scales", "deterministic"}
    words = ["CONFIG", "--trainer.sync-batchnorm", "True", "--x", "1", "--name", "true"]
    assert as_flags(words, switches) == ["CONFIG", "--trainer.sync-batchnorm", "--x", "1", "--name", "true"]
    assert as_flags(["--head.learn_scales=False", "--validate", "--x=false"], switches) == [
        "--head.no-learn_scales",
        "--validate",
        "--x=false",
    ]
    assert as_flags(["--deterministic", "false"], switches) == ["--no-deterministic"]
    assert parse(["train", "splattingocc-synth", "--name", "true"]).experiment.name == "true"
    assert not parse(["prepare", "--dataroot", "x", "--lidar.with-classes", "False"]).lidar.with_classes

    def head(*words: str) -> Any:
        return parse(["train", "splattingocc-synth", *words]).experiment.network.head

    assert not head("--network.head.learn-scales", "False").learn_scales
    assert head("--network.head.learn-scales", "True").learn_scales
    assert not head("--cfg-options", "network.head.learn_scales=False").learn_scales
    assert not head("--network.head.no-learn-scales").learn_scales


@pytest.mark.parametrize("variable", [None, *WAITING])
def test_threads_sleep_while_they_wait_unless_the_environment_says_how_they_wait(variable: str | None, monkeypatch: pytest.MonkeyPatch):
    for name in WAITING:
        monkeypatch.setenv(name, "")  # so that it is undone, whatever it was
        monkeypatch.delenv(name)
    if variable is not None:
        monkeypatch.setenv(variable, "ACTIVE")
    before = {name: os.environ.get(name) for name in WAITING}
    let_idle_threads_sleep()
    expected = before if variable else before | {"OMP_WAIT_POLICY": "PASSIVE"}
    assert {name: os.environ.get(name) for name in WAITING} == expected


def test_how_threads_wait_is_decided_before_torch_is_loaded():
    """Which reads it once."""
    program = (
        "import os, sys, splattingocc.cli as cli\n"
        "cli.parse = lambda words: print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY']) or sys.exit(0)\n"
        "cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == ["False", "PASSIVE"]
