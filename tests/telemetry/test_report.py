"""The report: self-contained, honest about what the data say, and made from whatever the run has."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from extra_jax.errors import ExtraError
from extra_jax.telemetry import charts, report_data
from extra_jax.telemetry.metrics import MetricsLog
from extra_jax.telemetry.report import write_curve_svg, write_report
from extra_jax.telemetry.report_data import choose_examples, load_run, span_text, verdict
from telemetry.runs import training_metrics, write_eval, write_records, write_run


class Page(HTMLParser):
    """Checks nesting, collects text and every attribute that could fetch something."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.fetched, self.tags = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(run_dir):
    html = write_report(run_dir).read_text()
    return html, Page(html), " ".join(Page(html).text)


@pytest.fixture
def run_dir(tmp_path):
    directory = tmp_path / "my <run>"
    write_run(directory)
    return directory


def test_the_report_is_self_contained(run_dir):
    html, page, _ = page_of(run_dir)
    assert page.fetched == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"@import|url\(|@font-face", html)
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}


def test_the_report_says_what_happened(run_dir):
    _, _, text = page_of(run_dir)
    assert re.search(
        r"pass@1 on 40 held-out problems went from 0\.125 \[0\.\d{3},\s0\.\d{3}\] at step 0 to 0\.725", text
    )
    assert "the interval excludes zero" in text
    for expected in ("my <run>", "5 steps", "graded by sums/1", "4 samples each", "Groups by outcome", "generate",
                     "I say right <i>0</i>", "dir: runs/<x>", "host.cores", "0.10.2"):  # fmt: skip
        assert expected in text, expected
    assert "NaN or infinite metric values: 1" in text


def test_text_of_the_model_is_escaped(run_dir):
    html, page, _ = page_of(run_dir)
    assert "<i>" not in html
    assert "i" not in page.tags


def test_examples_show_each_kind_without_picking(run_dir):
    examples, how = choose_examples(load_run(run_dir))
    assert [(e.title, e.before["uid"]) for e in examples] == [
        ("Wrong before, correct after", "p5"),
        ("Correct before, wrong after", "p4"),
        ("Wrong both times", "p30"),
        ("Correct both times", "p0"),
    ]
    assert examples[0].before["uid"] == examples[0].after["uid"]
    assert "not picked by hand" in how


def test_an_interval_without_width_is_not_sold_as_certainty(tmp_path):
    write_eval(tmp_path, 0, np.zeros((5, 2), bool))
    assert "not that the value is certain" in page_of(tmp_path)[2]


def test_no_change_is_called_no_evidence(tmp_path):
    correct = np.random.default_rng(0).random((60, 4)) < 0.3
    write_eval(tmp_path, 0, correct)
    write_eval(tmp_path, 9, correct[:, ::-1])
    assert verdict(load_run(tmp_path))[1].endswith("the interval includes zero, so this is no evidence of a change.")
    _, _, text = page_of(tmp_path)
    assert "no training step" in text


def test_other_problems_are_not_paired(tmp_path):
    write_eval(tmp_path, 0, np.eye(3, dtype=bool))
    write_eval(tmp_path, 9, np.eye(3, dtype=bool), uids=["x", "y", "z"])
    assert "not paired" in verdict(load_run(tmp_path))[1]
    _, _, text = page_of(tmp_path)
    assert "not paired" in text


def test_pairing_goes_by_uid_not_by_row(tmp_path):
    before, after = np.zeros((4, 2), bool), np.zeros((4, 2), bool)
    before[0], after[3] = True, True
    write_eval(tmp_path, 0, before, uids=list("abcd"))
    write_eval(tmp_path, 9, after, uids=list("dcba"))
    assert "+0.000 [+0.000,\u00a0+0.000]" in verdict(load_run(tmp_path))[1]


def test_completions_that_could_not_be_judged_are_counted(tmp_path):
    verdicts = np.array([["timeout", "correct"], ["wrong", "wrong"]])
    write_eval(tmp_path, 0, verdicts == "correct", verdicts=verdicts)
    _, _, text = page_of(tmp_path)
    assert "Not judged, counted as not solved" in text
    assert "25.0%" in text


def test_a_run_without_evaluation_does_not_claim_learning(tmp_path):
    write_run(tmp_path, evaluate=False)
    sentence, certainty = verdict(load_run(tmp_path))
    assert sentence == "No held-out evaluation was run."
    assert "not a measure of what was learned" in certainty
    _, _, text = page_of(tmp_path)
    assert "Training completions of step 1 and step 5" in text


