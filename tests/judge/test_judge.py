"""The judge verb over real HTTP: cost, faults, kills, and that it needs no jax."""

import functools
import importlib.util
import json
import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from extra_jax import cli
from extra_jax.config import JudgeConfig
from extra_jax.errors import ExtraError
from extra_jax.judge import run, store
from extra_jax.judge.identity import choose_rubric, judge_id
from extra_jax.judge.join import STATUSES, join_scores
from extra_jax.judge.replies import Reply, ReplyCache, question_key
from extra_jax.judge.rubric import load_rubric

from .stores import SERVER, chain_store, judge_server

specification = importlib.util.spec_from_file_location("judge_server", SERVER)
server = importlib.util.module_from_spec(specification)
sys.modules["judge_server"] = server
specification.loader.exec_module(server)


@pytest.fixture(scope="module")
def url():
    with judge_server() as address:
        yield address


HEAVY = ("jax", "flax", "optax", "orbax", "grain", "transformers", "torch", "sentencepiece", "math_verify")


def settings(url, **changes):
    return JudgeConfig(endpoint=url, model="chain-judge", backoff=0.01, concurrency=16, **changes)


def scores_of(folder, rows, config):
    name = judge_id(config, choose_rubric(config))
    rubric = choose_rubric(config)
    return join_scores(rows, store.score_rows(folder, name), whole=rubric.unit == "rollout", duplicates="error")


def expected_level(row):
    reference = row["reference"].splitlines()
    return 1 + 4 * longest_common_subsequence(tuple(reference), tuple(row["text"].split("\n"))) // len(reference)


@functools.cache
def longest_common_subsequence(some, others):
    if not some or not others:
        return 0
    if some[0] == others[0]:
        return 1 + longest_common_subsequence(some[1:], others[1:])
    return max(longest_common_subsequence(some[1:], others), longest_common_subsequence(some, others[1:]))


def test_the_embedded_judge_gives_a_five_only_to_what_ends_like_the_reference():
    reference, rubric = "1+2=3\n3*4=12\n12-5=7\n", load_rubric("outcome_strict_v1")
    traces = {
        reference: 5,
        reference + "7+1=8\n": 4,
        "1+2=3\n9+9=18\n3*4=12\n12-5=7\n": 5,
        reference + "\nDone.\n": 5,
        "1+2=3\n": 2,
        "": 1,
    }
    asked = {trace: rubric.messages("", "chain 1 +2 *4 -5", reference, trace, 1, 1)[-1]["content"] for trace in traces}
    assert {trace: server.grade(question) for trace, question in asked.items()} == traces
    assert server.grade(asked[reference + "7+1=8\n"], lenient=True) == 5


def test_every_rollout_gets_the_score_of_the_program(tmp_path, url):
    rows = chain_store(tmp_path)
    tally = run.judge(tmp_path, settings(url))
    assert tally.statuses == {"ok": len(rows)}
    assert [s[0] for s in scores_of(tmp_path, rows, settings(url)).scores] == [expected_level(row) for row in rows]
    texts = {row["problem"] + row["text"] for row in rows}
    assert (tally.requests, tally.cached) == (len(texts), len(rows) - len(texts)), "equal questions are asked once"
    again = run.judge(tmp_path, settings(url))
    assert (again.requests, again.before, again.statuses) == (0, len(rows), tally.statuses)
    assert "judged 32 units: ok 32  parse 0" in str(again)


def test_prefixes_rise_to_the_score_of_the_whole(tmp_path, url):
    rows = chain_store(tmp_path)
    whole, prefix = settings(url), settings(url, rubric="process_prefix_v1")
    run.judge(tmp_path, whole)
    run.judge(tmp_path, prefix)
    totals, parts = scores_of(tmp_path, rows, whole).scores, scores_of(tmp_path, rows, prefix).scores
    for row, total, part in zip(rows, totals, parts, strict=True):
        assert len(part) == len(row["segment_tokens"])
        assert (np.diff(part) >= 0).all()
        assert part[-1] == total[0]


