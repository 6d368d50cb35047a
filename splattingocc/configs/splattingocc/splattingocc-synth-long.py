"""The demo's method with more of what two CPU cores can give: two hundred streets of eight key frames, thirteen times the steps.

    splattingocc synth --out data/synthetic-long --scenes 220 --val-scenes 20 --frames 8 --image-size 180 320
    splattingocc prepare --dataroot data/synthetic-long
    splattingocc train splattingocc-synth-long --auto-resume --network.backbone.weights mobilenet_v2-b0353104.pth
    splattingocc test splattingocc-synth-long work_dirs/splattingocc-synth-long/network.safetensors --eval all

Initialisation: torchvision's ImageNet weights of MobileNetV2 (docs/training.md says where from); without `--network.backbone.weights` it
begins with random ones. A MobileNetV2, because its network in 16-bit numbers is small enough for the zoo. 4,752 steps, 2,400 of them of
the image branch alone, which cost a third and teach what it lacks most, depth; an hour and a half on one core. The zoo's network has had
its steps in five trainings (its card says how), the last of them with depth from motion; from the ImageNet weights on this recipe has
not been tried. The threshold is the one that stops rays where labels do: the demo's way to choose it is too high for a network of so many
steps (docs/experiments.md). Scores are in docs/results.md.

These are streets of seed 0 and the demo's are of seed 1, so what is trained here may be scored on the demo's. Scene n of a seed is the same
street in every world: on other worlds of seed 0 it has learned from scenes 9001 to 9200.
"""

from pathlib import Path

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.loaders import LoaderConfig
from splattingocc.engine.options import OptimizationConfig
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.image_reader import ImageReaderConfig
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.models.volume_encoder import UNet3dConfig


def config() -> ExperimentConfig:
    return ExperimentConfig(
        name="splattingocc-synth-long",
        data=DataConfig(
            dataroot=Path("data/synthetic-long"),
            version="v1.0-mini",
            loader=LoaderConfig(
                image_size=(96, 240),
                num_rays=10_000,
                held_out_fraction=0.1,
                label_frames=7,
                previous_frames=1,
                augment=AugmentConfig(
                    max_zoom=1.2,
                    flip_probability=0.5,
                    brightness=0.2,
                    contrast=0.2,
                    saturation=0.2,
                    mirror_x_probability=0.5,
                    mirror_y_probability=0.5,
                ),
            ),
            batch_size=1,
            num_workers=1,
        ),
        network=NetworkConfig(
            backbone=MobileNetV2Config(),
            neck=FPNConfig(channels=64, stride=4),
            image_reader=ImageReaderConfig(stereo=CostVolumeConfig(channels=16)),
            lift=SamplingLiftConfig(channels=16, coarsening=2),
            volume_encoder=UNet3dConfig(channels=(16, 32, 64), blocks=(1, 1, 2)),
        ),
        optimization=OptimizationConfig(learning_rate=2e-3, warmup_steps=30, image_steps=2400),
        trainer=TrainerConfig(max_epochs=3, accelerator="auto", predict_all_cells=False),
    )
