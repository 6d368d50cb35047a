import numpy as np

from splattingocc.labels.occlusion import hidden_points, nearest_towards

IMAGE_SIZE, FOCAL_LENGTH = (120, 160), 1000.0  # a cell is 6.3 pixels


def sheet(u: tuple[float, float], v: tuple[float, float], distance: float, spacing: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Points evenly spread over a part of the image, all at one distance."""
    grid = np.meshgrid(np.arange(*u, spacing), np.arange(*v, spacing))
    pixels = np.stack(grid, axis=-1).reshape(-1, 2).astype(np.float32)
    return pixels, np.full(len(pixels), distance, dtype=np.float32)


def hidden(*parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    pixels, distances = (np.concatenate(arrays) for arrays in zip(*parts))
    return hidden_points(pixels, distances, IMAGE_SIZE, FOCAL_LENGTH)


def test_a_point_seen_through_a_nearer_thing_is_hidden_and_the_thing_is_not():
    thing, behind = sheet((40, 120), (30, 90), 10.0), (np.array([[80.5, 60.5]], dtype=np.float32), np.array([30.0], dtype=np.float32))
    found = hidden(thing, behind)
    assert found[-1]
    assert not found[:-1].any()


def test_background_beside_a_thing_stays():
    assert not hidden(sheet((0, 80), (0, 120), 10.0), sheet((82, 160), (0, 120), 40.0)).any()


def test_ground_that_nears_continuously_stays():
    pixels, _ = sheet((0, 160), (40, 120), 0.0, spacing=8.0)
    assert not hidden((pixels, (1.5 * FOCAL_LENGTH / pixels[:, 1]).astype(np.float32))).any()


def test_a_gap_smaller_than_the_margin_stays():
    thing, behind = sheet((40, 120), (30, 90), 10.0), (np.array([[80.5, 60.5]], dtype=np.float32), np.array([11.5], dtype=np.float32))
    assert not hidden(thing, behind).any()


def test_no_points_and_points_on_the_border_are_no_trouble():
    assert hidden_points(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.float32), IMAGE_SIZE, FOCAL_LENGTH).shape == (0,)
    corner = np.array([[159.99, 119.99]], dtype=np.float32)
    assert not hidden_points(corner, np.array([5.0], dtype=np.float32), IMAGE_SIZE, FOCAL_LENGTH).any()


def test_nearest_towards_looks_one_way_only_and_not_at_its_own_cell():
    rng = np.random.default_rng(0)
    nearest = rng.uniform(size=(7, 9)).astype(np.float32)
    for axis in (0, 1):
        for reach in (-20, -2, -1, 1, 3, 20):
            found = nearest_towards(nearest, axis, reach)
            for index in np.ndindex(nearest.shape):
                there = index[axis]
                span = slice(there + 1, there + 1 + reach) if reach > 0 else slice(max(0, there + reach), there)
                line = nearest[:, index[1]] if axis == 0 else nearest[index[0]]
                assert found[index] == line[span].min(initial=np.inf)
