import json
import re

import numpy as np
import pytest
import torch

from splattingocc.evaluation.predictions import (
    CachedFrame,
    PredictionWriter,
    Provenance,
    open_predictions,
    read_grid,
    read_predictions,
)
from splattingocc.files import write_sealed_json

SHAPE = (200, 200, 16)
FRAMES = [CachedFrame("scene-0001", 0, "aaaa"), CachedFrame("scene-0001", 1, "bbbb"), CachedFrame("scene-0002", 0, "cccc")]


def _provenance(**decided_by):
    decided_by = {"checkpoint": "d0", "threshold": "0.25", "split": "val", "data.loader.image_size": "(32, 64)", **decided_by}
    return Provenance("tiny", checkpoint_hash="d0", commit="e0", threshold=0.25, split="val", decided_by=decided_by)


def _begun(directory, *, fresh=False, **decided_by):
    writer = PredictionWriter(directory, _provenance(**decided_by))
    writer.begin(fresh=fresh)
    return writer


def _semantics(seed):
    return torch.randint(0, 18, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def cache_dir(tmp_path):
    writer = _begun(tmp_path)
    for seed, frame in enumerate(FRAMES):
        writer.write(frame, _semantics(seed))
    writer.finish(FRAMES)
    return tmp_path


def _edit_manifest(directory, **changes):
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    write_sealed_json(path, {**content, **changes})


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
    writer = _begun(tmp_path)
    probabilities = torch.rand(SHAPE)
    writer.write(FRAMES[0], _semantics(0), probabilities)
    read = next(iter(writer.finish(FRAMES[:1]))).probabilities
    assert read is not None
    assert torch.equal(read, probabilities.half())


def test_no_unfinished_file_stays_behind(cache_dir):
    assert sorted(path.name for path in cache_dir.rglob("*") if path.is_file()) == [
        "000_aaaa.npz", "000_cccc.npz", "001_bbbb.npz", "manifest.json", "provenance.json",
    ]  # fmt: skip


def test_an_interrupted_cache_is_refused_and_goes_on_where_it_stopped(tmp_path):
    first = _begun(tmp_path)
    first.write(FRAMES[0], _semantics(0))
    with pytest.raises(ValueError, match=r"manifest\.json: no such file; the cache is incomplete"):
        read_predictions(tmp_path)
    with pytest.raises(ValueError, match=r"incomplete, 2 of 3 frames are missing, the first is scene-0001/001_bbbb\.npz"):
        first.finish(FRAMES)
    second = _begun(tmp_path)
    assert [second.has(frame) for frame in FRAMES] == [True, False, False]


def test_opening_a_finished_cache_for_writing_makes_it_incomplete(cache_dir):
    _begun(cache_dir)
    with pytest.raises(ValueError, match="incomplete"):
        read_predictions(cache_dir)


@pytest.mark.parametrize(
    ("name", "value"), [("checkpoint", "d1"), ("threshold", "0.5"), ("data.loader.image_size", "(96, 240)"), ("code", "other")]
)
def test_a_cache_that_something_else_decided_is_refused_by_name_or_begun_anew(cache_dir, name, value):
    before = {path: path.read_bytes() for path in cache_dir.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"holds predictions made with {name} .*, asked for is {re.escape(value)}; --fresh predicts anew"):
        _begun(cache_dir, **{name: value})
    assert {path: path.read_bytes() for path in cache_dir.rglob("*") if path.is_file()} == before
    writer = _begun(cache_dir, fresh=True, **{name: value})
    assert not any(writer.has(frame) for frame in FRAMES)


def test_predictions_of_an_older_format_are_refused_by_name(cache_dir):
    (cache_dir / "provenance.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json: of predictions that do not say what made them; --fresh"):
        _begun(cache_dir)


def test_any_flipped_bit_of_a_frame_is_predicted_again(tmp_path):
    """Also one in the probabilities, which scoring reads too."""
    writer, rng = _begun(tmp_path), np.random.default_rng(0)
    writer.write(FRAMES[0], _semantics(0), torch.rand(SHAPE))
    path = FRAMES[0].path_in(tmp_path)
    whole = path.read_bytes()
    for position in [*rng.integers(len(whole), size=40), *range(len(whole) - 60, len(whole), 7)]:
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        if writer.has(FRAMES[0]):  # what was changed says nothing of the content, a date for example
            assert torch.equal(next(iter(writer.finish(FRAMES[:1]))).semantics, _semantics(0))
    path.write_bytes(whole)
    assert writer.has(FRAMES[0])


def test_a_damaged_provenance_is_written_again_and_each_frame_asked(cache_dir):
    (cache_dir / "provenance.json").write_bytes(b"\xff{")
    writer = _begun(cache_dir)
    assert all(writer.has(frame) for frame in FRAMES)
    (cache_dir / "provenance.json").unlink()
    assert not _begun(cache_dir, checkpoint="d1").has(FRAMES[0])


def test_a_grid_that_may_be_either_of_two_arrays_is_refused(tmp_path):
    grid = np.full(SHAPE, 17, np.uint8)
    np.savez(tmp_path / "aaaa.npz", semantics=grid, pred=grid)
    with pytest.raises(ValueError, match=r"aaaa\.npz: expected one of .* it has both semantics and pred: which of them"):
        read_grid(tmp_path / "aaaa.npz")
    np.savez(tmp_path / "aaaa.npz", pred=grid, gt=grid)
    assert (read_grid(tmp_path / "aaaa.npz") == 17).all()
    np.savez(tmp_path / "aaaa.npz", occ=grid)
    with pytest.raises(ValueError, match="it has none of them"):
        read_grid(tmp_path / "aaaa.npz")


@pytest.mark.parametrize(
    "frame", [CachedFrame("../../victim", 0, "t"), CachedFrame("s", 0, "../../../victim"), CachedFrame("/etc", 0, "t")]
)
def test_names_of_frames_do_not_lead_out_of_the_cache(tmp_path, frame):
    with pytest.raises(ValueError, match="cannot name a file"):
        _begun(tmp_path / "cache").write(frame, _semantics(0))
    assert [path.name for path in tmp_path.rglob("*")] == ["cache", "provenance.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder of predictions"):
        open_predictions(tmp_path / "nowhere", FRAMES)


def test_a_truncated_frame_is_predicted_again_and_refused_by_name(cache_dir):
    path = FRAMES[1].path_in(cache_dir)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"001_bbbb\.npz: not an .npz archive"):
        read_predictions(cache_dir)
    assert not _begun(cache_dir).has(FRAMES[1])


