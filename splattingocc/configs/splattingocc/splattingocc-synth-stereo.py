"""What the demo trains: `splattingocc-synth` with depth from motion, on streets of four key frames.

Depth is what images of this size lack most: the frame before tells how far away things are that stand still. Labels are those of up to
seven key frames, and the threshold is the one that separates the cells that their rays hit from those that they cross; of scenes of two key
frames it would be too high. Ground is read out at half of it. Figures with three seeds are in docs/experiments.md.

    splattingocc synth --out data/synthetic --scenes 30 --val-scenes 6 --frames 4 --image-size 180 320 --seed 1
    splattingocc prepare --dataroot data/synthetic
    splattingocc train splattingocc-synth-stereo --network.backbone.weights mobilenet_v2-b0353104.pth

Initialisation as of `splattingocc-synth.py`.
"""

from pathlib import Path

from splattingocc.evaluation.calibrate import CalibrationConfig
from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.models.stereo import CostVolumeConfig


def config() -> ExperimentConfig:
    base = load_config(Path("splattingocc-synth"))
    loader = base.data.loader.model_copy(update={"label_frames": 7, "previous_frames": 1})
    reader = base.network.image_reader.model_copy(update={"stereo": CostVolumeConfig(channels=16)})
    return base.model_copy(
        update={
            "name": "splattingocc-synth-stereo",
            "data": base.data.model_copy(update={"loader": loader}),
            "network": base.network.model_copy(update={"image_reader": reader}),
            "optimization": base.optimization.model_copy(update={"image_steps": 264}),
            "trainer": base.trainer.model_copy(update={"max_epochs": 4}),
            "calibration": CalibrationConfig(criterion="cells", ground_ratio=0.5),
        }
    )
