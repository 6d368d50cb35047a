"""The errors of foundation models: of each kind as much as is said, and nothing where there is nothing to get wrong."""

import numpy as np
import pytest
import torch

from splattingocc.synthetic import dense_degradation
from splattingocc.synthetic.dense_degradation import (
    BORDER,
    COMPRESSED_FROM,
    DISTORTION,
    FARTHEST,
    PATCH_SHARE,
    SCALE_DRIFT,
    compressed,
    degraded_maps,
    taken_over_by_background,
    thin_parts,
)
from splattingocc.synthetic.dense_maps import SeenSurfaces, see
from splattingocc.synthetic.rig import draw_rig
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.synthetic.world import draw_world
from splattingocc.taxonomy import CLASSES, SKY

SIZE = (225, 400)
"""Here a border is blurred with a radius of one pixel, and what is one or two pixels wide is thin."""
ROAD, WALL, LEAVES, CAR, TRUCK = (CLASSES.index(name) for name in ("driveable_surface", "manmade", "vegetation", "car", "truck"))


def surfaces(semantics: np.ndarray, depths: np.ndarray, things: np.ndarray | None = None) -> SeenSurfaces:
    things = np.full(SIZE, -1) if things is None else things
    return SeenSurfaces(semantics.astype(np.uint8), depths.astype(np.float32), things.astype(np.int32))


def plane(depth: float) -> SeenSurfaces:
    return surfaces(np.full(SIZE, ROAD), np.full(SIZE, depth))


def degraded(seen: SeenSurfaces, seed: int = 0):
    return degraded_maps(seen, np.random.default_rng(seed))


def test_depths_drift_by_up_to_five_percent_from_image_to_image_and_are_slowly_distorted():
    ratios = np.stack([degraded(plane(20.0), seed).depths / 20.0 for seed in range(40)])
    scales = np.median(ratios, axis=(1, 2))
    assert 1 - SCALE_DRIFT - DISTORTION < scales.min() < 0.97
    assert 1.03 < scales.max() < 1 + SCALE_DRIFT + DISTORTION
    within = ratios / scales[:, None, None] - 1
    assert 0.75 * DISTORTION < within.std() < 1.05 * DISTORTION
    assert np.abs(np.diff(ratios, axis=2)).max() < 0.1 * DISTORTION


def test_patches_borders_and_depths_are_wrong_by_as_much_as_their_constants_say(monkeypatch: pytest.MonkeyPatch):
    things = np.full(SIZE, -1)
    drawn = [np.random.default_rng(seed) for seed in range(200)]
    surface = np.full(SIZE, LEAVES, np.uint8)
    patches = np.stack([dense_degradation._with_confused_surfaces(surface, things, rng) == WALL for rng in drawn])
    assert patches.mean() == pytest.approx(PATCH_SHARE, abs=0.003)
    monkeypatch.setattr(dense_degradation, "SCALE_DRIFT", 0.0)
    scales = np.stack([dense_degradation._wrong_scales(SIZE, rng) for rng in drawn])
    assert scales.std() == pytest.approx(DISTORTION, rel=0.05)
    size = (1000, 2000)
    shift = BORDER * size[1]
    rows, columns = np.mgrid[: size[0], : size[1]]
    for place, moved in zip((rows, columns), zip(*(dense_degradation._shifted_pixels(size, shift, rng) for rng in drawn[:3]))):
        by = (np.stack(moved) - place)[:, 20:-20, 20:-20]
        assert np.sqrt((by**2).mean()) == pytest.approx(shift, rel=0.06)


def test_far_depths_are_compressed_and_near_ones_are_not():
    depths = np.array([1.0, 20.0, COMPRESSED_FROM, 60.0, 160.0, 1e6], dtype=np.float32)
    found = compressed(depths[None])[0]
    assert np.array_equal(found[:3], depths[:3])
    assert (np.diff(found) > 0).all()
    assert found[3] == pytest.approx(40 + 40 * (1 - np.exp(-0.5)), rel=1e-5)
    assert found[-1] == pytest.approx(FARTHEST)


def test_borders_are_shifted_and_depth_is_smeared_near_them_alone():
    far = np.arange(SIZE[1])[None].repeat(SIZE[0], 0) < 200
    seen = surfaces(np.where(far, WALL, CAR), np.where(far, 30.0, 10.0))
    maps = degraded(seen, 3)
    from_border = np.abs(np.arange(SIZE[1]) + 0.5 - 200)
    wrong = maps.semantics != seen.semantics
    # Patches of wall become leaves; the car stays one up to its border
    assert not wrong[:, 208:].any()
    assert wrong[:, 196:204].mean() > 0.05
    between = (maps.depths > 12.5) & (maps.depths < 26.0)
    assert between[:, from_border > 8].sum() == 0
    assert between.any(axis=1).mean() > 0.95
    assert 1.0 <= between.sum(axis=1).mean() <= 4.0
    assert maps.confidence is not None
    is_near_a_change = np.abs(np.diff(maps.semantics.astype(int), axis=1)) > 0
    assert maps.confidence[:, 1:][is_near_a_change].max() < 200
    assert (maps.confidence[:, 208:] == 255).all()


