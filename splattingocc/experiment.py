"""The root configuration and what is built from it: the one place where everything meets."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, ValidationError, model_validator
from torch.utils.data import DataLoader

from splattingocc.config import Config, Epochs, Seed, Steps, Workers, describe_validation
from splattingocc.config_files import find_config
from splattingocc.data.key_frames import Index
from splattingocc.data.label_store import LABEL_FOLDER, MANIFEST_NAME, LabelStore
from splattingocc.data.loaders import LoaderConfig, PredictionSet
from splattingocc.data.nuscenes import read_index
from splattingocc.data.vehicle_masks import VehicleMasks
from splattingocc.engine.loading import prediction_loader
from splattingocc.engine.options import OptimizationConfig, RenderConfig, Tracker
from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.files import check_name, first_line, read_bytes, read_json
from splattingocc.geometry.voxel_grid import GridConfig
from splattingocc.kernels.gaussian_index import MIN_ALPHA, RADIUS_FACTOR, RADIUS_MARGIN
from splattingocc.kernels.gaussian_scene import MAX_REACH_CELLS
from splattingocc.losses.objective import ObjectiveConfig
from splattingocc.models.backbones.weights import WeightsConfig
from splattingocc.models.cell_head import MAX_OPACITY
from splattingocc.models.density_head import DensityHeadConfig
from splattingocc.models.gaussian_head import GaussianHeadConfig
from splattingocc.models.network import NetworkConfig, OccupancyNetwork
from splattingocc.taxonomy import NUM_CLASSES

LARGEST_CONFIG = 2**20
"""Bytes of a configuration in Python."""
REACH_OF_A_SCALE = RADIUS_FACTOR * math.sqrt(2 * math.log(MAX_OPACITY / MIN_ALPHA))
"""Standard deviations at which the renderer stops looking for the most opaque Gaussian, but for `RADIUS_MARGIN`."""


class DataConfig(Config):
    """Where the data are and how they become batches."""

    dataroot: Path = Path("data/nuscenes")
    """Folder of a data set in the nuScenes layout."""
    version: Annotated[str, AfterValidator(partial(check_name, what="data.version"))] = "v1.0-trainval"
    """Folder of its tables."""
    labels: Path | None = None
    """Folder of the 2D label store; `<dataroot>/labels_2d` by default."""
    gts: Path | None = None
    """Folder of Occ3D's truth, read by scoring only; `<dataroot>/gts` by default."""
    vehicle_masks: Path | None = None
    """Folder with a PNG per camera, `<channel>.png`, that is black but for the own vehicle: what it covers is black to the network, in
    training and in testing. Labels are made without it by the same option of `prepare`."""
    loader: LoaderConfig = LoaderConfig()
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Samples per batch and process; a step has `trainer.accumulate_batches` of them."""
    num_workers: Workers = 1
    """Processes that load samples; 0 loads them in the training process."""
    worker_timeout: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Seconds without any batch from them after which a run ends."""

    @property
    def label_folder(self) -> Path:
        return self.labels or self.dataroot / LABEL_FOLDER

    @property
    def truth_folder(self) -> Path:
        return self.gts or self.dataroot / "gts"


