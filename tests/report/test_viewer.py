"""The page in a real browser: what it shows, that using it changes what is seen, and that left is left and up is up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import Image
from small_runs import CAR, PEDESTRIAN, TREE, grid_of, write_cache, write_truth

from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.report.found import find
from splattingocc.report.gaussians import pack_gaussians
from splattingocc.report.page import write_report
from splattingocc.splatting.gaussians import Gaussians

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
SCENE = "scene-0001"
LEFT: tuple[float, float, float] = (12.0, 8.0, 0.2)
"""Ahead of the vehicle and 8 m to its left, on the ground."""
UP: tuple[float, float, float] = (12.0, 0.0, 3.8)
"""Ahead of it, 3.6 m higher."""
RIGHT: tuple[float, float, float] = (12.0, -8.0, 0.2)


def cube(
    kind: int, center: tuple[float, float, float], half: float = 1.2
) -> tuple[int, tuple[float, float, float], tuple[float, float, float]]:
    x, y, z = center
    return kind, (x - half, y - half, z - half), (x + half, y + half, z + half)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two key frames: a car to the left and a pedestrian up, then a tree to the right; truth has a tree to the right in the first one."""
    folder = tmp_path_factory.mktemp("run")
    first = grid_of(cube(CAR, LEFT), cube(PEDESTRIAN, UP))
    write_cache(folder / "output", {SCENE: 2}, grids={f"{SCENE}-0": first, f"{SCENE}-1": grid_of(cube(TREE, RIGHT))})
    seen = torch.ones(OCC3D_GRID.shape, dtype=torch.bool)
    seen[:, 120:] = False  # 8 m to the left and farther
    write_truth(folder / "gts", SCENE, f"{SCENE}-0", grid_of(cube(CAR, LEFT), cube(TREE, RIGHT)), seen)
    # Longest along its own x axis, which its rotation turns to y
    gaussians = Gaussians(
        means=torch.tensor([RIGHT]),
        quats=torch.tensor([[0.5**0.5, 0.0, 0.0, 0.5**0.5]]),
        scales=torch.tensor([[3.0, 0.1, 0.1]]),
        opacities=torch.tensor([0.9]),
        features=torch.eye(17)[[TREE]],
        grid=OCC3D_GRID,
    )
    found = find(folder, split="val", most_frames=20, gts=folder / "gts")
    packed = {f"{SCENE}-0": pack_gaussians(gaussians, OCC3D_GRID, most=10)}
    return write_report(found, packed, folder / "report.html", most_bytes=15_000_000)