def test_conditions(tmp_path, url):
    rows = chain_store(tmp_path)
    means = {}
    for condition in ("ref", "noref", "wrongref"):
        config = settings(url, condition=condition)
        run.judge(tmp_path, config)
        means[condition] = np.mean([s[0] for s in scores_of(tmp_path, rows, config).scores])
    assert means["wrongref"] < means["ref"] < means["noref"]
    assert {card["condition"] for card in store.judges(tmp_path).values()} == {"ref", "noref", "wrongref"}


def test_wrong_references_are_a_derangement_and_a_function_of_the_seed(tmp_path):
    chain_store(tmp_path, prompts=9)
    shards = store.rollout_parts(tmp_path)
    wrong = run.wrong_references(shards, 0xC0DE)
    right = {row["problem"]: row["reference"] for shard in shards for row in shard.read(("problem", "reference"))}
    assert wrong.keys() == right.keys()
    assert all(wrong[problem] != right[problem] for problem in right)
    assert sorted(wrong.values()) == sorted(right.values())
    assert wrong == run.wrong_references(shards, 0xC0DE) != run.wrong_references(shards, 1)


def test_faults_are_overcome_and_the_tally_adds_up(tmp_path):
    rows = chain_store(tmp_path, prompts=60, samples=5)
    faults = ("--malformed", "0.3", "--errors", "0.1", "--drops", "0.02", "--truncated", "0.05")
    with judge_server(*faults) as address:
        config = settings(address, parse_retries=1)
        tally = run.judge(tmp_path, config)
    assert tally.statuses.total() == len(rows)
    assert set(tally.statuses) <= set(STATUSES)
    joined = scores_of(tmp_path, rows, config)
    assert {name: joined.counts[name] for name in STATUSES} == {name: tally.statuses[name] for name in STATUSES}
    assert joined.counts["missing"] == joined.counts["stale"] == joined.counts["foreign"] == 0
    # A third of the replies is no good and each unit gets two: about one in nine is lost, and none is scored wrongly.
    assert 0.75 < tally.statuses["ok"] / len(rows) < 0.98
    for row, score in zip(rows, joined.scores, strict=True):
        assert np.isnan(score[0]) or score[0] == expected_level(row)


@pytest.mark.parametrize(
    ("switches", "changes", "status"),
    [
        (("--malformed", "1"), {}, "parse"),
        (("--truncated", "1"), {}, "truncated"),
        (("--errors", "1"), {"retries": 1}, "transport"),
        (("--drops", "1"), {"retries": 1}, "transport"),
        (("--latency", "5"), {"retries": 0, "timeout": 0.1}, "timeout"),
        (("--context", "300"), {}, "too_long"),
    ],
)
def test_each_way_to_fail_has_its_status(tmp_path, switches, changes, status):
    rows = chain_store(tmp_path, prompts=2, samples=2)
    with judge_server(*switches) as address:
        tally = run.judge(tmp_path, settings(address, **changes))
        assert tally.statuses == {status: len(rows)}
        again = run.judge(tmp_path, settings(address, **changes))
    asked_again = status in run.ASKED_AGAIN
    assert (again.before, again.requests > 0) == ((0, True) if asked_again else (len(rows), False))


def test_what_got_no_answer_is_asked_by_the_next_run(tmp_path, url):
    rows = chain_store(tmp_path, prompts=2, samples=2)
    with judge_server("--errors", "1") as address:
        run.judge(tmp_path, settings(address, retries=0))
    assert scores_of(tmp_path, rows, settings(url)).counts["transport"] == len(rows)
    run.judge(tmp_path, settings(url))
    assert scores_of(tmp_path, rows, settings(url)).complete.all()
    assert len(store.parts(tmp_path, f"scores/{next(iter(store.judges(tmp_path)))}")) == 4


def test_a_dead_endpoint_stops_the_run_with_what_was_answered_kept(tmp_path):
    chain_store(tmp_path, prompts=40, samples=5, shards=1)
    with judge_server("--errors", "0.97") as address, pytest.raises(ExtraError, match="in a row got no answer"):
        run.judge(tmp_path, settings(address, retries=0))
    with ReplyCache(tmp_path / "replies") as cache:
        kept = len(cache)
    with judge_server() as address:
        tally = run.judge(tmp_path, settings(address))
    assert tally.statuses["ok"] == 200
    assert tally.requests <= 200 - kept