def test_thin_things_are_taken_over_by_what_is_behind_and_slopes_are_not_thin():
    semantics, depths = np.full(SIZE, WALL), np.full(SIZE, 30.0, np.float32)
    depths[200:] = np.geomspace(30, 3, 25, dtype=np.float32)[:, None]
    semantics[200:] = ROAD
    semantics[:150, 100:102], depths[:150, 100:102] = CAR, 8.0
    semantics[60:61, 200:], depths[60:61, 200:] = CAR, 8.0
    semantics[100:140, 300:312], depths[100:140, 300:312] = CAR, 8.0
    thin = thin_parts(depths, 1)
    expected = np.zeros(SIZE, bool)
    expected[:150, 100:102] = expected[60, 200:] = True
    assert np.array_equal(thin, expected)
    filled, behind = taken_over_by_background(semantics.astype(np.uint8), depths, thin)
    assert (filled[expected] == WALL).all()
    assert (behind[expected] == 30.0).all()
    assert np.array_equal(filled[~expected], semantics[~expected])
    maps = degraded(surfaces(semantics, depths))
    assert not (maps.semantics[:150, 90:112] == CAR).any()
    assert (maps.semantics[104:136, 302:310] == CAR).all()


def test_whole_things_are_confused_or_missing_when_small(monkeypatch: pytest.MonkeyPatch):
    things = np.full(SIZE, -1)
    for number in range(20):
        things[20:60, 20 * number + 4 : 20 * number + 16] = number
        things[100:105, 20 * number + 4 : 20 * number + 8] = 20 + number
    semantics, depths = np.where(things >= 0, CAR, ROAD), np.where(things >= 0, 8.0, 20.0)
    monkeypatch.setattr(dense_degradation, "CONFUSED_THINGS", {"car": {"truck": 0.3}})
    large, small = [], []
    for seed in range(5):
        maps = degraded(surfaces(semantics, depths, things), seed)
        for number in range(20):
            inner = maps.semantics[24:56, 20 * number + 8 : 20 * number + 12]
            assert len(np.unique(inner)) == 1
            large.append(inner[0, 0])
            small.append(maps.semantics[102, 20 * number + 6])
    assert set(large) == {CAR, TRUCK}
    assert 0.15 < np.mean(np.array(large) == TRUCK) < 0.45
    assert 0.3 < np.mean(np.array(small) == ROAD) < 0.7


def test_sky_around_crowns_is_taken_for_leaves_within_reach():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    from_crown = np.hypot(y - 110, x - 200) - 60
    seen = surfaces(np.where(from_crown < 0, LEAVES, SKY), np.where(from_crown < 0, 15.0, 0.0))
    grown = [(degraded(seen, seed).semantics == LEAVES) & (from_crown > 2.5) for seed in range(6)]
    assert all(mask[(from_crown > 2.5) & (from_crown < 5)].mean() > 0.005 for mask in grown)
    # A square of four pixels, a border that is shifted and blurred
    assert max(from_crown[mask].max() for mask in grown) < 4 * np.sqrt(2) + 5


def test_maps_of_a_real_scene_are_drawn_from_the_seed_and_differ_a_little():
    rng = np.random.default_rng(5)
    world, rig = draw_world(rng, 1.0), draw_rig(rng, SIZE)
    mesh = SceneMesh(world, torch.device("cpu"))
    mesh.set_time(0.0)
    for sensor in rig[:6]:
        assert sensor.K is not None
        seen = see(mesh, sensor.K, world.ego.world_from_ego(0.0) @ sensor.ego_from_sensor, SIZE)
        once, again, other = (degraded(seen, seed) for seed in (1, 1, 2))
        assert np.array_equal(once.semantics, again.semantics)
        assert np.array_equal(once.depths, again.depths)
        assert not np.array_equal(once.semantics, other.semantics)
        assert 0.01 < (once.semantics != seen.semantics).mean() < 0.2
        near = (seen.depths > 1) & (seen.depths < 30)
        assert np.median(np.abs(once.depths / np.where(near, seen.depths, 1) - 1)[near]) < 0.1
        assert once.depths.min() > 0
        assert once.depths.max() < FARTHEST * 1.15


@pytest.mark.parametrize("size", [(16, 16), (16, 300), (300, 16)])
def test_small_images_have_maps_too(size: tuple[int, int]):
    seen = SeenSurfaces(np.full(size, SKY, np.uint8), np.zeros(size, np.float32), np.full(size, -1, np.int32))
    maps = degraded(seen)
    assert (maps.semantics == SKY).all()
    assert np.isfinite(maps.depths).all()
