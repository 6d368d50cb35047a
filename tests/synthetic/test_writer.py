"""The data set on disk."""

from pathlib import Path


def test_a_data_set_has_its_manifest(synthetic_dataroot: Path):
    assert (synthetic_dataroot / "synthetic.json").exists()