def test_expectation_uses_the_log_probabilities(tmp_path, url):
    rows = chain_store(tmp_path)
    config = settings(url, scoring="expectation")
    run.judge(tmp_path, config)
    mean = {1: 1.3, 2: 2.0, 3: 3.0, 4: 4.0, 5: 4.7}  # 0.7 on the level, the rest on its neighbours
    for row, score in zip(rows, scores_of(tmp_path, rows, config).scores, strict=True):
        assert score[0] == pytest.approx(mean[expected_level(row)])


def test_several_samples_are_averaged(tmp_path):
    rows = chain_store(tmp_path, prompts=2, samples=2)
    with judge_server("--noise", "1") as address:
        config = settings(address, samples=8, temperature=0.7)
        run.judge(tmp_path, config)
    scores = [s[0] for s in scores_of(tmp_path, rows, config).scores]
    assert all((8 * score) % 1 == 0 for score in scores)
    assert any(score % 1 for score in scores)


def test_settings_that_cannot_work_are_refused(tmp_path, url):
    chain_store(tmp_path, prompts=1, samples=1, shards=1)
    with pytest.raises(ExtraError, match=r"status 404: .*The model `other` does not exist, only `chain-judge`"):
        run.judge(tmp_path, settings(url).model_copy(update={"model": "other"}))
    with pytest.raises(ExtraError, match="nobody answers"):
        run.judge(tmp_path, settings("http://127.0.0.1:9/v1"))
    with pytest.raises(ExtraError, match=r"refuses requests .* status 404"):
        run.judge(tmp_path, settings(url.replace("/v1", "")))
    with pytest.raises(ExtraError, match="endpoint is not set"):
        run.judge(tmp_path, JudgeConfig(model="m"))
    with pytest.raises(ExtraError, match="at least two problems"):
        run.judge(tmp_path, settings(url, condition="wrongref"))
    with pytest.raises(ExtraError, match="no twin without a reference"):
        run.judge(tmp_path, settings(url, condition="noref", rubric="process_segment_v1"))
    with pytest.raises(ExtraError, match="NO_SUCH_KEY: this environment variable is not set"):
        run.judge(tmp_path, settings(url, api_key_env="NO_SUCH_KEY"))
    with pytest.raises(ExtraError, match="is a bucket"):
        run._cache_folder("gs://bucket/x", settings(url))


def test_replies_survive_a_cut_line_and_admit_one_process(tmp_path):
    replies = {question_key("m", "r", {}, [{"content": str(i)}]): Reply(f"é{i}\n", "stop", i, i, 0.5) for i in range(5)}
    with ReplyCache(tmp_path) as cache:
        for key, reply in replies.items():
            cache.put(key, reply)
        with pytest.raises(ExtraError, match="another judge works here"):
            ReplyCache(tmp_path)
    file = tmp_path / "replies.jsonl"
    file.write_bytes(file.read_bytes()[:-7])
    *kept, lost = replies
    with ReplyCache(tmp_path) as cache:
        assert cache.get(lost) is None
        cache.put(lost, replies[lost])
        assert {key: cache.get(key) for key in replies} == replies
    with ReplyCache(tmp_path) as cache:
        assert {key: cache.get(key) for key in [*kept, lost]} == replies


