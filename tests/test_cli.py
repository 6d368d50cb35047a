import json
from pathlib import Path

import numpy as np
import pytest

from splattingocc.cli import main
from splattingocc.data.nuscenes import read_index


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
