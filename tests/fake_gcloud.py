"""A `gcloud` for tests: knows the flags that Google documents for the commands of scripts/tpu_vm.sh, and a spot slice
that is taken away once. What it was asked stands in $FAKE_GCLOUD/calls."""

import os
import sys
from pathlib import Path

_ALL = {"zone", "project", "quiet", "format"}
_QUEUED = {
    "accelerator-type", "runtime-version", "spot", "node-id", "node-count", "node-prefix", "service-account", "scopes",
    "network", "subnetwork", "valid-until-duration",
}  # fmt: skip
DOCUMENTED = {  # https://cloud.google.com/sdk/gcloud/reference
    "compute tpus tpu-vm create": {"accelerator-type", "version", "spot", "service-account", "scopes", "network"},
    "compute tpus tpu-vm describe": set(),
    "compute tpus tpu-vm delete": set(),
    "compute tpus tpu-vm ssh": {"worker", "command", "internal-ip"},
    "compute tpus tpu-vm scp": {"worker", "recurse", "internal-ip"},
    "compute tpus queued-resources create": _QUEUED,
    "compute tpus queued-resources describe": set(),
    "compute tpus queued-resources delete": {"force"},
    "alpha compute tpus queued-resources create": _QUEUED | {"reservation", "provisioning-model", "max-run-duration"},
}


def main(arguments: list[str]) -> int:
    folder = Path(os.environ["FAKE_GCLOUD"])
    with (folder / "calls").open("a") as file:
        file.write("\t".join(arguments).replace("\n", " ") + "\n")
    verb = next((verb for verb in DOCUMENTED if arguments[: verb.count(" ") + 1] == verb.split()), None)
    if verb is None:
        print(f"gcloud: no such command: {' '.join(arguments)}", file=sys.stderr)
        return 2
    flags = {word.removeprefix("--").partition("=")[0] for word in arguments if word.startswith("--")}
    if unknown := flags - DOCUMENTED[verb] - _ALL:
        print(f"gcloud: {verb} has no {sorted(unknown)}", file=sys.stderr)
        return 2
    life = len(list(folder.glob("made_*")))
    if verb.endswith("queued-resources create"):
        (folder / f"made_{life + 1}").touch()
        (folder / "exists").touch()
    elif verb.endswith("delete"):
        (folder / "exists").unlink()
    elif verb.endswith("queued-resources describe"):
        if not (folder / "exists").exists():
            return 1
        looks = (folder / f"looks_{life}").read_text() if (folder / f"looks_{life}").exists() else ""
        (folder / f"looks_{life}").write_text(looks + ".")
        print("WAITING_FOR_RESOURCES" if not looks else "SUSPENDED" if life == 1 and len(looks) > 2 else "ACTIVE")
    elif "--command=cat extra_jax.status" in arguments:
        if life < 2:
            return 1  # the first slice is taken away before the run ends
        print((folder / "status").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
