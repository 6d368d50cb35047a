"""The ground of a street: which surface lies where, and its mesh."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.random import Generator

from splattingocc.synthetic.layout import HALF_WIDTH, Layout, SideRoad
from splattingocc.synthetic.materials import Material
from splattingocc.synthetic.mesh import Color, Mesh, join, quads, scaled
from splattingocc.synthetic.street_kinds import LotKind

DRIVEABLE, OTHER_FLAT, SIDEWALK, TERRAIN = 24, 25, 26, 27
"""nuScenes-lidarseg indices of the ground."""
CURB_HEIGHT = 0.15
"""Metres."""
LINE_WIDTH = 0.15
"""Metres."""
CORNER_RADIUS = 3.0
"""Of the curb where a side road leaves, metres."""


@dataclass(frozen=True)
class Surface:
    """One kind of ground."""

    category: int
    height: float
    """Metres above the road."""
    material: Material
    color: Color


ASPHALT, DASHES, EDGE_LINE, CENTER_LINE, ZEBRA, BAY, MEDIAN, PAVEMENT, LAWN, PLAZA, DIRT, LOT_ASPHALT = range(12)


def draw_surfaces(rng: Generator, parking_is_other_flat: bool) -> tuple[Surface, ...]:
    """Draw the palette of the ground, in the order of the constants above."""
    gray = rng.uniform(0.05, 0.16)
    tint = rng.uniform(0.94, 1.06, 3)
    asphalt = tuple(gray * tint)
    light = rng.uniform(0.18, 0.42)
    pavement = tuple(light * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.7, 1.0)]))
    lawn = tuple(np.array([rng.uniform(0.05, 0.16), rng.uniform(0.12, 0.2), 0.03]) * rng.uniform(0.6, 1.2))
    dirt = tuple(np.array([0.24, 0.17, 0.11]) * rng.uniform(0.6, 1.3))
    bay = tuple(rng.uniform(0.1, 0.25) * np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.55, 1.0)]))
    center = (0.55, 0.38, 0.05) if rng.random() < 0.5 else (0.6, 0.6, 0.58)
    median_is_lawn = rng.random() < 0.5
    bay_category = OTHER_FLAT if parking_is_other_flat else DRIVEABLE
    return (
        Surface(DRIVEABLE, 0.0, Material.ASPHALT, asphalt),
        Surface(DRIVEABLE, 0.0, Material.DASHED_LINE, asphalt),
        Surface(DRIVEABLE, 0.0, Material.SOLID_LINE, (0.6, 0.6, 0.58)),
        Surface(DRIVEABLE, 0.0, Material.SOLID_LINE, center),
        Surface(DRIVEABLE, 0.0, Material.ZEBRA, asphalt),
        Surface(bay_category, 0.0, Material.PAVERS if parking_is_other_flat else Material.ASPHALT, bay),
        Surface(
            TERRAIN if median_is_lawn else OTHER_FLAT,
            CURB_HEIGHT,
            Material.GRASS if median_is_lawn else Material.PAVERS,
            lawn if median_is_lawn else bay,
        ),
        Surface(SIDEWALK, CURB_HEIGHT, Material.PAVERS, pavement),
        Surface(TERRAIN, CURB_HEIGHT, Material.GRASS, lawn),
        Surface(SIDEWALK if rng.random() < 0.85 else OTHER_FLAT, CURB_HEIGHT, Material.PAVERS, scaled(pavement, rng.uniform(0.5, 1.1))),
        Surface(TERRAIN, CURB_HEIGHT, Material.SOIL, dirt),
        Surface(DRIVEABLE, 0.05, Material.ASPHALT, scaled(asphalt, rng.uniform(0.8, 1.5))),
    )


class Ground:
    """Which surface lies at each place of a street, and how high it is."""

    def __init__(self, rng: Generator, layout: Layout) -> None:
        self.layout = layout
        self.surfaces = draw_surfaces(rng, layout.left.parking_is_other_flat or layout.right.parking_is_other_flat)
        self._has_side_road_walk = rng.random() < 0.8

    def kinds_at(self, s: Float[ndarray, "..."], l: Float[ndarray, "..."]) -> Int[ndarray, "..."]:
        """Return the number of the surface at each place (s, l); the two broadcast."""
        kinds = self._lots_at(s, l)
        for left in (False, True):
            side, curb = self.layout.side(left), self.layout.curb(left)
            beyond = (l - curb) if left else (curb - l)
            kinds = np.where((beyond > 0) & (beyond <= side.verge + side.sidewalk), PAVEMENT, kinds)
            kinds = np.where((beyond > 0) & (beyond <= side.verge), LAWN, kinds)
        right_curb, left_curb = self.layout.curb(False), self.layout.curb(True)
        right_lane, left_lane = self.layout.lane_edges
        kinds = np.where((l > right_curb) & (l < left_curb), BAY, kinds)
        kinds = np.where((l > right_lane) & (l < left_lane), ASPHALT, kinds)
        kinds = self._markings(kinds, l)
        for road in self.layout.side_roads:
            kinds = self._side_road(kinds, s, l, road)
        return kinds

    def height_at(self, s: float, l: float) -> float:
        """Return how high the ground lies above the road at one place, metres."""
        return self.surfaces[int(self.kinds_at(np.array(s), np.array(l)))].height

    def _lots_at(self, s: ndarray, l: ndarray) -> ndarray:
        kinds = np.full(np.broadcast_shapes(s.shape, l.shape), LAWN)
        of_lot = {LotKind.BUILDING: PAVEMENT, LotKind.HOUSE: LAWN, LotKind.PARK: LAWN, LotKind.PARKING: LOT_ASPHALT}
        of_lot |= {LotKind.PLAZA: PLAZA, LotKind.WORKS: DIRT, LotKind.GREEN: LAWN, LotKind.WALLED: LAWN}
        for lot in self.layout.lots:
            inside = (s >= lot.s_range[0]) & (s < lot.s_range[1]) & ((l > 0) == lot.left)
            kinds = np.where(inside, of_lot[lot.kind], kinds)
        return kinds

    def _markings(self, kinds: ndarray, l: ndarray) -> ndarray:
        layout = self.layout
        for position, kind in self.line_positions():
            kinds = np.where(np.abs(l - position) < LINE_WIDTH / 2, kind, kinds)
        if layout.median:
            kinds = np.where(np.abs(l - layout.median_center) < layout.median / 2, MEDIAN, kinds)
        return kinds

    def line_positions(self) -> list[tuple[float, int]]:
        """Return where the painted lines run, metres left of the course, and which surface each one is."""
        layout = self.layout
        right, left = layout.lane_edges
        lines = [(right + LINE_WIDTH, EDGE_LINE), (left - LINE_WIDTH, EDGE_LINE)]
        lanes = sorted(layout.lanes, key=lambda lane: lane.l)
        for lane, neighbour in zip(lanes, lanes[1:]):
            if lane.direction == neighbour.direction:
                lines.append(((lane.l + neighbour.l) / 2, DASHES))
            elif layout.median:
                lines += [(layout.median_center + sign * (layout.median / 2 + 2 * LINE_WIDTH), EDGE_LINE) for sign in (-1, 1)]
            else:
                lines += [((lane.l + neighbour.l) / 2 + sign * LINE_WIDTH, CENTER_LINE) for sign in (-1, 1)]
        return lines

    def _side_road(self, kinds: ndarray, s: ndarray, l: ndarray, road: SideRoad) -> ndarray:
        along = np.abs(s - road.s)
        right_curb, left_curb = self.layout.curb(False), self.layout.curb(True)
        in_carriageway = (l > right_curb) & (l < left_curb)
        kinds = np.where(in_carriageway & (along < road.half_width + 1.0), ASPHALT, kinds)
        if road.has_crosswalk:
            crossing = in_carriageway & (along > road.half_width + 1.5) & (along < road.half_width + 4.5)
            kinds = np.where(crossing & (kinds != MEDIAN), ZEBRA, kinds)
        for left in (False, True):
            if not (road.left if left else road.right):
                continue
            beyond = (l - left_curb) if left else (right_curb - l)
            outside = beyond > 0
            if self._has_side_road_walk:
                kinds = np.where(outside & (along < road.half_width + 2.5), PAVEMENT, kinds)
            # The curb turns the corner on a quarter of a circle.
            corner = CORNER_RADIUS - np.sqrt(np.maximum(CORNER_RADIUS**2 - np.maximum(CORNER_RADIUS - beyond, 0) ** 2, 0))
            kinds = np.where(outside & (along < road.half_width + corner), ASPHALT, kinds)
            middle = outside & (beyond > 6.0) & (along < LINE_WIDTH / 2)
            kinds = np.where(middle, DASHES, kinds)
        return kinds


def _edges_along(layout: Layout, span: tuple[float, float]) -> ndarray:
    edges = [np.arange(*span, 2.5)]
    for road in layout.side_roads:
        w = road.half_width
        marks = np.array([LINE_WIDTH / 2, w, w + 0.3, w + 0.6, w + 1.0, w + 1.5, w + 2.5, w + CORNER_RADIUS, w + 4.5])
        edges += [road.s - marks, road.s + marks]
    edges += [np.array(lot.s_range) for lot in layout.lots]
    return _merge(np.concatenate(edges), *span)


def _edges_across(ground: Ground) -> ndarray:
    layout = ground.layout
    middle = (layout.curb(False) + layout.curb(True)) / 2
    edges = [np.arange(-HALF_WIDTH, HALF_WIDTH + 1, 4.0), np.array(layout.lane_edges), np.array([middle])]
    for position, _ in ground.line_positions():
        edges.append(np.array([position - LINE_WIDTH / 2, position + LINE_WIDTH / 2]))
    if layout.median:
        edges.append(layout.median_center + np.array([-0.5, 0.5]) * layout.median)
    for left in (False, True):
        sign, side = (1 if left else -1), layout.side(left)
        edges.append(layout.curb(left) + sign * np.array([0.0, 0.3, 0.8, 1.5, CORNER_RADIUS, side.verge, side.verge + side.sidewalk]))
    return _merge(np.concatenate(edges), -HALF_WIDTH, HALF_WIDTH)


def _merge(edges: ndarray, low: float, high: float) -> ndarray:
    """Sort edges into distinct ones inside [low, high]."""
    edges = np.unique(np.round(np.clip(np.append(edges, [low, high]), low, high), 3))
    return edges[np.append(True, np.diff(edges) > 1e-2)]


def ground_mesh(ground: Ground, span: tuple[float, float]) -> Mesh:
    """Build the ground between two places along the street: a sheet for each surface, a curb wherever two of them differ in height."""
    s_edges, l_edges = _edges_along(ground.layout, span), _edges_across(ground)
    kinds = ground.kinds_at((s_edges[:-1, None] + s_edges[1:, None]) / 2, (l_edges[None, :-1] + l_edges[None, 1:]) / 2)
    s, l = np.meshgrid(s_edges, l_edges, indexing="ij")
    xy = ground.layout.course.xy(s, l)
    nodes = np.concatenate([xy, ground.layout.road_height(s, l)[..., None]], axis=-1)
    uv = np.stack([s, l], axis=-1)
    heights = np.array([surface.height for surface in ground.surfaces])[kinds]

    def corners(grid: ndarray) -> ndarray:
        return np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], axis=2)

    sheets = corners(nodes)
    sheets[..., 2] += heights[:, :, None]
    uvs = corners(uv)
    parts = []
    for number, surface in enumerate(ground.surfaces):
        if (kinds == number).any():
            sheet = quads(sheets[kinds == number], uvs[kinds == number], surface.material, surface.color)
            parts.append(sheet.labelled(surface.category))
    categories = np.array([surface.category for surface in ground.surfaces], dtype=np.uint8)[kinds]
    return join([*parts, *_curbs(nodes, heights, categories)])


def _curbs(nodes: ndarray, heights: ndarray, categories: ndarray) -> list[Mesh]:
    """Build the steps between neighbouring cells; a step belongs to the higher one."""
    parts = []
    for axis in (0, 1):
        a = nodes[1:-1, :-1] if axis == 0 else nodes[:-1, 1:-1]
        b = nodes[1:-1, 1:] if axis == 0 else nodes[1:, 1:-1]
        low = np.minimum(heights[:-1], heights[1:]) if axis == 0 else np.minimum(heights[:, :-1], heights[:, 1:])
        high = np.maximum(heights[:-1], heights[1:]) if axis == 0 else np.maximum(heights[:, :-1], heights[:, 1:])
        step = high - low > 1e-3
        up = np.array([0.0, 0.0, 1.0])
        faces = np.stack([a + up * low[..., None], b + up * low[..., None], b + up * high[..., None], a + up * high[..., None]], axis=2)
        before, after = (categories[:-1], categories[1:]) if axis == 0 else (categories[:, :-1], categories[:, 1:])
        rises = heights[1:] > heights[:-1] if axis == 0 else heights[:, 1:] > heights[:, :-1]
        curb = quads(faces[step], faces[step][..., :2], Material.PLAIN, (0.3, 0.3, 0.29))
        parts.append(dataclasses.replace(curb, categories=np.repeat(np.where(rises, after, before)[step], 2)))
    return parts