class TrainerConfig(Config):
    """How long to train, and on what."""

    max_epochs: Epochs = 12
    """Passes over the training key frames. There is no limit in steps: Lightning resumes such a run at the wrong place of an epoch."""
    initial_network: Path | None = None
    """A network whose weights training begins with, all of them: a file of one, a checkpoint, or `zoo/<name>`. It must be the same network
    on the same grid, but may lack the parts that correct another's work (`image_reader.stereo`, `image_reader.camera_aware`, `temporal`);
    `network.backbone.weights` are not read then."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto"
    """What to train on: `gpu` and `cuda` are CUDA devices, the only ones besides CPUs that the renderer runs on; `auto` takes them where
    there are any."""
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes per node."""
    num_nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Nodes."""
    checkpoint_epochs: Epochs = 1
    """A checkpoint to resume from is written every so many epochs."""
    checkpoint_steps: Steps = 0
    """And every so many steps, for long epochs; 0 writes none within epochs."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=10_000)] = 2
    """How many of them are kept, the newest; those within epochs count for themselves."""
    validate_epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Every so many epochs the losses are measured on the scenes kept back from training (their 2D labels, never 3D truth); 0 measures
    none."""
    best_by: str = "val/loss"
    """The number by which `checkpoints/best.ckpt` is chosen where there is such a measurement, `val/loss` or `val/loss/<name of a loss>`
    of the kept-back scenes or the last step's without `val/`; the smallest is best."""
    sync_batchnorm: bool = False
    """Whether BatchNorm counts the images of all processes instead of each process's own. CUDA only."""
    accumulate_batches: Annotated[int, Field(ge=1, le=4096)] = 1
    """Batches whose gradients an optimizer step adds up before it learns from them, as if they were one batch; all that counts steps counts
    optimizer steps. What is left over at the end of an epoch makes a smaller step."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes the activations of backbone, volume encoder and head again instead of keeping them: less memory,
    more time, the same results. It is no property of the network: its file is read with or without."""
    predict_all_cells: bool = True
    """Whether a step predicts all cells of the grid, also those that no ray meets and no loss asks for. Without them it takes less memory
    (the less, the emptier the network has learned space to be), about as much time, and has the same losses and gradients but for rounding.
    A head that cannot choose cells, and losses that look at all of them, have them all in any case."""
    deterministic: bool = False
    """Whether operations repeat exactly on CUDA, too, wherever torch has such ones, which are slower; it names those that have none. On a
    CPU runs repeat anyway."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format in which backbone, neck and volume encoder are trained. Projections, evidence, the head, rendering, losses and
    prediction are always float32; convolutions of float32 are TF32 on GPUs that have it, as torch lets cuDNN choose."""
    picture_steps: Steps = 0
    """Every so many steps, and after the last, what the network makes of a key frame that is kept back from training is drawn into the
    run's `pictures/`, and goes to TensorBoard where that is a logger; 0 draws nothing. It is the same training with or without."""
    loggers: tuple[Tracker, ...] = ()
    """Where the metrics of each step go besides `logs/metrics.csv`: `tensorboard` needs the extra `tracking`, `wandb` the extra `wandb`."""


class ExperimentConfig(Config):
    """Everything that decides what is trained."""

    name: Annotated[str, AfterValidator(partial(check_name, what="name"))]
    """Names the run; results go to `work_dirs/<name>` by default."""
    seed: Seed = 0
    """Seeds initial weights, sampling and augmentation."""
    data: DataConfig = DataConfig()
    grid: GridConfig = GridConfig()
    """What is predicted: range and cells. Truth of Occ3D can only score Occ3D's own."""
    network: NetworkConfig = NetworkConfig()
    render: RenderConfig = RenderConfig()
    objective: SerializeAsAny[ObjectiveConfig] = ObjectiveConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    trainer: TrainerConfig = TrainerConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def _check(self) -> ExperimentConfig:
        """Refuse what each part alone allows and the others cannot work with."""
        head, objective = self.network.head, self.objective
        if head.num_classes != NUM_CLASSES:
            raise ValueError(f"network.head.num_classes is {head.num_classes}, labels have {NUM_CLASSES} classes")
        coarsening, voxels = self.network.lift.coarsening, self.grid.voxels
        if any(count % coarsening for count in voxels.shape):
            raise ValueError(
                f"network.lift.coarsening is {coarsening}, expected a divisor of the grid's {' × '.join(map(str, voxels.shape))}"
            )
        sides, stride = self.data.loader.image_size, self.network.neck.stride
        if any(side % stride for side in sides):
            nearest = " × ".join(str(max(1, round(side / stride)) * stride) for side in sides)
            raise ValueError(
                f"data.loader.image_size is {sides[0]} × {sides[1]}, expected multiples of network.neck.stride, {stride}, such as "
                f"{nearest}: features would not cover the image evenly"
            )
        largest = _largest_scale(voxels.cell_size)
        if isinstance(head, GaussianHeadConfig) and head.largest_scale > largest:
            name = "max_scale" if head.learn_scales else "initial_scale"
            raise ValueError(
                f"network.head.{name} is {head.largest_scale} m, expected at most {largest:g} m with a grid.cell_size of "
                f"{voxels.cell_size} m, or rays meet too much to render"
            )
        if objective.distortion.weight and not isinstance(head, DensityHeadConfig):
            raise ValueError(
                f"objective.distortion.weight is {objective.distortion.weight}, but network.head.kind {head.kind} renders no distortion; "
                "expected kind density, or weight 0"
            )
        if (loaded := self.data.loader.previous_frames) != (needed := self.network.previous_frames):
            raise ValueError(
                f"data.loader.previous_frames is {loaded}, expected {needed}: that many earlier frames network.temporal.frames "
                f"({self.network.temporal.frames}) and network.image_reader.stereo.kind ({self.network.image_reader.stereo.kind}) look at"
            )
        names = [prefix + name for prefix in ("val/", "") for name in ("loss", *(f"loss/{name}" for name in objective.in_use))]
        if self.trainer.validate_epochs and self.trainer.best_by not in names:
            raise ValueError(f"trainer.best_by is {self.trainer.best_by}, expected one of {', '.join(names)}")
        if self.optimization.image_steps and all(loss.needs_volume for loss in objective.in_use.values()):
            of_images = ", ".join(f"objective.{name}" for name, loss in objective.losses.items() if not loss.needs_volume)
            raise ValueError(
                f"optimization.image_steps is {self.optimization.image_steps}, but none of {of_images}, which train the image branch "
                "alone, has a weight"
            )
        return self


