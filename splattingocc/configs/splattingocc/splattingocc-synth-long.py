"""The demo's method with more of what two CPU cores can give: three hundred streets, ten times the steps, an encoder that has seen images.

    splattingocc synth --out data/synthetic-long --scenes 324 --val-scenes 20 --frames 2 --image-size 180 320
    splattingocc prepare --dataroot data/synthetic-long
    splattingocc train splattingocc-synth-long --auto-resume --network.backbone.weights mobilenet_v2-b0353104.pth
    splattingocc test splattingocc-synth-long work_dirs/splattingocc-synth-long/network.safetensors --eval all

Initialisation: torchvision's ImageNet weights of MobileNetV2 (docs/training.md says where from); without `--network.backbone.weights` it
begins with random ones. A MobileNetV2, because its network in 16-bit numbers is small enough for the zoo. 4,832 steps, 3,600 of them of
the image branch alone, which cost a third and teach what it lacks most, depth; an hour on one core. The zoo's network has had them after
two earlier trainings on 102 of these streets, and a fourth training on 198 others (its card says how); from the ImageNet weights on they
have not been tried. Scores are in docs/results.md.

These are streets of seed 0 and the demo's are of seed 1, so what is trained here may be scored on the demo's. Scene n of a seed is the same
street in every world: on other worlds of seed 0 it has learned from scenes 9001 to 9304.
"""

from pathlib import Path

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.loaders import LoaderConfig
from splattingocc.engine.options import OptimizationConfig
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.network import NetworkConfig
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
                label_frames=3,
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
            lift=SamplingLiftConfig(channels=16, coarsening=2),
            volume_encoder=UNet3dConfig(channels=(16, 32, 64), blocks=(1, 1, 2)),
        ),
        optimization=OptimizationConfig(learning_rate=2e-3, warmup_steps=30, image_steps=3600),
        trainer=TrainerConfig(max_epochs=8, accelerator="auto", predict_all_cells=False),
    )
