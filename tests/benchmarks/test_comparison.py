"""The comparison of ways to supervise (`benchmarks/comparison.py`), on a tiny network and two training streets."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_parts import register

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import comparison
import comparison_cell
import comparison_scores
from comparison_cell import Cell, ImagePhase, train_images
from comparison_scores import ByOpacity, false_by_height, own, read_as, read_outs_of, threshold_of
from comparison_table import marks_of, read_lines, report
from comparison_variants import VARIANTS, changed

from splattingocc.data.nuscenes import read_index
from splattingocc.engine.checkpoint import NETWORK_FILE, read_checkpoint
from splattingocc.evaluation.report import metrics_of
from splattingocc.experiment import ExperimentConfig, build_index, load_config
from splattingocc.geometry.voxel_grid import VoxelGrid
from splattingocc.labels.generate import generate_labels
from splattingocc.pipeline.calibration import calibrate
from splattingocc.pipeline.prediction import open_network, predict
from splattingocc.pipeline.scoring import score
from splattingocc.pipeline.training import train
from splattingocc.splatting.gaussians import Gaussians
from splattingocc.taxonomy import FREE

CONFIG = """
from toy_parts import NarrowResNetConfig, ToyExperimentConfig, ToyNetworkConfig

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.loaders import LoaderConfig
from splattingocc.engine.module import OptimizationConfig
from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.experiment import DataConfig, TrainerConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.volume_encoder import UNet3dConfig

def config():
    augment = AugmentConfig(mirror_x_probability=0.5, mirror_y_probability=0.5)
    return ToyExperimentConfig(
        name="tiny",
        data=DataConfig(
            version="v1.0-mini",
            loader=LoaderConfig(image_size=(32, 64), num_rays=500, held_out_fraction=0.1, augment=augment),
            num_workers=0,
        ),
        network=ToyNetworkConfig(
            backbone=NarrowResNetConfig(),
            neck=FPNConfig(channels=32),
            lift=SamplingLiftConfig(channels=8, coarsening=4),
            volume_encoder=UNet3dConfig(channels=(8, 16), blocks=(1, 1)),
        ),
        calibration=CalibrationConfig(criterion="cells", label_frames=1),
        optimization=OptimizationConfig(learning_rate=1e-3, warmup_steps=2, image_steps=3),
        trainer=TrainerConfig(max_epochs=1, accelerator="cpu", predict_all_cells=False),
    )
"""


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Let configurations have the narrow encoder, and 3D truth choose among few thresholds, each of which costs RayIoU anew."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        patch.setattr(comparison_scores, "THRESHOLDS", (0.05, 0.5))
        yield


@pytest.fixture(scope="module")
def dataroot(synthetic_dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data set with labels and truth: an epoch has four steps."""
    out = tmp_path_factory.mktemp("compared") / "data"
    shutil.copytree(synthetic_dataroot, out)
    generate_labels(read_index(out, "v1.0-mini"), out, out / "labels_2d", show_progress=False)
    return out


@pytest.fixture(scope="module")
def options(dataroot: Path, tmp_path_factory: pytest.TempPathFactory) -> comparison.Arguments:
    work_dir = tmp_path_factory.mktemp("comparison")
    (work_dir / "tiny.py").write_text(CONFIG)
    variants = ("fixed", "truth")
    return comparison.Arguments(work_dir / "tiny.py", work_dir, dataroot=dataroot, variants=variants, seeds=(0,), joint_steps=1)


@pytest.fixture(scope="module")
def common(options: comparison.Arguments) -> ExperimentConfig:
    return comparison.common_experiment(load_config(options.config), options.dataroot, options.joint_steps, options.work_dir)


@pytest.fixture(scope="module")
def made(common: ExperimentConfig, options: comparison.Arguments) -> list[str]:
    """The cells that a first run made, all with the image phase of one seed."""
    made: list[str] = []

    def make(cell: Cell) -> None:
        made.append(cell.variant.name)
        comparison.finish(cell, options.work_dir)

    assert comparison.compare(common, options, make) == 0
    return made


def result_of(options: comparison.Arguments, name: str) -> dict:
    (line,) = (line for line in read_lines(options.work_dir / comparison.RESULTS_FILE) if line["variant"] == name and "error" not in line)
    return line


def refuse(cell: Cell) -> str:
    raise AssertionError(f"{cell.variant.name} was made again")


