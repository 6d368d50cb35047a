"""The words that the Slurm entry points pass on; `srun`, `scontrol` and `python` are stand-ins that write down what they are given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRIES = ("run_2_nodes.sh", "socc_8gpu.sh", "test.sh")
NOTES = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$RECORDS/${0##*/}"
"""
SRUN = f"""{NOTES}
while [ "$1" != bash ]; do shift; done
for SLURM_NODEID in 0 1; do export SLURM_NODEID; RECORDS=$RECORDS/$SLURM_NODEID "$@"; done
"""
SCONTROL = NOTES + "printf 'c[3]-a\\nc[3]-b\\n'\n"
TORCHRUN_OF_ONE = f"""#!/usr/bin/env bash
{sys.executable} -c '
import os, signal, sys, time
ignored = signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: sys.exit(number))
print("ignored" if ignored else "deadly", flush=True)
time.sleep(10)' &
wait $!
"""


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """The folder where the stand-ins write their words; what the two nodes run is written in a folder of its own for each."""
    for folder in ("programs", "records/0", "records/1"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", NOTES)):
        write_program(tmp_path / "programs" / name, text)
    return tmp_path / "records"


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def environment(records: Path, **variables: str) -> dict[str, str]:
    slurm = {"SLURM_JOB_ID": "71003", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "a,b", "SLURM_SUBMIT_DIR": str(ROOT)}
    return {"PATH": f"{records.parent / 'programs'}:{os.environ['PATH']}", "RECORDS": str(records), **slurm, **variables}


def run(records: Path, *words: str, script: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(script or ROOT / words[0]), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(records, **variables))


def words_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def torchrun_words(node: int, *, processes: int) -> list[str]:
    rendezvous = ["--nnodes", "2", "--nproc-per-node", str(processes), "--node-rank", str(node)]
    return ["-m", "torch.distributed.run", *rendezvous, "--master-addr", "c[3]-a", "--master-port", str(25000 + 71003 % 7000)]


def test_a_job_trains_on_each_node_with_static_rendezvous(records: Path, tmp_path: Path):
    # Slurm runs its own copy, in another folder
    copy = tmp_path / "slurm_script"
    copy.write_text((ROOT / "run_2_nodes.sh").read_text())
    options = ["--seed", "1", "--cfg-options", "name=two words", ""]
    finished = run(records, "", "train", "a config.py", "work dirs/x", *options, script=copy, GPUS_PER_NODE="8")
    assert finished.returncode == 0, finished.stderr
    for node in range(2):
        training = [str(ROOT / "tools" / "train.py"), "a config.py", "--launcher", "pytorch", "--work_dir", "work dirs/x", "--auto-resume"]
        assert words_of(records / str(node) / "python") == [*torchrun_words(node, processes=8), *training, *options]


def test_a_job_scores_on_each_node_with_static_rendezvous(records: Path):
    finished = run(records, "run_2_nodes.sh", "test", "config.py", "a checkpoint", "--split", "two words", SLURM_GPUS_ON_NODE="4")
    assert finished.returncode == 0, finished.stderr
    for node in range(2):
        scoring = [str(ROOT / "tools" / "test.py"), "config.py", "a checkpoint", "--launcher", "pytorch", "--eval", "segm", "--gpu-collect"]
        assert words_of(records / str(node) / "python") == [*torchrun_words(node, processes=4), *scoring, "--split", "two words"]


@pytest.mark.parametrize(("name", "kind"), [("WORK_DIR", "train"), ("CHECKPOINT", "test")])
def test_a_job_without_arguments_takes_them_from_its_environment(name: str, kind: str, records: Path):
    assert run(records, "run_2_nodes.sh", CONFIG="a config.py", **{name: "work dirs/x"}).returncode == 0
    said = {node: words_of(records / node / "python") for node in "01"}
    assert run(records, "run_2_nodes.sh", kind, "a config.py", "work dirs/x").returncode == 0
    assert said == {node: words_of(records / node / "python") for node in "01"}


@pytest.mark.parametrize(
    "variables",
    [{}, {"CONFIG": "x"}, {"WORK_DIR": "x"}, {"CONFIG": "x", "WORK_DIR": "y", "CHECKPOINT": "z"}, {"CONFIG": "", "WORK_DIR": "y"}],
)
def test_a_job_without_arguments_that_cannot_know_them_says_how_it_is_called(variables: dict[str, str], records: Path):
    finished = run(records, "run_2_nodes.sh", **variables)
    assert finished.returncode == 2
    assert finished.stderr.startswith("usage: sbatch -N NODES [options of sbatch] run_2_nodes.sh train CONFIG WORK_DIR [options] | test ")
    assert "or without arguments, with CONFIG and one of WORK_DIR and CHECKPOINT in the environment" in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (records / "srun").exists()


def test_srun_starts_one_task_on_each_node_with_the_five_arguments(records: Path):
    assert run(records, "run_2_nodes.sh", "train", "config.py", "x").returncode == 0
    assert words_of(records / "scontrol") == ["show", "hostnames", "a,b"]
    words = words_of(records / "srun")
    command = words.index("bash")
    assert words[:command] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    # Each task puts its node rank, the third of the five, between the others; without GPUs there is one process on a node
    assert words[command + 3 :] == [str(ROOT / "socc_8gpu.sh"), "2", "1", "c[3]-a", "71003", "config.py", "x"]
    assert run(records, "run_2_nodes.sh", "train", "config.py", "x", SLURM_CPUS_PER_TASK="12").returncode == 0
    assert "--cpus-per-task=12" in words_of(records / "srun")


def test_jobs_that_follow_each_other_have_different_ports(records: Path):
    ports = set()
    for job in ("6999", "7000", "7001"):
        assert run(records, "test.sh", "1", "1", "0", "localhost", job, "config.py", "checkpoint").returncode == 0
        ports.add(int(words_of(records / "python")[words_of(records / "python").index("--master-port") + 1]))
    assert ports == {31999, 25000, 25001}


def test_the_status_of_torchrun_is_the_status_of_the_training(records: Path):
    write_program(records.parent / "programs" / "python", "#!/usr/bin/env bash\nexit 3\n")
    assert run(records, "socc_8gpu.sh", "1", "1", "0", "localhost", "1", "config.py", "x").returncode == 3
    assert run(records, "test.sh", "1", "1", "0", "localhost", "1", "config.py", "checkpoint").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_script_alone_reaches_the_training_processes_and_spares_torchrun(number: signal.Signals, records: Path):
    write_program(records.parent / "programs" / "python", TORCHRUN_OF_ONE)
    words = ["bash", str(ROOT / "socc_8gpu.sh"), "1", "1", "0", "localhost", "1", "config.py", "x"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment(records)) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "ignored\n"  # what SIGUSR1 was until the training process set its handler
        # The training process may be there before the script has set its own trap
        for _ in range(50):
            script.send_signal(number)
            time.sleep(0.2)
            if script.poll() is not None:
                break
        assert script.returncode == number


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_missing_argument_is_answered_with_the_usage(entry: str, records: Path):
    complete = ["train", "config.py", "x"] if entry == "run_2_nodes.sh" else ["2", "8", "0", "c1", "71003", "config.py", "x"]
    finished = run(records, entry, *complete[:-1])
    assert finished.returncode != 0
    assert "usage: " in finished.stderr
    assert f"{entry} " in finished.stderr.split("usage: ")[1]
    assert not (records / "python").exists()
    assert not (records / "srun").exists()


def test_an_unknown_kind_of_job_and_a_wrong_folder_are_refused(records: Path, tmp_path: Path):
    finished = run(records, "run_2_nodes.sh", "score", "config.py", "x")
    assert finished.returncode == 2
    assert finished.stderr.startswith("score: usage: sbatch -N NODES")
    finished = run(records, "run_2_nodes.sh", "train", "config.py", "x", SLURM_SUBMIT_DIR=str(tmp_path))
    assert finished.returncode == 2
    assert finished.stderr == f"{tmp_path}/socc_8gpu.sh: no such file; call sbatch in the folder of the repository\n"


def test_nothing_of_one_site_is_inside():
    options = [line.split()[1] for entry in ENTRIES for line in (ROOT / entry).read_text().splitlines() if line.startswith("#SBATCH")]
    assert {option.split("=")[0] for option in options} == {
        "--job-name",
        "--ntasks-per-node",
        "--signal",
        "--requeue",
        "--open-mode",
        "--output",
    }
    for entry in ENTRIES:
        text = (ROOT / entry).read_text()
        assert not [word for word in ("--partition", "--account", "--qos", "--gres", "--nodelist", "/home", "module load") if word in text]


def run_outside(tmp_path: Path, *words: str) -> str:
    """Return what a script says on a machine without Slurm: one line, and exit code 2."""
    variables = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    finished = subprocess.run(["/bin/bash", str(ROOT / words[0]), *words[1:]], capture_output=True, text=True, check=False, env=variables)
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    return finished.stderr


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["run_2_nodes.sh", "train", "config.py", "x"], "bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR"),
        (["run_2_nodes.sh", "test", "config.py", "x"], "bash tools/dist_test.sh CONFIG CHECKPOINT GPUS"),
        (["run_2_nodes.sh"], "bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR | bash tools/dist_test.sh CONFIG CHECKPOINT GPUS"),
        (["tools/slurm_train.sh", "gpu", "job", "config.py", "x"], "bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR"),
        (["tools/slurm_test.sh", "gpu", "job", "config.py", "x"], "bash tools/dist_test.sh CONFIG CHECKPOINT GPUS"),
        (["tools/slurm_train.sh"], "on one machine use: bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR"),
        (["tools/slurm_test.sh"], "on one machine use: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS"),
        (["socc_8gpu.sh", "config.py", "x"], "on one machine use tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR"),
        (["test.sh", "config.py", "x"], "on one machine use tools/dist_test.sh CONFIG CHECKPOINT GPUS"),
    ],
)
def test_outside_of_slurm_the_scripts_say_what_to_use_instead(words: list[str], instead: str, tmp_path: Path):
    assert run_outside(tmp_path, *words).rstrip().endswith(instead)


