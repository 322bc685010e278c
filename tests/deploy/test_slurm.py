"""The batch script for Slurm, with stand-ins for Slurm's commands that treat this machine as two nodes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from penjing.training.metrics import read_metrics

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "penjing.sbatch"

SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) printf '127.0.0.1\\n127.0.0.1\\n' ;;
    requeue) echo "$2" >> "$FAKE/requeued"; kill $PPID ;;   # as Slurm ends the script of a job that it takes back
esac
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do
    SLURM_NODEID=$node "$@" &
    echo $! >> "$FAKE/agents"
done
code=0
for agent in $(jobs -p); do wait "$agent" || code=$?; done
exit $code
"""
SCANCEL = """#!/usr/bin/env bash
[ "$*" = "--signal=TERM 4711" ] && kill -TERM $(cat "$FAKE/agents")
"""
RECIPE = """
[parallel]
shard = 2

[corpus]
kind = "world"
documents = 60
dialogues = 10

[tokenizer]
vocab = 300

[shards]
validation = 0.1

[pretrain]
validation_tokens = 256

[pretrain.model]
family = "qwen3"
width = 16
layers = 2
heads = 2
context = 32

[pretrain.training]
steps = 40
batch = 4
precision = "fp32"
validate_every = 40
checkpoint_every = 2
"""


@pytest.fixture
def submit(tmp_path: Path):
    """Starts the script as Slurm's first node would, in a folder of its own; what it prints goes to `log`."""
    jobs: list[subprocess.Popen[bytes]] = []

    def start(srun: str = SRUN) -> subprocess.Popen[bytes]:
        commands = {"scontrol": SCONTROL, "srun": srun, "scancel": SCANCEL}
        for name, text in commands.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        (tmp_path / "agents").write_text("")
        (tmp_path / "tiny.toml").write_text(RECIPE)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PET_", "OUT"))},
            "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "FAKE": str(tmp_path),
            "VENV": str(tmp_path / "none"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "PROCESSES": "1",
            "PET_LOCAL_ADDR": "127.0.0.1",
        }
        command = ["bash", str(SCRIPT), "tiny.toml"]
        with (tmp_path / "log").open("ab") as log:
            jobs.append(
                subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        return jobs[-1]

    yield start
    for job in jobs:  # what a test that failed has left
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(job.pid, kind)
                time.sleep(5)  # torchrun passes it on
        job.wait()


def requeued(folder: Path) -> bool:
    return (folder / "requeued").exists()


def test_bash_can_read_it():
    """`bash -n`, and every setting of Slurm's comes before the first command, after which Slurm reads none."""
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, check=False).returncode == 0
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    settings = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(settings) > 8
    assert max(settings) < first


def test_it_says_what_it_wants():
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "RECIPE" in done.stderr


def test_a_run_that_fails_before_it_saves_is_not_queued_again(submit, tmp_path: Path):
    """It would fail again, and again."""
    assert submit("#!/usr/bin/env bash\nexit 3\n").wait(30) == 3
    assert not requeued(tmp_path)


def test_a_run_that_has_saved_is_queued_again(submit, tmp_path: Path):
    """Preemption and dead nodes: Slurm tells the steps alone, and all that the script sees is that they ended."""
    step = tmp_path / "runs/tiny/pretrain/checkpoints/step-000002"
    submit(f"#!/usr/bin/env bash\nsleep 0.1; mkdir -p {step}; exit 1\n").wait(30)
    assert requeued(tmp_path)
    (tmp_path / "requeued").unlink()
    assert submit("#!/usr/bin/env bash\nexit 1\n").wait(30) == 1  # what an earlier attempt has saved does not count
    assert not requeued(tmp_path)


@pytest.mark.slow
def test_time_is_up_and_the_queued_job_goes_on(submit, tmp_path: Path):
    """Two torchruns on this machine; USR1 in the middle; the second attempt does the other steps, each step once."""
    metrics, log = tmp_path / "runs/tiny/pretrain/metrics.jsonl", tmp_path / "log"
    job, until = submit(), time.monotonic() + 400
    while not list(tmp_path.glob("runs/tiny/pretrain/checkpoints/step-*")):
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    job.wait(120)
    assert requeued(tmp_path), log.read_text()
    assert ": stopped after" in log.read_text()
    done = max(line["step"] for line in read_metrics(metrics))
    assert 2 <= done < 40
    assert submit().wait(400) == 0, log.read_text()
    assert f"going on from step {done}" in log.read_text()
    steps = [line["step"] for line in read_metrics(metrics) if "loss" in line]
    assert steps == list(range(1, 41))
    assert (tmp_path / "runs/tiny/pretrain/model/model.safetensors").exists()
