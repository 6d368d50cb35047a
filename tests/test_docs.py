import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("docs/tour.md", "docs/extending.md", "docs/api.md", "docs/deployment.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_sends_to_are_there(page: str):
    text = (ROOT / page).read_text()
    named = {name for name in re.findall(r"`((?:splattingocc|tests|docs)/[^`]*)`", text) if not re.search(r"[<*]", name)}
    linked = {f"docs/{name}" for name in re.findall(r"\]\(([\w./-]+\.md)\)", text)}
    assert named
    assert [name for name in sorted(named | linked) if not (ROOT / name).exists()] == []


def test_the_tour_has_eight_files_each_with_a_line():
    rows = re.findall(r"^\| (\d) \| `([^`]+\.py)` \| (.+) \|$", (ROOT / "docs/tour.md").read_text(), flags=re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 9))
    assert len({path for _, path, _ in rows}) == 8


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_tour_and_the_recipes_are_found_from_the_pages_read_first(page: str):
    text = (ROOT / page).read_text()
    for name in ("tour.md", "extending.md"):
        assert re.search(rf"\]\((docs/)?{name}\)", text), name