@pytest.mark.parametrize(
    "words",
    [
        ["tools/dist_train.sh"],
        ["tools/dist_train.sh", "config.py", "--work-dir", "x"],
        ["tools/dist_train.sh", "config.py", "0"],
        ["tools/dist_test.sh", "config.py", "checkpoint"],
        ["tools/dist_test.sh", "config.py", "checkpoint", "--eval"],
        ["tools/slurm_train.sh", "gpu", "job", "config.py"],
        ["tools/slurm_test.sh"],
        ["socc_8gpu.sh", "2", "8", "0", "c1", "a[$(touch x)]", "config.py", "x"],
        ["test.sh", "2", "eight", "0", "c1", "71003", "config.py", "x"],
    ],
)
def test_missing_and_wrong_arguments_are_answered_with_how_the_script_is_called(words: list[str], tmp_path: Path):
    assert run_outside(tmp_path, *words).startswith(f"usage: {Path(words[0]).name} ")


def test_torchrun_gets_the_words_of_the_scripts_for_one_machine(records: Path):
    assert run(records, "tools/dist_train.sh", "a config.py", "8", "--seed", "1").returncode == 0
    words = words_of(records / "python")
    assert words[words.index("--nproc-per-node") + 1] == "8"
    assert words[-5:] == ["a config.py", "--launcher", "pytorch", "--seed", "1"]
    assert run(records, "tools/dist_test.sh", "config.py", "a checkpoint", "2").returncode == 0
    assert words_of(records / "python")[-6:] == ["config.py", "a checkpoint", "--launcher", "pytorch", "--eval", "segm"]
