"""Shapes of vehicles, people and barriers: several of each kind, of plausible sizes."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator

from splattingocc.synthetic import furniture, people, vehicles
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Mesh
from splattingocc.synthetic.vehicle_parts import hull

SIZES = {
    vehicles.car: ((3.4, 1.6, 1.2), (5.8, 2.5, 2.5)),
    vehicles.bus: ((5.9, 2.0, 2.4), (13.3, 2.9, 4.5)),
    vehicles.bendy_bus: ((15.0, 2.4, 2.8), (18.5, 2.9, 3.6)),
    vehicles.truck: ((5.0, 1.8, 1.6), (10.5, 3.1, 4.2)),
    vehicles.trailer: ((7.9, 2.3, 1.5), (12.8, 2.7, 4.3)),
    vehicles.construction_vehicle: ((3.5, 1.5, 2.2), (14.0, 4.0, 8.5)),
    vehicles.emergency_vehicle: ((3.4, 1.6, 1.3), (5.8, 2.5, 2.7)),
    vehicles.motorcycle: ((1.6, 0.6, 0.9), (2.3, 0.9, 1.5)),
    vehicles.bicycle: ((1.6, 0.4, 0.9), (1.9, 0.7, 1.4)),
    people.person: ((0.2, 0.4, 1.4), (1.5, 1.4, 2.4)),
    furniture.barrier: ((1.7, 0.1, 0.7), (2.4, 0.9, 2.1)),
    furniture.tree: ((0.9, 0.9, 3.5), (9.5, 9.5, 12.0)),
}
"""Least and greatest length, width and height, metres."""


@pytest.mark.parametrize("make", SIZES, ids=lambda make: make.__name__)
def test_things_have_plausible_sizes_and_few_triangles(make: Callable[..., Mesh]):
    smallest, largest = SIZES[make]
    counts, slenderness = set(), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shape = make(rng, (0.1, 0.2, 0.1)) if make is furniture.tree else make(rng)
        points = shape.corners.reshape(-1, 3)
        size = np.ptp(points, axis=0)
        assert np.isfinite(points).all()
        assert (size >= smallest).all(), (seed, size)
        assert (size <= largest).all(), (seed, size)
        assert points[:, 2].min() > -0.5
        counts.add(len(shape))
        slenderness.append(size[2] / size[0])
    assert max(counts) < 1100
    assert max(slenderness) > 1.15 * min(slenderness), "all have the same shape"


@pytest.mark.parametrize("draw", [vehicles.paint, people.cloth, furniture.facade_color, furniture.leaf_color])
def test_colours_are_shares_of_light_and_mostly_muted(draw: Callable[[Generator], tuple]):
    colors = np.array([draw(np.random.default_rng(seed)) for seed in range(300)])
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert np.median(np.ptp(colors, axis=1)) < 0.15


def test_a_hull_has_no_holes():
    shape = hull(
        [(2.0, 0.8, 0.7), (0.5, 1.4, 0.6), (-0.4, 1.4, 0.6), (-1.2, 0.9, 0.7)], 0.2, 0.8, Material.GLASS, (0.1, 0.1, 0.1), roof=(0.5, 0, 0)
    )
    corners = np.unique(shape.corners.reshape(-1, 3).round(4), axis=0, return_inverse=True)[1].reshape(-1, 3)
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), axis=1)
    pairs, counts = np.unique(edges, axis=0, return_counts=True)
    points = np.unique(shape.corners.reshape(-1, 3).round(4), axis=0)
    # Only the underside is open.
    open_edges = pairs[counts == 1]
    assert (counts <= 2).all()
    assert np.allclose(points[open_edges][..., 2], 0.2)
    painted = shape.corners[shape.materials == Material.PAINT]
    assert len(painted) == 2
    assert np.allclose(painted[..., 2], 1.4)
