"""A network as one ONNX file: images and calibration in, occupancy out, read-out included."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from splattingocc.experiment import ExperimentConfig
from splattingocc.files import sha256_of, write_atomically
from splattingocc.geometry.cameras import Cameras
from splattingocc.models.all_views import collect_all_views, lift_all_views
from splattingocc.models.cell_head import MAX_OPACITY
from splattingocc.models.evidence import EvidenceSource
from splattingocc.models.gaussian_head import OFFSET_REACH, GaussianHeadConfig
from splattingocc.models.lift.sampling import SamplingLift, SamplingLiftConfig
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.made_up_sample import made_up_sample
from splattingocc.pipeline.prediction import open_network
from splattingocc.provenance import commit
from splattingocc.splatting.aligned_read_out import AlignedReadOut
from splattingocc.splatting.field import Occupancy, OccupancyThreshold
from splattingocc.struct import stack
from splattingocc.taxonomy import CLASSES

OPSET = 20
"""Of ONNX: the first that samples volumes as the evidence does (`GridSample` with three axes of space)."""
NEEDED = ("onnx", "onnxscript")
INPUTS = ("images", "K", "cam_from_ego")
OUTPUTS = ("probabilities", "semantics")


@dataclass(frozen=True)
class ExportedFile:
    """What was written."""

    path: Path
    opset: int
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{self.path}: ONNX opset {self.opset}, {self.size / 1e6:.1f} MB; takes {', '.join(INPUTS)}, gives {', '.join(OUTPUTS)}"


class ImagesToOccupancy(nn.Module):
    """A network of one frame with its read-out, in operations that other runtimes know: plain-torch twins stand where kernels are.

    Every view is taken for one that a camera took: black images of `Cameras.nowhere` change nothing, because no cell lies before them.
    """

    def __init__(self, network: OccupancyNetwork, config: ExperimentConfig, threshold: OccupancyThreshold) -> None:
        """Raises `ValueError` for parts that have no twin."""
        super().__init__()
        _check(config)
        head = config.network.head
        assert isinstance(head, GaussianHeadConfig)
        self.network, self.image_size, self.threshold = network, config.data.loader.image_size, threshold
        self.read_out = AlignedReadOut(
            network.grid,
            network.head.centers,
            threshold=threshold.lowest,
            largest_scale=head.largest_scale,
            offset=OFFSET_REACH if head.learn_offsets else 0.0,
            peak=MAX_OPACITY,
        )

    def forward(
        self, images: Float[Tensor, "view 3 height width"], K: Float[Tensor, "view 3 3"], cam_from_ego: Float[Tensor, "view 4 4"]
    ) -> tuple[Float[Tensor, "x y z"], UInt8[Tensor, "x y z"]]:
        """Return probabilities and semantics of one key frame; images are of the network's size, RGB in [0, 1], `K` is of these."""
        network, cameras = self.network, Cameras(K[None], cam_from_ego[None], self.image_size)
        reading = network.image_reader(network.neck(network.backbone(images))[None], cameras)
        assert isinstance(network.lift, SamplingLift)
        volume = network.volume_encoder(lift_all_views(network.lift, reading, cameras[0]))
        source = EvidenceSource.of(reading, cameras, network.config.image_reader, network.grid.cell_size)
        evidence = collect_all_views(source.pixels[0], cameras[0], source.bins, network.head.centers, source.cell_size)
        probabilities, classes = self.read_out(network.head(volume, stack([evidence]))[0])
        if not self.threshold.is_of_all:
            classes = self.threshold.applied_to(Occupancy(probabilities, classes)).semantics
        return probabilities, classes


def _check(config: ExperimentConfig) -> None:
    network = config.network
    if network.previous_frames:
        raise ValueError(f"the network looks at {network.previous_frames} earlier frames; only networks of one frame can be exported")
    if not isinstance(network.head, GaussianHeadConfig):
        raise ValueError(f"network.head.kind is {network.head.kind}; only gaussians can be exported")
    if not isinstance(network.lift, SamplingLiftConfig):
        raise ValueError(f"network.lift.kind is {network.lift.kind}; only sampling can be exported")


def export_onnx(config: ExperimentConfig, checkpoint: Path, path: Path, *, num_views: int = 6, half: bool = False) -> ExportedFile:
    """Write a trained network with its threshold as an ONNX file for any rig of so many cameras.

    With `half`, weights are stored as float16, and computed with as float32. What the file was made from, and what of it a caller needs to
    know (grid, classes, image size, thresholds), is in its metadata.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"exporting needs {', '.join(missing)}, which is not installed: pip install 'splattingocc[export]'")
    network, threshold = open_network(config, checkpoint, torch.device("cpu"))
    if threshold is None:
        raise ValueError(f"{checkpoint}: has no threshold, which only the network of a finished training has")
    # Before anything that takes a minute
    _check(config)
    model = translated(ImagesToOccupancy(network, config, threshold).eval(), config, num_views)
    if half:
        store_halved(model)
    loader, grid = config.data.loader, config.grid.voxels
    about: dict[str, Any] = {
        "splattingocc": {"commit": commit(), "network_sha256": sha256_of(checkpoint), "config": config.name},
        "threshold": threshold.others,
        "ground_threshold": threshold.ground,
        "image_size": loader.image_size,
        "vertical_position": loader.vertical_position,
        "grid": {"lower": grid.lower, "upper": grid.upper, "cell_size": grid.cell_size},
        "classes": CLASSES,
    }
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))
    return ExportedFile(path, OPSET, path.stat().st_size)


def translated(whole: ImagesToOccupancy, config: ExperimentConfig, num_views: int) -> Any:
    """Return a network as an ONNX model; what its operations become does not depend on the rig that it is followed with."""
    sample = made_up_sample(config)
    views = [view % sample.views.images.shape[2] for view in range(num_views)]
    images, cameras = sample.views.images[0, 0][views], sample.views.cameras[0, 0][torch.tensor(views)]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            whole,
            (images, cameras.K, cameras.cam_from_ego),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporting tells its developers from the user; errors are raised in any case."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def store_halved(model: Any) -> None:
    """Store the weights of a model as float16, each with a cast to float32 behind it; runtimes do that once, when they load it.

    Places of cells are constants, too, and stay as they are: half of their digits would move a cell by centimetres.
    """
    onnx, numpy_helper = (importlib.import_module(name) for name in ("onnx", "onnx.numpy_helper"))
    casts = []
    for constant in model.graph.initializer:
        name, values = constant.name, numpy_helper.to_array(constant)
        if not name.endswith(".weight") or constant.data_type != onnx.TensorProto.FLOAT or values.ndim < 2:
            continue
        halved = values.astype("float16")
        if not np.isfinite(halved).all():
            raise ValueError(f"weight {name} has numbers up to {np.abs(values).max():.3g}, float16 ends at 65504; expected without --fp16")
        constant.CopyFrom(numpy_helper.from_array(halved, f"{name}_float16"))
        casts.append(onnx.helper.make_node("Cast", [constant.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