def _largest_scale(cell_size: float) -> float:
    """Return the largest scale that rays can search for in cells of that size, in whole tenths of a millimetre; metres both."""
    return math.floor(1e4 * (MAX_REACH_CELLS * cell_size - RADIUS_MARGIN) / REACH_OF_A_SCALE) / 1e4


def load_config(path: Path) -> ExperimentConfig:
    """Return a configuration: what the function `config` of a Python file makes, or what a `.json` file holds, as runs leave one.

    What is no file may be the name of one of the package's, as `find_config` takes it. `ValueError` says in one line whatever is wrong
    with the file, be it damaged or no configuration at all.
    """
    path = find_config(path)
    try:
        if path.suffix == ".json":
            return ExperimentConfig.model_validate(read_json(path, dict[str, Any], what="a configuration in JSON"))
        made = _run(path)
    except ValidationError as error:
        raise ValueError(f"{path}: {describe_validation(error)}") from error
    if not isinstance(made, ExperimentConfig):
        raise ValueError(f"{path}: config() returned {type(made).__name__}; it must return an ExperimentConfig")
    return made


def _run(path: Path) -> object:
    """Run a Python file and return what its function `config` returns."""
    source = read_bytes(path, limit=LARGEST_CONFIG)
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else first_line(error)
        raise ValueError(f"{path}{line}: {reason}; a configuration is Python with a function config(), or a run's config.json") from error
    module = ModuleType("splattingocc_config")
    module.__file__ = str(path)
    # Where dataclasses and pydantic look for what annotations name
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
        if not callable(make := getattr(module, "config", None)):
            raise ValueError("has no function config() that returns an ExperimentConfig")
        return make()
    except ValidationError:
        raise
    except SystemExit as error:
        raise ValueError(f"{path}: calls sys.exit({error.code!r}); a configuration only returns an ExperimentConfig") from error
    except Exception as error:
        kind, said = type(error).__name__, first_line(error)
        raise ValueError(f"{path}: {said if said == kind or kind == 'ValueError' else f'{kind}: {said}'}") from error


def build_index(config: DataConfig, work_dir: Path | None) -> Index:
    """Read the index of the data; its cache lies in the folder of the run, or beside the data where there is none."""
    return read_index(config.dataroot, config.version, cache_dir=None if work_dir is None else work_dir / "index")


def open_masks(config: DataConfig, index: Index) -> VehicleMasks | None:
    return None if config.vehicle_masks is None else VehicleMasks.open(config.vehicle_masks, index)


def build_network(config: ExperimentConfig, *, initial_weights: bool = True) -> OccupancyNetwork:
    """Build the network. Who fills all of it from a checkpoint wants no `initial_weights`, whose file need not be here any more."""
    network = config.network
    if not initial_weights and isinstance(network.backbone, WeightsConfig):
        network = network.model_copy(update={"backbone": network.backbone.model_copy(update={"weights": None})})
    return OccupancyNetwork(network, config.grid.voxels)


def build_prediction_set(data: DataConfig, index: Index, positions: Sequence[int]) -> PredictionSet:
    """Return key frames as seen at test time. One that `prepare` skipped, because files are missing, is no earlier frame of another."""
    skipped = skipped_key_frames(data) if data.loader.previous_frames else {}
    if skipped:
        tokens = [index.tokens[position] for position in positions]
        left = [position for position, token in enumerate(index.tokens) if token not in skipped or token in tokens]
        index = index.only(left)
        positions = [index.position_of(token) for token in tokens]
    return PredictionSet(index, data.dataroot, data.loader, positions, masks=open_masks(data, index))


def skipped_key_frames(data: DataConfig) -> dict[str, str]:
    """Return the key frames of which `prepare` found files missing, by token, and which; none where there are no labels."""
    folder = data.label_folder
    return LabelStore.open(folder).manifest.skipped if (folder / MANIFEST_NAME).exists() else {}


def build_prediction_loader(config: ExperimentConfig, index: Index, positions: Sequence[int]) -> DataLoader:
    data = config.data
    dataset = build_prediction_set(data, index, positions)
    return prediction_loader(dataset, num_workers=data.num_workers, worker_timeout=data.worker_timeout)
