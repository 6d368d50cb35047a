import json

import numpy as np
import pytest
import torch

from splattingocc.evaluation.predictions import CachedFrame, PredictionWriter, Provenance, read_predictions

SHAPE = (200, 200, 16)
FRAMES = [CachedFrame("scene-0001", 0, "aaaa"), CachedFrame("scene-0001", 1, "bbbb"), CachedFrame("scene-0002", 0, "cccc")]


def _provenance(**changes):
    values = {"config": "tiny", "config_hash": "c0", "checkpoint_hash": "d0", "commit": "e0", "threshold": 0.25, "split": "val"}
    return Provenance(**{**values, **changes})


def _semantics(seed):
    return torch.randint(0, 18, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def cache_dir(tmp_path):
    writer = PredictionWriter(tmp_path, _provenance())
    for seed, frame in enumerate(FRAMES):
        writer.write(frame, _semantics(seed))
    writer.finish(FRAMES)
    return tmp_path


def _edit_manifest(directory, **changes):
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_written_is_read_back_in_order(cache_dir):
    cache = read_predictions(cache_dir)
    assert len(cache) == 3
    assert cache.manifest.provenance == _provenance()
    for seed, prediction in enumerate(cache):
        assert prediction.frame == FRAMES[seed]
        assert torch.equal(prediction.semantics, _semantics(seed))
        assert prediction.probabilities is None


def test_files_are_laid_out_by_scene_and_hold_the_occ3d_key(cache_dir):
    with np.load(cache_dir / "scene-0001" / "001_bbbb.npz") as archive:
        assert archive["semantics"].dtype == np.uint8
        assert archive["semantics"].shape == SHAPE


def test_probabilities_come_back_in_half_precision(tmp_path):
    writer = PredictionWriter(tmp_path, _provenance())
    probabilities = torch.rand(SHAPE)
    writer.write(FRAMES[0], _semantics(0), probabilities)
    read = next(iter(writer.finish(FRAMES[:1]))).probabilities
    assert read is not None
    assert torch.equal(read, probabilities.half())


def test_no_unfinished_file_stays_behind(cache_dir):
    assert sorted(path.name for path in cache_dir.rglob("*") if path.is_file()) == [
        "000_aaaa.npz", "000_cccc.npz", "001_bbbb.npz", "manifest.json",
    ]  # fmt: skip


def test_an_interrupted_cache_is_refused_and_goes_on_where_it_stopped(tmp_path):
    first = PredictionWriter(tmp_path, _provenance())
    first.write(FRAMES[0], _semantics(0))
    with pytest.raises(ValueError, match=r"manifest\.json: no such file; the cache is incomplete"):
        read_predictions(tmp_path)
    with pytest.raises(ValueError, match=r"incomplete, 2 of 3 frames are missing, the first is scene-0001/001_bbbb\.npz"):
        first.finish(FRAMES)
    second = PredictionWriter(tmp_path, _provenance())
    assert [second.has(frame) for frame in FRAMES] == [True, False, False]


def test_opening_a_finished_cache_for_writing_makes_it_incomplete(cache_dir):
    PredictionWriter(cache_dir, _provenance())
    with pytest.raises(ValueError, match="incomplete"):
        read_predictions(cache_dir)


@pytest.mark.parametrize("changes", [{"checkpoint_hash": "d1"}, {"threshold": 0.5}])
def test_a_frame_of_another_checkpoint_or_threshold_is_predicted_again(cache_dir, changes):
    assert not PredictionWriter(cache_dir, _provenance(**changes)).has(FRAMES[0])


def test_a_truncated_frame_is_predicted_again_and_refused_by_name(cache_dir):
    path = cache_dir / FRAMES[1].relative_path
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"001_bbbb\.npz: not a readable prediction"):
        read_predictions(cache_dir)
    assert not PredictionWriter(cache_dir, _provenance()).has(FRAMES[1])


def test_a_missing_frame_is_refused_by_name(cache_dir):
    (cache_dir / FRAMES[2].relative_path).unlink()
    with pytest.raises(ValueError, match=r"incomplete, 1 of 3 frames are missing, the first is scene-0002/000_cccc\.npz"):
        read_predictions(cache_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_hash": "d1"}, "made by checkpoint d1, the cache by d0; .* mixed from two checkpoints"),
        ({"threshold": 0.5}, "made with threshold 0.5, the cache with 0.25"),
    ],
)
def test_a_cache_mixed_from_two_checkpoints_or_thresholds_is_refused(cache_dir, changes, message):
    manifest = (cache_dir / "manifest.json").read_bytes()
    PredictionWriter(cache_dir, _provenance(**changes)).write(FRAMES[1], _semantics(1))
    (cache_dir / "manifest.json").write_bytes(manifest)
    with pytest.raises(ValueError, match=rf"001_bbbb\.npz: {message}"):
        read_predictions(cache_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taxonomy": "semantic-kitti"}, "taxonomy is 'semantic-kitti', only 'occ3d-nuscenes-17'"),
        ({"format_version": 1}, "format_version is 1, this version reads 2"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"frames": 3}, "not a manifest"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(cache_dir, changes, message):
    _edit_manifest(cache_dir, **changes)
    with pytest.raises(ValueError, match=rf"manifest\.json: .*{message}"):
        read_predictions(cache_dir)


def test_a_frame_listed_twice_is_refused(cache_dir):
    frames = json.loads((cache_dir / "manifest.json").read_text())["frames"]
    _edit_manifest(cache_dir, frames=[*frames, frames[0]])
    with pytest.raises(ValueError, match="token aaaa is listed twice"):
        read_predictions(cache_dir)


@pytest.mark.parametrize(
    ("semantics", "message"),
    [
        (np.zeros((200, 200, 15), np.uint8), "should be uint8"),
        (np.zeros(SHAPE, np.int32), "semantics are int32"),
        (np.full(SHAPE, 18, np.uint8), "semantics hold class 18"),
    ],
)
def test_a_frame_of_another_layout_is_refused_by_name(cache_dir, semantics, message):
    path = cache_dir / FRAMES[0].relative_path
    np.savez(path, semantics=semantics, checkpoint_hash=np.array("d0"), threshold=np.array(0.25))
    with pytest.raises(ValueError, match=rf"000_aaaa\.npz: .*{message}"):
        list(read_predictions(cache_dir))


def test_a_frame_that_does_not_say_where_it_came_from_is_refused(cache_dir):
    np.savez(cache_dir / FRAMES[0].relative_path, semantics=np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="does not say which checkpoint"):
        read_predictions(cache_dir)


def test_the_writer_refuses_a_class_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="class 200"):
        PredictionWriter(tmp_path, _provenance()).write(FRAMES[0], torch.full(SHAPE, 200, dtype=torch.uint8))