def test_a_run_that_only_started(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(0, write_eval(tmp_path, 0, np.eye(4, dtype=bool)))
        log.log(1, training_metrics(1))
    _, _, text = page_of(tmp_path)
    assert "is 0.250" in text
    assert "before training" in text
    assert "No completions were recorded" in text
    assert "config.yaml is not in the run directory" in text


def test_supervised_fine_tuning_has_a_loss_panel(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in range(1, 4):
            log.log(step, {"loss": 1.0 / step, "grad_norm": 0.1, "step_time": 1.0})
    _, page, text = page_of(tmp_path)
    assert "Mean training loss: 1.000" in text
    assert page.tags.count("svg") == 1
    assert "the same in every step" in text, "the gradient norm is"


@pytest.mark.parametrize("names", [(), ("auto",), ("auto", "brevity")])
def test_several_reward_functions_share_a_panel(tmp_path, names):
    with MetricsLog(tmp_path) as log:
        for step in (1, 2):
            log.log(step, training_metrics(step) | {f"rewards/{name}/mean": 0.1 * step for name in names})
    page = write_report(tmp_path).read_text()
    assert ("Reward by function" in page) == (len(names) > 1)
    assert ("brevity: 0.2" in page) == (len(names) > 1)


def test_long_runs_stay_small(tmp_path, monkeypatch):
    with MetricsLog(tmp_path) as log:
        for step in range(1, 5001):
            log.log(step, training_metrics(step) | {"reward": math.sin(step), "grad_norm": float(step % 7)})
    write_records(tmp_path, 1, [[True, False]])
    for step in range(2, 400):
        shutil.copy(tmp_path / "rollouts" / "step_000001.jsonl", tmp_path / "rollouts" / f"step_{step:06d}.jsonl")
    parsed = []
    monkeypatch.setattr(report_data, "read_row", lambda line, *where: parsed.append(1) or json.loads(line))
    html, _, text = page_of(tmp_path)
    assert len(html) < 1_500_000
    assert len(parsed) == 2 * 24, "two completions of 24 steps"
    assert "24 of 399 recorded steps" in text


def test_a_long_curve_keeps_its_extremes():
    y = [0.0] * 5000
    y[3210], y[77] = 9.0, None
    rows = charts._rows(charts.Line("a", range(5000), y))
    assert len(rows) == charts.POINTS
    assert max(row["high"] for row in rows) == 9.0
    assert sum(row["raw"] for row in rows) == pytest.approx(9 / 25)
    assert {row["kind"] for row in rows} == {"stretch"}


def test_a_gap_breaks_the_line_and_a_lone_point_is_seen():
    rows = charts._rows(charts.Line("a", range(60), [1.0, None, 1.0, None] * 15))
    assert [row["y"] is None for row in rows[:4]] == [False, True, False, True]
    assert [row["dot"] for row in rows[:4]] == [True, False, True, False]


HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{7*7}}{% raw %}</text></svg></style>&lt;i&gt;"""


def elements(html):
    """Tags, names of attributes and their values, of a page."""

    class Elements(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.attributes = Counter(), set()

        def handle_starttag(self, tag, attrs):
            self.tags[tag] += 1
            self.attributes |= {name for name, _ in attrs}

        handle_startendtag = handle_starttag

    parser = Elements()
    parser.feed(html)
    return parser


def test_no_field_of_a_run_becomes_an_element(tmp_path):
    def page(name, hostile):
        run_dir = tmp_path / name
        run_dir.mkdir(parents=True)
        write_run(run_dir)
        benchmark = next((run_dir / "evals").iterdir())
        for path in (*benchmark.glob("*.jsonl"), *(run_dir / "rollouts").glob("*.jsonl")):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows:
                row |= {key: hostile for key in ("prompt", "completion", "answer", "stop_reason", "source", "grader")}
                row["verdict"] = hostile if row["verdict"] == "wrong" else row["verdict"]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for path in benchmark.glob("*.json"):
            record = json.loads(path.read_text())
            record |= {"source": hostile, "grader": hostile, "sampling": {hostile: hostile}}
            path.write_text(json.dumps(record) + "\n")
        benchmark.rename(benchmark.with_name(hostile.replace("/", "|")))
        shutil.copytree(
            benchmark.with_name(hostile.replace("/", "|")), benchmark.with_name("z" + hostile.replace("/", "|"))
        )
        path = run_dir / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            at = row["step"]
            row |= {f"verdicts/{hostile}": 0.1 * at, f"timing_s/{hostile}": 1.0 * at, hostile: 1.0}
            row |= {f"rewards/{hostile}{i}/mean": 0.1 * at * i for i in (1, 2)}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run_dir / "config.yaml").write_text(hostile)
        (run_dir / "run.json").write_text(json.dumps({hostile: hostile, "more": {hostile: [hostile]}}))
        html = write_report(run_dir).read_text()
        save = write_curve_svg(run_dir, run_dir / "curve.svg")
        ElementTree.fromstring(save.read_text())
        return html

    hostile, plain = page(HOSTILE.replace("/", "|"), HOSTILE), page("plain", "plain")
    assert elements(hostile).tags == elements(plain).tags
    assert elements(hostile).attributes == elements(plain).attributes
    assert "49" not in re.findall(r"alert\(2\)&gt;(..)", hostile), "templates are not rendered twice"
    assert "alert(1)" in hostile


def test_a_folder_that_is_not_a_run_is_explained(tmp_path):
    with pytest.raises(ExtraError, match=r"neither metrics\.jsonl nor evals/"):
        write_report(tmp_path)


@pytest.mark.parametrize("key", ["verdict", "completion_ids"])
def test_records_without_a_key_are_named(tmp_path, key):
    with MetricsLog(tmp_path) as log:
        log.log(1, training_metrics(1))
    path = write_records(tmp_path, 1, [[True, False]])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[1][key]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ExtraError, match=rf"step_000001\.jsonl, row 2: has no {key}"):
        write_report(tmp_path)


def test_the_curve_is_a_standalone_svg(run_dir, tmp_path):
    path = write_curve_svg(run_dir, tmp_path / "out" / "curve.svg")
    root = ElementTree.fromstring(path.read_text())
    text = " ".join(root.itertext())
    assert root.tag.endswith("svg")
    for expected in ("held-out pass@1", "held-out pass@4", "training pass rate", "95 % intervals", "step"):
        assert expected in text
    assert "prefers-color-scheme: dark" in text
    assert "var(" not in path.read_text(), "programs that know no variables of CSS would draw it black"
    assert 'fill="#ffffff"' in path.read_text()
    assert '[fill="#ffffff"] { fill: #181f27; }' in path.read_text()


def test_a_forest_plot_has_a_row_for_each_arm_and_marks_what_excludes_zero(tmp_path):
    drawing = charts.forest({"sure": (2.0, 1.0, 3.0), "unsure": (0.5, -1.0, 2.0)}, x="points").titled("pass@1")
    text = charts.save(tmp_path / "forest.svg", drawing).read_text()
    for label in ("sure", "unsure", "points", "pass@1"):
        assert f">{label}<" in text
    light = {"sure": "#2463d8", "unsure": "#8391a1"}
    assert all(text.count(f'fill="{color}"') == 2 for color in light.values()), "a dot, and its rule for the dark mode"


def test_a_curve_of_nothing_is_refused(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(1, {"reward": -1.0})
    with pytest.raises(ExtraError, match="nothing to draw"):
        write_curve_svg(tmp_path, tmp_path / "curve.svg")


def test_recorded_steps_of_one_evaluation_fall_back_on_training(tmp_path):
    write_run(tmp_path, evaluate=False)
    write_eval(tmp_path, 0, np.eye(2, dtype=bool))
    examples, _ = choose_examples(load_run(tmp_path))
    assert [e.title for e in examples] == [
        "Step 1, correct",
        "Step 1, not correct",
        "Step 5, correct",
        "Step 5, not correct",
    ]


def test_span_text():
    assert [span_text(s) for s in (42, 425, 11520)] == ["42 s", "7 min 5 s", "3 h 12 min"]


def test_several_benchmarks_are_told_apart(tmp_path):
    generator = np.random.default_rng(0)
    for step, rate in ((0, 0.2), (9, 0.7)):
        for name in ("aime24", "math500"):
            write_eval(tmp_path, step, generator.random((30, 4)) < rate, benchmark=name, majority=[rate] * 30)
    _, page, text = page_of(tmp_path)
    for name in ("aime24", "math500"):
        assert f"30 held-out problems of {name} went from" in text
        assert f"Held-out pass@k, {name}" in text
    assert page.tags.count("table") >= 2
    assert "maj@4" in text
    assert "+0.500" in text
    assert "Held-out problems of aime24, evaluated at step 0 and step 9" in text


def test_evaluations_with_other_sampling_are_not_paired(tmp_path):
    write_eval(tmp_path, 0, np.eye(3, dtype=bool))
    write_eval(tmp_path, 9, np.eye(3, dtype=bool), sampling={"temperature": 0.6})
    assert "differ in problems, grader or sampling, so the change is not paired" in verdict(load_run(tmp_path))[1]
