"""A small run planned with the real TPU compiler; skipped where it is not installed."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest
from rich.console import Console

from extra_jax.config import Config, config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.model.config import preset
from extra_jax.plan import main
from extra_jax.plan.compiler import Compiled, refusal, tpu_mesh
from extra_jax.plan.main import make_plan, model_shape, plan
from extra_jax.plan.programs import Run, describe_run
from extra_jax.plan.table import show, to_json
from extra_jax.plan.verdict import Plan, program_memory

pytest.importorskip("libtpu", reason="the TPU compiler is not installed (pip install 'extra-jax[tpu]')")

TOPOLOGY = "v5e:2x2"
PARAMETERS = preset("tiny").num_parameters


def config(**train: object) -> Config:
    return config_from_dict(
        {
            "model": {"preset": "tiny"},
            "mesh": {"fsdp": 2, "tensor": 2},
            "rollout": {"max_prompt_length": 64, "max_completion_length": 192, "slots": 8, "chunk": 8},
            "train": {"prompts_per_step": 8, "num_generations": 4, "beta": 0.01, **train},
            "eval": {"data": {"source": "math500.jsonl"}, "temperature": 0.7, "top_p": 0.9},
        }
    )


@pytest.fixture(scope="module")
def planned() -> Plan:
    main.prepare()
    return make_plan(config(), TOPOLOGY)


def test_all_programs_of_a_step_are_compiled_and_fit(planned: Plan) -> None:
    assert [program.name for program in planned.run.programs] == [
        "weight sync", "prefill", "load", "clone", "resize", "select", "decode", "score", "update", "eval decode",
        "checksums",
    ]  # fmt: skip
    assert set(planned.phases) == {program.name for program in planned.run.programs} - {"eval decode", "checksums"}
    assert planned.fits
    assert planned.status == 0
    assert planned.chips == 4
    assert all(compiled.compile_seconds > 0 for compiled in planned.compiled.values())
    assert planned.seconds == pytest.approx(sum(phase.seconds for phase in planned.phases.values()))


def test_an_evaluation_adds_the_programs_that_training_has_not() -> None:
    main.prepare()

    def evaluated(slots: int | None = 8, **settings: object) -> Run:
        tree = config().model_dump()
        tree["eval"] = {"data": {"source": "math500.jsonl"}, **settings}
        tree["rollout"] |= {"slots": slots}
        planned = config_from_dict(tree)
        mesh, _ = tpu_mesh(planned.mesh, TOPOLOGY, 1)
        return describe_run(planned, model_shape(planned), mesh)

    def names(run: Run) -> set[str]:
        return {program.name.removeprefix("eval ") for program in run.programs if program.name.startswith("eval ")}

    assert names(evaluated()) == set(), "drawn as in training: the same programs"
    assert names(evaluated(temperature=0)) == {"decode"}
    longer = evaluated(max_completion_length=448)
    assert names(longer) == {"prefill", "load", "clone", "resize", "select", "decode"}
    ratio = longer.memory["eval cache"] / longer.memory["cache"]
    assert ratio == pytest.approx((64 + 448 + 8) / (64 + 192 + 8), rel=0.01)
    for program in longer.programs:
        if program.name.startswith("eval "):
            assert {"optimizer", "reference", "sampler", "eval cache"} <= set(program.alive)


def test_memory_by_kind_is_what_the_arrays_take(planned: Plan) -> None:
    kinds = planned.run.memory
    share = 4 * PARAMETERS / 4  # norms are on every device
    assert share <= kinds["parameters"] <= 1.1 * share
    assert 2 * kinds["parameters"] <= kinds["optimizer"] <= 2 * kinds["parameters"] + 64
    assert kinds["reference"] == kinds["parameters"]
    assert kinds["sampler"] == pytest.approx(2 * PARAMETERS / 2, rel=0.05)
    slots, positions = 8 / 2, 64 + 192 + 8
    assert kinds["cache"] == pytest.approx(2 * 4 * (2 / 2) * 32 * 2 * slots * positions, rel=0.01)
    for program in planned.run.programs:
        known = sum(kinds[kind] for kind in program.arguments)
        least = (
            0.5 * known if program.name == "prefill" else known
        )  # which needs no more of the last layer than its keys
        assert least <= planned.compiled[program.name].arguments <= known + 2_000_000  # padded to tiles


def test_the_loop_over_tokens_gathers_no_weight(planned: Plan) -> None:
    """The smallest matrix of a layer is 128 x 64; what is left are activations of 4 rows and numbers of the sampler."""
    inside = [one for one in planned.compiled["decode"].collectives if one.loops]
    assert inside
    assert all(one.bytes < 2 * 128 * 64 / 2 for one in inside if one.kind == "all-gather")
    assert {one.runs % 8 for one in inside} == {0}, "each runs for all 8 tokens of a chunk"


def test_no_token_waits_for_a_vote_of_other_shards_or_for_another_slice(planned: Plan) -> None:
    """The host says how many tokens a chunk draws: the condition of the loop asks no other device."""
    assert not [one for one in planned.compiled["decode"].collectives if one.shape == "u32[]"]
    two = config_from_dict(config().model_dump() | {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}})
    compiled = make_plan(two, TOPOLOGY, 2, only=("decode",)).compiled["decode"]
    assert compiled.collectives, "tensor parallelism adds up within a slice"
    assert not [one for one in compiled.collectives if one.crosses_slices]
    assert not [one for one in compiled.collectives if one.shape == "u32[]"]


def test_a_decode_step_of_a_real_model_reads_its_weights_and_the_cache_once_and_little_else() -> None:
    """Qwen3-1.7B, 128 rows of 2,048 positions; padding of rows and norms are all that comes on top."""
    main.prepare()
    rollout = {"max_prompt_length": 512, "max_completion_length": 1520, "slots": 128, "chunk": 16}
    settings = {"model": {"preset": "1.7B"}, "mesh": {"fsdp": 1, "tensor": 8}, "rollout": rollout}
    made = make_plan(config_from_dict({**settings, "train": {"num_generations": 8}}), "v5e:2x4", only=("decode",))
    assert 0.9 < made.decode_traffic <= 1.05  # below 1 where the compiler keeps the head on the chip for a chunk
    assert made.memory["decode"].temporaries <= 0.15e9


def test_what_makes_one_cache_of_another_needs_room_for_two_and_little_else() -> None:
    """Qwen3-0.6B, whose layers are stacked: the other cache, a layer at a time; the new one is counted once."""
    main.prepare()
    rollout = {"max_prompt_length": 512, "max_completion_length": 1520, "slots": 16, "chunk": 16}
    settings = {"model": {"preset": "0.6B"}, "mesh": {"fsdp": 1, "tensor": 8}, "rollout": rollout}
    made = make_plan(
        config_from_dict({**settings, "train": {"num_generations": 8}}), "v5e:2x4", only=("resize", "select")
    )
    cache = made.run.memory["cache"]
    for memory in made.memory.values():
        assert memory.kinds["cache"] == cache
        assert 0.5 * cache < memory.temporaries < 1.1 * cache


def test_weights_are_gathered_once_and_gradients_scattered(planned: Plan) -> None:
    sync = sum(one.bytes * one.runs for one in planned.compiled["weight sync"].collectives)
    assert 0 < sync <= 1.05 * 2 * PARAMETERS / 2
    kinds = {one.kind for one in planned.compiled["update"].collectives if one.loops}
    assert kinds & {"reduce-scatter", "all-reduce", "all-to-all"}


def test_gradients_of_replicas_cross_slices_once_in_each_micro_batch() -> None:
    main.prepare()
    replicas = config().model_copy(update={"mesh": config().mesh.model_copy(update={"data": 2})})
    made = make_plan(replicas, TOPOLOGY, slices=2, only=("update",))
    found = [one for one in made.compiled["update"].collectives if one.crosses_slices and one.loops]
    sent = sum(one.bytes * one.runs for one in found) / made.run.workload.micro_batches
    gradients = 2 * PARAMETERS / 4  # bytes of a device of a slice, bf16; the sum over two sends each byte once
    assert gradients <= sent <= 1.1 * gradients
    assert made.phases["update"].dcn_bytes >= sent * made.run.workload.micro_batches


def test_json_holds_what_the_table_shows(planned: Plan) -> None:
    told = json.loads(json.dumps(to_json(planned)))
    console = Console(width=200, record=True)
    show(planned, console)
    text = console.export_text()
    assert planned.sentence() in text
    assert told["verdict"].startswith("Fits on 4 v5e chips: ")
    assert told["chip"]["source"] in text
    assert 0 < told["decode_step_bytes"] == planned.compiled["decode"].step_bytes
    assert f"{planned.decode_traffic:.2f} times the weights" in text
    for name, program in told["programs"].items():
        assert name in text
        assert (
            sum(value for kind, value in program["hbm_bytes"].items() if kind != "total")
            == (program["hbm_bytes"]["total"])
        )
        assert program["compiler_flops_loops_once"] >= 0
        assert all(group["count"] > 0 for group in program["collectives"])


def test_a_run_that_does_not_fit_says_which_setting_mends_it(planned: Plan) -> None:
    need = {name: memory.total for name, memory in planned.memory.items()}
    chip = dataclasses.replace(planned.chip, hbm_bytes=int(max(need.values()) * 0.97))
    small = dataclasses.replace(planned, chip=chip, config=config(micro_batch_rows=4))
    assert not small.fits
    assert small.status == 1
    assert small.fullest == "update"
    assert "lower train.micro_batch_rows from 4 to about " in small.sentence()
    one = dataclasses.replace(small, config=config())
    assert "times as many chips" in one.sentence()
    room = need["decode"] - planned.run.memory["cache"] // 4  # a quarter of the slots is too much
    chip = dataclasses.replace(chip, hbm_bytes=int(room / config().plan.hbm_fraction))
    served = dataclasses.replace(small, chip=chip, memory={"decode": planned.memory["decode"]})
    assert "lower rollout.slots from 8 to about 5" in served.sentence()
    needs = planned.memory["select"]
    chip = dataclasses.replace(chip, hbm_bytes=int((needs.total - needs.temporaries / 2) / config().plan.hbm_fraction))
    shrinking = dataclasses.replace(small, chip=chip, memory={"select": needs})
    share = (needs.kinds["cache"] + needs.temporaries / 2) / (needs.kinds["cache"] + needs.temporaries)
    assert f"lower rollout.slots from 8 to about {int(8 * share)}" in shrinking.sentence()


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm. Exceeded",
            "program",
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (20.00G) exceeds available HBM (15.75G). HLO module: jit_update.",
            "temporaries",
        ),
    ],
)
def test_a_program_that_the_compiler_refuses_is_a_verdict(planned: Plan, message: str, what: str) -> None:
    """In the spelling of older compilers and in that of libtpu 0.0.52."""
    update = next(program for program in planned.run.programs if program.name == "update")
    assert refusal(message) == (what, 20 * 2**30)
    assert refusal("INTERNAL: something else") is None
    refused = Compiled(0.1, 1.0, 1000, 0, 20 * 2**30, what, 0.0, [])
    memory = program_memory(update, refused, planned.run)
    known = sum(planned.run.memory[kind] for kind in update.arguments)
    assert memory.total >= 20 * 2**30 + (known if what == "temporaries" else 0)
    plan = dataclasses.replace(
        planned, compiled=planned.compiled | {"update": refused}, memory=planned.memory | {"update": memory}
    )
    assert (plan.fits, plan.status) == (False, 1)
    assert "update needs 20.0 GiB of the 15.0 GiB" in plan.sentence()


def test_the_verb_prints_json_and_returns_the_status(planned: Plan, monkeypatch, capsys) -> None:
    monkeypatch.setattr(main, "make_plan", lambda config, topology, slices: planned)
    assert plan(config(), TOPOLOGY, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["topology"] == TOPOLOGY
    assert plan(config(), TOPOLOGY) == 0
    assert "Fits on 4 v5e chips" in capsys.readouterr().out


def test_a_second_plan_does_not_fight_over_the_library(planned: Plan) -> None:
    program = (
        "from extra_jax.config import MeshConfig\nfrom extra_jax.plan.compiler import prepare, tpu_mesh\nprepare()\n"
        "mesh, chip = tpu_mesh(MeshConfig(data=2), 'v5e:2x2', 2)\nprint(dict(mesh.shape))\n"
        "assert [device.slice_index for device in mesh.devices.flat] == [0] * 4 + [1] * 4"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "{'data': 2, 'fsdp': 4, 'tensor': 1}" in done.stdout


def test_a_mesh_that_cannot_be_laid_out_over_slices_is_refused() -> None:
    wide = config().model_copy(update={"mesh": config().mesh.model_copy(update={"fsdp": 4})})
    with pytest.raises(ExtraError, match=r"mesh.data=1 is not a multiple of the 2 slices: set mesh.data=2"):
        make_plan(wide, TOPOLOGY, slices=2)
    with pytest.raises(ExtraError, match=r"needs 8 devices; 4 here"):
        make_plan(config().model_copy(update={"mesh": config().mesh.model_copy(update={"data": 2})}), TOPOLOGY)


def test_a_folder_that_is_not_here_has_the_shape_of_its_name() -> None:
    tree = {"model": {"path": "models/Qwen3-1.7B"}}
    assert model_shape(config_from_dict(tree)).hidden_size == 2048
    with pytest.raises(ExtraError, match=r"model.path=models/Other"):
        model_shape(config_from_dict({"model": {"path": "models/Other"}}))
    assert jax.devices()[0].platform == "cpu"
