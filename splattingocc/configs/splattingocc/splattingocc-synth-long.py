"""The demo's method with more of what two CPU cores can give: two hundred streets of eight key frames, thirteen times the steps.

    splattingocc synth --out data/synthetic-long --scenes 220 --val-scenes 20 --frames 8 --image-size 180 320
    splattingocc prepare --dataroot data/synthetic-long
    splattingocc train splattingocc-synth-long --auto-resume --network.backbone.weights mobilenet_v2-b0353104.pth
    splattingocc test splattingocc-synth-long work_dirs/splattingocc-synth-long/network.safetensors --eval all

Initialisation: torchvision's ImageNet weights of MobileNetV2 (docs/training.md says where from); without `--network.backbone.weights` it
begins with random ones. A MobileNetV2, because its network in 16-bit numbers is small enough for the zoo. 4,752 steps, 2,400 of them of
the image branch alone, which cost a third and teach what it lacks most, depth; by the pace of the zoo's fifth training about an hour and a
half on one core. The zoo's network has had its steps in six trainings (its card says how), the last two with depth from motion, the last
with `--data.loader.image-size 128 320`; from the ImageNet weights on this recipe has not been tried. The threshold is the one that stops
rays where labels do: the demo's way to choose it is too high for a network of so many steps (docs/experiments.md); ground has half of it,
as there. Scores are in docs/results.md.

These are streets of seed 0 and the demo's are of seed 1, so what is trained here may be scored on the demo's. Scene n of a seed is the same
street in every world: on other worlds of seed 0 it has learned from scenes 9001 to 9200.
"""

from pathlib import Path

from splattingocc.experiment import ExperimentConfig, load_config


def config() -> ExperimentConfig:
    base = load_config(Path("splattingocc-synth-stereo"))
    return base.model_copy(
        update={
            "name": "splattingocc-synth-long",
            "data": base.data.model_copy(update={"dataroot": Path("data/synthetic-long")}),
            "optimization": base.optimization.model_copy(update={"warmup_steps": 30, "image_steps": 2400}),
            "trainer": base.trainer.model_copy(update={"max_epochs": 3}),
            "calibration": base.calibration.model_copy(update={"criterion": "rays"}),
        }
    )
