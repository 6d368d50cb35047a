import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

import splattingocc
from splattingocc import provenance
from splattingocc.provenance import circumstances, commit, driver, environment, source_hash


def test_the_environment_is_plain_text_for_any_json_writer():
    found = environment() | circumstances(1)
    assert json.loads(msgspec.json.encode(found)) == found
    assert {"commit", "python", "torch", "lightning", "warp", "device"} <= set(found)
    assert {"command", "launcher", "processes", "gpus", "cuda", "driver"} <= set(found)


def test_what_started_the_processes_is_known(monkeypatch: pytest.MonkeyPatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (circumstances(1)["launcher"], circumstances(1)["processes"]) == ("none", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "16")
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    assert circumstances(1)["launcher"] == "none"  # a shell inside of an allocation
    found = circumstances(16)
    assert (found["launcher"], found["processes"], found["slurm_job"]) == ("srun", "16", "4242")


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 24 01:09:07 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16-I3-B03-4-3)",
    ],
)
def test_the_driver_is_read_where_linux_keeps_it(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "DRIVER_FILE", tmp_path / "version")
    assert driver() is None
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    assert driver() == "570.86.15"


def test_the_source_hash_is_stable():
    assert source_hash() == source_hash()
    assert len(source_hash()) == 64


def test_the_source_hash_is_of_the_code_and_not_of_the_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "splattingocc"
    (package / "configs" / "family").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(splattingocc, "__file__", str(package / "__init__.py"))

    def hash_with(name: str, content: str) -> str:
        (package / name).write_text(content)
        source_hash.cache_clear()
        return source_hash()

    try:
        alone = hash_with("code.py", "x = 1")
        assert hash_with("configs/family/x.py", "def config(): ...") == alone
        assert hash_with("code.py", "x = 2") != alone
    finally:
        source_hash.cache_clear()


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "other.py").touch()
    git(tmp_path, "add", "other.py")
    git(tmp_path, "commit", "-qm", "other code")
    return tmp_path


def place_package(monkeypatch: pytest.MonkeyPatch, folder: Path, direct_url: str | None = None) -> None:
    """Let the running package be one in a folder, installed from somewhere if pip's note says so."""
    (folder / "splattingocc").mkdir(parents=True)
    (folder / "splattingocc" / "__init__.py").write_text("")
    note = folder / "splattingocc-0.dist-info"
    note.mkdir()
    (note / "METADATA").write_text("Metadata-Version: 2.1\nName: splattingocc\nVersion: 0\n")
    if direct_url is not None:
        (note / "direct_url.json").write_text(direct_url)
    monkeypatch.setattr(provenance.splattingocc, "__file__", str(folder / "splattingocc" / "__init__.py"))
    monkeypatch.syspath_prepend(str(folder))


@needs_git
def test_a_checkout_has_its_commit_and_says_what_is_not_committed(repository: Path, monkeypatch: pytest.MonkeyPatch):
    place_package(monkeypatch, repository)
    git(repository, "add", "splattingocc")
    git(repository, "commit", "-qm", "package")
    head = git(repository, "rev-parse", "--short=12", "HEAD").strip()
    assert commit() == head
    (repository / "splattingocc" / "__init__.py").write_text("x = 1")
    assert commit() == f"{head}-dirty"


@needs_git
@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_repository_around_an_installed_package_is_not_its_own(repository: Path, monkeypatch: pytest.MonkeyPatch, is_ignored: bool):
    if is_ignored:
        (repository / ".gitignore").write_text("venv")
    place_package(monkeypatch, repository / "venv" / "site-packages")
    assert commit() == "unknown"
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert commit() == "unknown"


@needs_git
def test_a_hook_of_another_repository_changes_nothing(repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch):
    place_package(monkeypatch, repository)
    git(repository, "add", "splattingocc")
    git(repository, "commit", "-qm", "package")
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert commit() == git(repository, "rev-parse", "--short=12", "HEAD").strip()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("direct_url", "expected"),
    [
        (
            json.dumps({"url": "https://x/y.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}),
            COMMIT[:12],
        ),
        (json.dumps({"url": "file:///x.whl", "archive_info": {}}), "unknown"),
        (json.dumps({"url": "file:///x", "dir_info": {}}), "unknown"),
        (json.dumps({"vcs_info": {"commit_id": "../../x"}}), "unknown"),
        (json.dumps({"vcs_info": {"commit_id": 7}}), "unknown"),
        ("[1]", "unknown"),
        ("{", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_package_from_a_url_has_the_commit_pip_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_url: str, expected: str):
    place_package(monkeypatch, tmp_path / "site-packages", direct_url)
    assert commit() == expected


def test_the_note_of_another_copy_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place_package(monkeypatch, tmp_path / "site-packages", json.dumps({"vcs_info": {"vcs": "git", "commit_id": COMMIT}}))
    (tmp_path / "elsewhere" / "splattingocc").mkdir(parents=True)
    monkeypatch.setattr(provenance.splattingocc, "__file__", str(tmp_path / "elsewhere" / "splattingocc" / "__init__.py"))
    assert commit() == "unknown"
