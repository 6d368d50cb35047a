from pathlib import Path

import pytest
import torch

from splattingocc import doctor
from splattingocc.cli import main


def found(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_this_installation_is_whole_and_its_kernels_give_the_right_result(capsys: pytest.CaptureFixture):
    findings = found(doctor.examine())
    assert findings["torch"].found == torch.__version__
    assert findings["Warp on cpu"].found == "compiled a kernel, ran it, and the result is right"
    assert not any(finding.is_problem for finding in findings.values())
    main(["doctor"])
    assert "Warp on cpu" in capsys.readouterr().out


def test_a_missing_package_is_a_problem_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    finding = found(doctor.examine())["no-such-package"]
    assert finding.is_problem
    assert finding.advice == "pip install -e ."
    with pytest.raises(SystemExit, match="something that is needed does not work: no-such-package"):
        main(["doctor"])


def test_a_kernel_with_a_wrong_result_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    right = doctor.cast_first_hit
    monkeypatch.setattr(doctor, "cast_first_hit", lambda occupied, grid, rays: right(occupied.flip(0), grid, rays))
    finding = found(doctor.examine())["Warp on cpu"]
    assert finding.is_problem
    assert "came out as" in finding.found


def test_data_are_counted_and_what_is_missing_is_named(tiny_dataroot: Path, tmp_path: Path):
    findings = found(doctor.examine(tiny_dataroot, "v1.0-tiny"))
    assert findings[str(tiny_dataroot / "v1.0-tiny")].found == "8 key frames of 3 scenes: train 6, val 2"
    assert findings["images and sweeps"].found == "all that were looked for are there"
    assert "splattingocc prepare" in str(findings["2D labels"].advice)
    assert findings["Occ3D truth"].found == "none"
    assert found(doctor.examine(tmp_path / "nowhere"))[str(tmp_path / "nowhere")].is_problem
    (tmp_path / "v1.0-mini").mkdir()
    assert "without scene.json, sample.json" in found(doctor.examine(tmp_path, "v1.0-mini"))[str(tmp_path / "v1.0-mini")].found