def test_twenty_kills_lose_no_score_and_pay_for_none_twice(tmp_path):
    folder, log = tmp_path / "store", tmp_path / "log.jsonl"
    rows = chain_store(folder, prompts=200, samples=6, shards=5)
    rubric, rng, width = load_rubric("outcome_strict_v1"), random.Random(0), 8
    sampling = {"max_tokens": 2048, "top_p": 1.0, "temperature": 0.0, "seed": 0, "scoring": "text", "extra_body": {}}
    key_of = {}  # by our key of a question, the server's
    for row in rows:
        messages = rubric.messages("", row["problem"], row["reference"], row["text"])
        key_of[question_key("chain-judge", rubric.sha(), sampling, messages)] = server.request_key(messages, 0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["extra_jax.judge.run"])
    moments = []  # (requests so far, what was kept) at each kill
    log.touch()
    with judge_server("--latency", "0.02", "--log", str(log)) as address:
        config = settings(address).model_copy(update={"concurrency": width})
        for _ in range(20):
            process = context.Process(target=run.judge, args=(str(folder), config))
            seen = log.stat().st_size
            process.start()
            # After so many bytes of further requests, which is at any point of its work, on a machine of any speed.
            wanted = seen + rng.randint(0, 8000)
            while process.is_alive() and log.stat().st_size < wanted:
                time.sleep(rng.uniform(0, 0.01))
            assert process.is_alive(), "the kills must come while there is work"
            process.kill()
            process.join()
            replies = folder / "replies" / "replies.jsonl"
            kept = replies.read_bytes().split(b"\n")[:-1] if replies.exists() else []
            recorded = {key_of[json.loads(line)["key"]] for line in kept}
            moments.append((len(log.read_text().splitlines()), recorded))
        tally = run.judge(folder, config)
    asked = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    assert len({len(recorded) for _, recorded in moments}) > 10, "most of the killed processes had got replies"
    for requests, recorded in moments:
        assert not recorded & set(asked[requests:])
    assert len(asked) <= len(key_of) + len(moments) * width, "only what was under way at a kill may be asked again"
    assert tally.statuses == {"ok": len(rows)}
    assert [s[0] for s in scores_of(folder, rows, config).scores] == [expected_level(row) for row in rows]


def test_the_verb_and_its_errors(tmp_path, url, capsys):
    chain_store(tmp_path)
    assert cli.main(["judge", str(tmp_path), f"endpoint={url}", "model=chain-judge", "concurrency=4"]) == 0
    assert "judged 32 units: ok 32" in capsys.readouterr().out
    assert cli.main(["judge", str(tmp_path), "concurency=4"]) == 2
    assert "concurency: unknown key; did you mean 'concurrency'?" in capsys.readouterr().err
    assert cli.main(["judge", str(tmp_path), "timeout=-1"]) == 2
    assert "timeout: Input should be greater than 0 (got -1)" in capsys.readouterr().err
    assert cli.main(["judge", str(tmp_path), "endpoint=gpu:8000"]) == 2
    assert "an endpoint is a URL such as" in capsys.readouterr().err
    assert cli.main(["judge", str(tmp_path / "none"), f"endpoint={url}", "model=chain-judge"]) == 2
    assert "no rollouts in it" in capsys.readouterr().err


def test_it_runs_where_jax_cannot_be_imported(tmp_path, url):
    chain_store(tmp_path, prompts=2)
    program = (
        "import sys\n"
        f"for name in {HEAVY}:\n"
        "    sys.modules[name] = None\n"
        "from extra_jax.cli import main\n"
        "sys.exit(main(['judge', *sys.argv[1:]]) or main(['calibrate', sys.argv[1]]))"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path), f"endpoint={url}", "model=chain-judge"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "ok 8" in done.stdout
    assert "misplacement" in done.stdout


def test_training_needs_no_openai_and_asking_says_that_it_does():
    program = (
        "import sys\nsys.modules['openai'] = None\nimport extra_jax.exprl.loop\nfrom extra_jax.cli import main\n"
        "sys.exit(main(['judge', 'store', 'endpoint=http://localhost:1/v1', 'model=m']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "extra-jax judge: asking a judge needs the package `openai`: pip install 'extra-jax[judge]'\n"
    )


def test_the_server_grades_by_established_steps():
    reference = "1+1=2\n2*3=6\n6-5=1\n1+8=9\n"
    rubric, segment = load_rubric("outcome_strict_v1"), load_rubric("process_segment_v1")
    for trace, level in (
        ("", 1),
        ("1+1=2\n", 2),
        ("1+1=2\n2*3=6", 3),
        ("1+1=3\n2*3=6\n6-5=1\n1+8=9\n", 4),
        (reference, 5),
    ):
        assert server.grade(rubric.messages("", "chain", reference, trace)[1]["content"]) == level
    for trace, level in (("1+1=2\n", 5), ("1+1=2\n1+1=3\n", 3), ("x\n", 1)):
        assert server.grade(segment.messages("", "chain", reference, trace)[1]["content"]) == level
    assert Path(SERVER).is_file()