@pytest.fixture(scope="module")
def chromium(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium"), width=860, height=700) as browser:
        browser.open(page)
        browser.wait_for("document.getElementById('canvas').dataset.shown")
        yield browser


@pytest.fixture
def opened(chromium: Browser) -> Browser:
    """The page, as it was when it was opened; opening it anew takes seconds where nothing but a CPU draws."""
    chromium.evaluate("""(() => {
        const set = (element, value) => { element[value.name] = value.is; element.dispatchEvent(new Event(value.event)); };
        set(document.getElementById('frame'), {name: 'value', is: 0, event: 'input'});
        set(document.querySelector('[value=prediction]'), {name: 'checked', is: true, event: 'change'});
        set(document.getElementById('unseen'), {name: 'checked', is: true, event: 'change'});
        set(document.getElementById('gaussians'), {name: 'checked', is: false, event: 'change'});
        document.getElementById('all').click();
        document.querySelector('[data-look=behind]').click();
        document.activeElement.blur();
    })()""")
    until(chromium, f"0 prediction {2 * 6**3 - 2 * 4**3} 0")
    return chromium


def shown(browser: Browser) -> tuple[int, str, int, int]:
    """Return the number of the key frame, the view, and how many voxels and ellipsoids are drawn."""
    frame, view, voxels, ellipsoids = browser.evaluate("document.getElementById('canvas').dataset.shown").split()
    return int(frame), view, int(voxels), int(ellipsoids)


def until(browser: Browser, pattern: str) -> None:
    browser.wait_for(f"/^{pattern}$/.test(document.getElementById('canvas').dataset.shown)")


def pixels_of(picture: Image.Image, color: str) -> np.ndarray:
    """Return rows and columns of the pixels of a colour, whatever light falls on it."""
    red, green, blue = (np.asarray(picture).astype(int)[..., channel] for channel in range(3))
    found = {
        "blue": (green > red + 60) & (blue > green + 20),  # and not that of the vehicle, nor of its edges
        "red": (red > 100) & (red > green + 80) & (red > blue + 80),
        "green": (green > red + 50) & (green > blue + 50),
    }[color]
    return np.argwhere(found)


def middle(picture: Image.Image, color: str) -> tuple[float, float]:
    """Return where a colour is: its column and its row, as shares of the picture."""
    pixels = pixels_of(picture, color)
    assert len(pixels) > 50, f"no {color} in the picture"
    row, column = pixels.mean(axis=0)
    return column / picture.width, row / picture.height


def test_left_of_the_vehicle_is_left_and_up_is_up(opened: Browser) -> None:
    picture = opened.picture_of("#canvas")
    (car_column, car_row), (pedestrian_column, pedestrian_row) = middle(picture, "blue"), middle(picture, "red")
    assert car_column < 0.42
    assert abs(pedestrian_column - 0.5) < 0.02
    assert pedestrian_row < car_row - 0.05
    opened.click("[data-look=above]")
    picture = opened.picture_of("#canvas")
    (car_column, car_row), (pedestrian_column, pedestrian_row) = middle(picture, "blue"), middle(picture, "red")
    assert car_column < 0.47
    assert abs(pedestrian_column - 0.5) < 0.02
    assert max(car_row, pedestrian_row) < 0.47  # what is ahead is up


def test_hiding_a_class_takes_it_out_of_the_picture(opened: Browser) -> None:
    _, _, all_voxels, _ = shown(opened)
    opened.click("#entries [name=car]")
    until(opened, rf"0 prediction (?!{all_voxels} )\d+ 0")
    picture = opened.picture_of("#canvas")
    assert len(pixels_of(picture, "blue")) == 0
    assert len(pixels_of(picture, "red")) > 50
    opened.click("#no")
    until(opened, "0 prediction 0 0")
    assert len(pixels_of(opened.picture_of("#canvas"), "red")) == 0
    opened.click("#all")
    until(opened, f"0 prediction {all_voxels} 0")


def test_the_slider_and_the_arrows_turn_to_another_key_frame(opened: Browser) -> None:
    opened.evaluate("(s => { s.value = 1; s.dispatchEvent(new Event('input')) })(document.getElementById('frame'))")
    until(opened, r"1 prediction [1-9]\d* 0")
    picture = opened.picture_of("#canvas")
    assert middle(picture, "green")[0] > 0.58
    assert len(pixels_of(picture, "blue")) == 0
    assert "key frame 1" in opened.evaluate("document.getElementById('caption').textContent")
    opened.evaluate("document.activeElement.blur()")
    opened.press("ArrowLeft")
    until(opened, r"0 prediction [1-9]\d* 0")
    assert len(pixels_of(opened.picture_of("#canvas"), "blue")) > 50


def test_truth_shows_what_is_there_and_what_no_camera_sees_is_pale(opened: Browser) -> None:
    bold = len(pixels_of(opened.picture_of("#canvas"), "blue"))
    opened.click("[name=view][value=truth]")
    until(opened, r"0 truth [1-9]\d* 0")
    picture = opened.picture_of("#canvas")
    assert middle(picture, "green")[0] > 0.58
    assert len(pixels_of(picture, "red")) == 0
    # The car lies on the border of what is seen
    assert 0.05 * bold < len(pixels_of(picture, "blue")) < 0.95 * bold
    _, _, both, _ = shown(opened)
    opened.click("#unseen")
    until(opened, rf"0 truth (?!{both} )\d+ 0")
    assert shown(opened)[2] < both


def test_error_tells_right_from_missed_false_and_not_judged(opened: Browser) -> None:
    opened.click("[name=view][value=error]")
    until(opened, r"0 error [1-9]\d* 0")
    legend = opened.evaluate("[...document.querySelectorAll('#entries label')].map(e => e.textContent)")
    names = {re.sub(r"[\d,]", "", entry): int(re.sub(r"\D", "", entry)) for entry in legend}
    cube_cells = 6**3
    assert names == {"right": cube_cells // 2, "missed": cube_cells, "false": cube_cells, "not judged": cube_cells // 2}
    picture = opened.picture_of("#canvas")
    assert middle(picture, "red")[0] > 0.58  # the missed tree


def test_a_key_frame_without_truth_says_so(opened: Browser) -> None:
    opened.click("[name=view][value=truth]")
    until(opened, r"0 truth [1-9]\d* 0")
    opened.evaluate("document.activeElement.blur()")
    opened.press("ArrowRight")
    until(opened, "1 truth 0 0")
    assert "has no truth" in opened.evaluate("document.getElementById('caption').textContent")


def test_a_gaussian_lies_where_it_is_and_points_where_it_points(opened: Browser) -> None:
    opened.click("[name=view][value=none]")
    opened.click("#gaussians")
    until(opened, "0 none 0 1")
    opened.click("[data-look=above]")
    pixels = pixels_of(opened.picture_of("#canvas"), "green")
    rows, columns = pixels.max(axis=0) - pixels.min(axis=0)
    assert columns > 5 * rows  # its long axis was turned from x to y
    assert middle(opened.picture_of("#canvas"), "green")[0] > 0.53


def test_dragging_turns_the_scene(opened: Browser) -> None:
    before = middle(opened.picture_of("#canvas"), "blue")
    opened.drag("#canvas", right=150)
    after = middle(opened.picture_of("#canvas"), "blue")
    assert abs(after[0] - before[0]) > 0.03


def test_the_page_asks_for_nothing_but_itself_and_raises_nothing(opened: Browser, page: Path) -> None:
    opened.evaluate("document.querySelector('[name=view][value=error]').click()")
    until(opened, r"0 error [1-9]\d* 0")
    assert {address for address in opened.requests() if not address.startswith("data:")} == {page.resolve().as_uri()[:80]}
    assert opened.problems() == []
