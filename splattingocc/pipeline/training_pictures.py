"""The key frame by which a training is watched: one kept back from it, with its 2D labels. Nothing here can reach 3D truth."""

from __future__ import annotations

from dataclasses import dataclass

from splattingocc.data.key_frames import Index
from splattingocc.data.labelled_rays import LabelledRays
from splattingocc.engine.inference import predict_fields
from splattingocc.evaluation.calibrate import ThresholdCalibration
from splattingocc.experiment import ExperimentConfig, build_prediction_set
from splattingocc.models.network import OccupancyNetwork
from splattingocc.pipeline.camera_maps import camera_maps, front_of
from splattingocc.struct import stack
from splattingocc.visualization.grids import draw_grid, paint_grids
from splattingocc.visualization.panels import sheet_of_training
from splattingocc.visualization.sheet import Heading, Sheet


@dataclass(frozen=True)
class WatchedFrame:
    """A key frame, and the labels that tell of its volume."""

    config: ExperimentConfig
    index: Index
    position: int
    rays: LabelledRays
    """Those that choose the threshold of the picture, because a network in training has none yet."""

    def draw(self, network: OccupancyNetwork, step: int) -> Sheet:
        """Draw the camera to the front, its labels and renderings, and the occupancy at the threshold that fits the frame's labels best."""
        config, key_frame = self.config, self.index[self.position]
        ((_, field),) = predict_fields(network, [stack([build_prediction_set(config.data, self.index, [self.position])[0]])])
        calibration = ThresholdCalibration(config.calibration, config.grid.voxels)
        probabilities = field.read_out(config.grid.voxels, threshold=0.5).probabilities.cpu()
        calibration.update(probabilities, *self.rays)
        chosen = calibration.compute()
        (camera,) = camera_maps(config, field, key_frame, views=[front_of(key_frame)])
        (painted,) = paint_grids(chosen.occupancy_threshold.read_out(field, config.grid.voxels).semantics.cpu(), config.grid.voxels)
        details = (
            f"{key_frame.scene}, key frame {key_frame.index_in_scene}",
            f"threshold {chosen.threshold:.4g}, best for its 2D labels: F1 of occupied cells {chosen.f1:.3f}",
            *([] if chosen.ground_ratio == 1 else [f"ground drawn from {chosen.occupancy_threshold.ground:.4g} on"]),
        )
        heading = Heading(f"{config.name}, step {step}", details)
        return sheet_of_training(camera, draw_grid(painted), heading)