def test_every_cell_is_made_once_from_one_image_phase(made, common, options, capsys):
    assert made == ["fixed", "truth"]
    assert len(list((options.work_dir / "image-phases").iterdir())) == 1
    results = options.work_dir / comparison.RESULTS_FILE
    with results.open("a") as file:
        file.write('{"variant": "learned", "se')
    assert comparison.compare(common, options, refuse) == 0
    said = capsys.readouterr().out
    assert said.count("finished before") == 2
    assert "line 3: half written" in said
    comparison.append(results, {"variant": "nerf", "seed": 0, "digest": "x", "source": "y", "error": "none"})
    assert [line["variant"] for line in read_lines(results)] == ["fixed", "truth", "nerf"], "what follows half a line begins a line"
    results.write_text("".join(line + "\n" for line in results.read_text().splitlines()[:2]))


def test_a_cell_is_what_a_training_of_its_configuration_alone_makes(made, common, options, tmp_path):
    cell = comparison.cell_of(common, "fixed", 0)
    train(cell.experiment, tmp_path, show_progress=False)
    found, whole = (open_network(cell.experiment, path / NETWORK_FILE) for path in (cell.folder(options.work_dir) / "train", tmp_path))
    assert found[1] == whole[1]
    for key, value in whole[0].state_dict().items():
        assert torch.equal(found[0].state_dict()[key], value), key


def test_an_image_phase_that_was_killed_goes_on(common, options, tmp_path, monkeypatch):
    longer = changed(common, {"optimization.image_steps": 6, "trainer.max_epochs": 2, "trainer.checkpoint_steps": 6})
    cell = comparison.cell_of(longer, "learned", 0)
    whole = read_checkpoint(train_images(cell, tmp_path / "whole"))
    take_step, taken = ImagePhase.training_step, []

    def stop_after_five(module, batches, batch_index):
        if len(taken) == 5:
            raise KeyError("killed")
        taken.append(module.global_step)
        return take_step(module, batches, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ImagePhase, "training_step", stop_after_five)
        with pytest.raises(KeyError):
            train_images(cell, tmp_path / "killed")
    found = read_checkpoint(train_images(cell, tmp_path / "killed"))
    assert taken == [0, 1, 2, 3, 4]
    assert found["global_step"] == whole["global_step"] == 6
    for key, value in whole["state_dict"].items():
        assert torch.equal(found["state_dict"][key], value), key


def test_the_scores_are_those_of_the_package(made, common, options, tmp_path):
    cell = comparison.cell_of(common, "fixed", 0)
    index = build_index(cell.experiment.data, tmp_path)
    network = cell.folder(options.work_dir) / "train" / NETWORK_FILE
    cache = predict(cell.experiment, network, tmp_path / "output", split="val", index=index)
    expected = metrics_of(score(cell.experiment, cache, index, rays=True)[0])
    found = result_of(options, "fixed")["read_outs"]["own"]["at_threshold"]
    assert found["miou_17"] == pytest.approx(expected["camera_mask"]["miou_17"])
    assert found["miou_15"] == pytest.approx(expected["camera_mask"]["miou_15"])
    assert found["iou"] == pytest.approx(expected["camera_mask"]["geometric_iou"])
    assert found["iou_middle"] == pytest.approx(expected["by_height"]["0.6 to 2.2 m"]["geometric_iou"])
    assert found["ray_iou"] == pytest.approx(expected["ray_iou"]["mean"])


def test_by_opacity_a_cell_has_its_gaussians_opacity_and_class():
    grid = VoxelGrid((0.0, 0.0, 0.0), (4.0, 2.0, 1.0), 1.0)
    means = torch.tensor([[2.9, 1.1, 0.5], [0.05, 0.5, 0.95]])
    gaussians = Gaussians(
        means=means,
        quats=torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        scales=torch.full((2, 3), 0.05),
        opacities=torch.tensor([0.9, 0.4]),
        features=torch.eye(17)[[4, 11]],
        grid=grid,
    )
    found = own(read_as(ByOpacity, gaussians))
    expected, classes = torch.zeros(4, 2, 1), torch.full((4, 2, 1), 17, dtype=torch.uint8)
    expected[2, 1, 0], expected[0, 0, 0] = 0.9, 0.4
    classes[2, 1, 0], classes[0, 0, 0] = 4, 11
    assert torch.equal(found.probabilities, expected)
    assert torch.equal(found.semantics, classes)


