"""Every example runs on the synthetic data set, as a newcomer would run it."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False)


def test_fitting_one_frame_lowers_the_loss_and_scores_held_out_rays(synthetic_dataroot: Path):
    result = run("01_fit_one_frame.py", "--dataroot", str(synthetic_dataroot), "--frame", "1", "--steps", "4")
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", result.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    scores = dict(re.findall(r"^  (\w+) +(\d+\.\d+)$", result.stdout, flags=re.MULTILINE))
    assert set(scores) == {"median_relative_error", "class_accuracy", "mass_in_front", "mass_at_hit"}
    assert all(0 <= float(score) <= 1 for score in scores.values())


def test_a_frame_that_is_not_there_is_named(synthetic_dataroot: Path):
    result = run("01_fit_one_frame.py", "--dataroot", str(synthetic_dataroot), "--frame", "99")
    assert result.returncode != 0
    assert result.stderr.strip() == "--frame 99: v1.0-mini has key frames 0 to 5"