def test_a_missing_frame_is_refused_by_name(cache_dir):
    FRAMES[2].path_in(cache_dir).unlink()
    with pytest.raises(ValueError, match=r"incomplete, 1 of 3 frames are missing, the first is scene-0002/000_cccc\.npz"):
        read_predictions(cache_dir)


@pytest.mark.parametrize("changes", [{"checkpoint": "d1"}, {"threshold": "0.5"}])
def test_a_cache_mixed_from_two_checkpoints_or_thresholds_is_refused(cache_dir, changes):
    PredictionWriter(cache_dir, _provenance(**changes)).write(FRAMES[1], _semantics(1))
    with pytest.raises(ValueError, match=r"001_bbbb\.npz: made by .*, the cache by .*; a cache mixed from two is not scored"):
        read_predictions(cache_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taxonomy": "semantic-kitti"}, "taxonomy is 'semantic-kitti', only 'occ3d-nuscenes-17'"),
        ({"format_version": 1}, "format_version is 1, this version reads 3"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"frames": 3}, "not the manifest"),
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
    path = FRAMES[0].path_in(cache_dir)
    np.savez(path, semantics=semantics, made_by=np.array(_provenance().digest))
    with pytest.raises(ValueError, match=rf"000_aaaa\.npz: .*{message}"):
        list(read_predictions(cache_dir))


def test_a_frame_that_does_not_say_where_it_came_from_is_refused(cache_dir):
    np.savez(FRAMES[0].path_in(cache_dir), semantics=np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="made by nothing tha"):
        read_predictions(cache_dir)


def test_the_writer_refuses_a_class_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="class 200"):
        _begun(tmp_path).write(FRAMES[0], torch.full(SHAPE, 200, dtype=torch.uint8))


def test_a_cache_begun_anew_holds_nothing_of_the_one_before_however_long_its_scenes_are(tmp_path):
    writer, frames = _begun(tmp_path), [CachedFrame("scene-0001", number, f"t{number}") for number in (0, 999, 1000, 12_345)]
    for frame in frames:
        writer.write(frame, _semantics(0))
    assert all(writer.has(frame) for frame in frames)
    writer.begin(fresh=True)
    assert not any(writer.has(frame) for frame in frames)


def test_a_fresh_start_removes_nothing_of_a_folder_that_is_no_cache(tmp_path):
    precious = tmp_path / "scene-0001" / "001_precious.npz"
    precious.parent.mkdir()
    precious.write_bytes(b"of somebody else")
    _begun(tmp_path, fresh=True)
    assert precious.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_manifest_of_something_else_is_never_replaced(tmp_path, fresh):
    (tmp_path / "manifest.json").write_text('{"format": "splattingocc-labels", "scenes": {}}')
    with pytest.raises(ValueError, match=r"manifest\.json: of something else than predictions, which may not be replaced; --dump-dir"):
        _begun(tmp_path, fresh=fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_class_out_of_range_of_another_program_is_named_with_its_array_and_value(tmp_path):
    semantics = np.full(SHAPE, 17, dtype=np.uint8)
    semantics[3, 4, 5] = 255
    np.savez_compressed(tmp_path / "t.npz", semantics=semantics)
    with pytest.raises(ValueError, match=r"t\.npz: semantics holds 255, expected whole numbers from 0 to 17"):
        read_grid(tmp_path / "t.npz")