def test_each_way_to_read_out_is_its_own():
    grid = VoxelGrid((0.0, 0.0, 0.0), (4.0, 2.0, 1.0), 1.0)
    gaussians = Gaussians(
        means=torch.tensor([[2.9, 1.1, 0.5]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.full((1, 3), 0.25),
        opacities=torch.tensor([0.9]),
        features=torch.eye(17)[[4]],
        grid=grid,
    )
    network = SimpleNamespace(config=SimpleNamespace(head=SimpleNamespace(kind="gaussians")))
    found = {name: read_out(gaussians).probabilities[2, 1, 0].item() for name, read_out in read_outs_of(network).items()}
    assert found["opacity"] == pytest.approx(0.9)
    for name, variance in (("own", 0.25**2 + 1 / 12), ("centre", 0.25**2)):
        assert found[name] == pytest.approx(0.9 * math.exp(-0.5 * (0.4**2 + 0.4**2) / variance), rel=1e-5)


def test_what_is_wrongly_filled_is_told_by_height():
    counts = torch.zeros(4, 3, 18, 18, dtype=torch.int64)
    counts[0, 0, FREE, FREE], counts[1, 0, FREE, 4] = 30, 10
    counts[2, 1, FREE, FREE], counts[2, 1, 4, 11] = 5, 7
    counts[3, 2, FREE, 0], counts[3, 2, FREE, 16] = 1, 2
    assert false_by_height(counts) == pytest.approx([25, 0, 100])


def test_all_read_outs_choose_their_thresholds_alike(made, common, options, tmp_path):
    cell = comparison.cell_of(common, "fixed", 0)
    found = result_of(options, "fixed")["read_outs"]
    network, threshold = open_network(cell.experiment, cell.folder(options.work_dir) / "train" / NETWORK_FILE)
    assert threshold is not None
    assert found["own"]["threshold"] == threshold.others
    index = build_index(cell.experiment.data, tmp_path)
    for name in found.keys() - {"own"}:
        assert found[name]["threshold"] == threshold_of(name, cell.experiment, network, index)
    assert calibrate(cell.experiment, network, index).occupancy_threshold == threshold, "the network is read out as before"


def test_a_line_says_what_made_it_and_what_it_cost(made, options):
    line = result_of(options, "truth")
    assert (line["image_steps"], line["joint_steps"], line["seed"], line["supervision"]) == (3, 1, 0, "3D")
    assert {"truth_occupancy", "truth_class", "depth_bins", "pixel_classes", "opacity_prior"} == set(line["losses"])
    assert {"commit", "torch", "device", "digest", "source"} <= line.keys()
    for read_out in ("own", "opacity", "centre"):
        found = line["read_outs"][read_out]
        assert 0 < found["threshold"] < 1
        assert all(best["value"] >= found["at_threshold"][name] for name, best in found["best"].items())


def test_the_table_is_written_between_its_marks(made, common, options, tmp_path):
    page, (begin, end) = tmp_path / "results.md", marks_of("long")
    page.write_text(f"before\n{begin}\nof yesterday\n{end}\nafter\n")
    options = comparison.Arguments(
        options.config, options.work_dir, options.dataroot, options.variants, (0, 1), 1, table=page, section="long"
    )
    comparison.write_table(common, options)
    text = page.read_text()
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "of yesterday" not in text
    assert "| fixed Gaussians, 0.1 m | 0 (no 1) |" in text
    assert f"| {result_of(options, 'truth')['read_outs']['own']['at_threshold']['miou_17']:.2f} |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="each once"):
        comparison.write_table(common, options)


def test_a_failing_cell_is_reported_and_the_others_go_on(common, options, tmp_path, capsys):
    options = comparison.Arguments(options.config, tmp_path, options.dataroot, ("fixed", "learned", "truth"), (5,), 1)
    tried: list[str] = []

    def make(cell: Cell) -> str | None:
        tried.append(cell.variant.name)
        if cell.variant.name == "fixed":
            return "out of memory"
        if cell.variant.name == "learned":
            comparison.append(tmp_path / comparison.RESULTS_FILE, comparison.identity(cell))
        return None

    assert comparison.compare(common, options, make) == 2
    assert tried == ["fixed", "learned", "truth"]
    said = capsys.readouterr().out
    assert "failed: 1/3 fixed, seed 5: out of memory" in said
    assert "failed: 3/3 truth, seed 5: options or code were changed" in said, "there is no line of it"
    assert comparison.compare(common, options, make) == 2
    assert tried[3:] == ["fixed", "truth"], "a cell that failed is not finished"


def test_a_process_that_fails_says_so_in_one_line(common, options, tmp_path):
    cell = comparison.cell_of(common, "fixed", 0)
    error = comparison.in_own_process(cell, tmp_path, ["no_such_config.py", "--work-dir", str(tmp_path)])
    assert error is not None
    assert "no_such_config.py" in error
    assert error.endswith(comparison.LOG_FILE)
    assert "\n" not in error


def test_other_options_or_code_are_another_cell(common, options, made, monkeypatch, capsys):
    cell = comparison.cell_of(common, "fixed", 0)
    lines = read_lines(options.work_dir / comparison.RESULTS_FILE)
    assert comparison.finished(lines, cell) is not None
    other = comparison.cell_of(changed(common, {"optimization.learning_rate": 2e-3}), "fixed", 0)
    assert comparison.finished(lines, other) is None
    assert other.folder(options.work_dir) != cell.folder(options.work_dir)
    monkeypatch.setattr(comparison, "source", lambda: "other code")
    assert comparison.finished(lines, cell) is None
    assert comparison.compare(common, options, lambda cell: "not now") == 2
    assert "other options or other code than those of 1 lines, which stay" in capsys.readouterr().out
    assert len(read_lines(options.work_dir / comparison.RESULTS_FILE)) == len(lines) + 2


def test_other_streets_labels_or_truth_in_the_same_folders_are_another_cell(common, options, made, dataroot: Path):
    """What options name are paths."""
    truth = next(dataroot.glob("gts/*/*/labels.npz"))
    lines = read_lines(options.work_dir / comparison.RESULTS_FILE)
    for path in (dataroot / "v1.0-mini" / "splits.json", dataroot / "labels_2d" / "manifest.json", dataroot / "synthetic.json", truth):
        cell, before = comparison.cell_of(common, "fixed", 0), path.read_bytes()
        assert comparison.finished(lines, cell) is not None
        folders = cell.folder(options.work_dir), cell.image_folder(options.work_dir)
        try:
            path.write_bytes(before + b"\n")
            comparison_cell._digest_of.cache_clear()
            assert comparison.finished(lines, cell) is None
            assert cell.folder(options.work_dir) != folders[0]
            assert cell.image_folder(options.work_dir) != folders[1]
        finally:
            path.write_bytes(before)
            comparison_cell._digest_of.cache_clear()


def test_variants_that_come_to_the_same_are_one_cell(common):
    same = changed(common, {"data.loader.num_rays": 10_000})
    assert comparison.cell_of(same, "rays-10000", 0).digest == comparison.cell_of(same, "learned", 0).digest
    digests = [comparison.cell_of(same, name, 0).digest for name in VARIANTS]
    # The base has label frames 1, class balance 0.5 and 10,000 rays
    assert len(set(digests)) == len(VARIANTS) - 3


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_an_experiment_of_the_demos_configuration(name):
    demo = load_config(Path("splattingocc-synth"))
    experiment = VARIANTS[name].change(demo)
    assert experiment.network.backbone == demo.network.backbone
    assert experiment.optimization == demo.optimization
    assert all(loss.weight <= demo.objective.losses[key].weight for key, loss in experiment.objective.losses.items())


def test_what_cannot_be_shared_is_refused(common, options):
    for name, value, said in (("optimization.ema_decay", 0.9, "ema_decay"), ("data.gts", Path("/nowhere"), "nowhere")):
        with pytest.raises(ValueError, match=said):
            comparison.common_experiment(changed(common, {name: value}), None, 1, options.work_dir)
    with pytest.raises(ValueError, match="--variants: lerned is none"):
        comparison.main([str(options.config), "--work-dir", str(options.work_dir), "--variants", "lerned"])


def test_all_cells_begin_with_weights_that_are_given(common, tmp_path):
    # On data that are there, whose contents decide too
    demo, file = load_config(Path("splattingocc-synth")).model_copy(update={"data": common.data}), tmp_path / "weights.pth"
    assert comparison.begun_with(demo, None) is demo
    with pytest.raises(ValueError, match=r"--weights: .*weights\.pth: no such file"):
        comparison.begun_with(demo, file)
    file.touch()
    begun = comparison.begun_with(demo, file)
    assert begun.network.backbone.weights == file
    assert Cell(VARIANTS["fixed"], begun).digest != Cell(VARIANTS["fixed"], demo).digest
    with pytest.raises(ValueError, match=r"--weights: network\.backbone\.kind is narrow_resnet"):
        comparison.begun_with(common, file)


def test_a_variant_by_another_name_has_no_read_outs_of_its_own(made, options):
    line = result_of(options, "fixed") | {"variant": "learned"}
    lines = {"learned": line, "rays-10000": line, "scales-fixed": line | {"variant": "scales-fixed"}}
    text = report({name: {0: line} for name, line in lines.items()}, (0,), "command")
    assert text.count("| learned Gaussians | 0 |") == 3, "as a twin, above the ablations, and among the read-outs"
    assert text.count("| scales fixed | 0 |") == 2
    assert text.count("| 10,000 rays | 0 |") == 1


def test_variants_by_other_names_alone_make_no_table(made, options):
    line = result_of(options, "fixed") | {"variant": "learned"}
    text = report({name: {0: line} for name in ("learned", "rays-10000")}, (0,), "command")
    assert text.count("| learned Gaussians | 0 |") == 2, "as a twin and among the read-outs"
    assert "10,000 rays" not in text
