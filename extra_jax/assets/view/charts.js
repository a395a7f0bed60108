"use strict";
// Curves: one card a metric, a crosshair that is common to all, arms with what their seeds span.

const PALETTE = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
// Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond them that of the normal.
const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145,
  2.131, 2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042];

const SECTIONS = [
  ["Evaluation", (name) => name.startsWith("eval")],
  ["Exploration", (name) => name.startsWith("exploration/")],
  ["Judge", (name) => /^(judge|distill|exprl)\//.test(name)],
  ["Time and memory", (name) => /^(timing_s\/|tokens_per_second|step_time|num_tokens|epoch|memory)/.test(name)],
  ["Training", () => true],
];
const ORDER = ["Evaluation", "Training", "Exploration", "Judge", "Time and memory"];
const DRAG = 6; // pixels from which a press that moves is a zoom and no click

let charts = [];
let drawnAs = "";

// The lines of a metric: of runs, or of arms.
function metricLines(name, state) {
  const lines = [];
  for (const [place, one] of plotted(state).entries()) {
    const own = one.runs.map((run) => state.curves[run]).filter((c) => c && c.values[name]);
    if (!own.length) continue;
    const points = new Map();
    for (const curve of own) curve.steps.forEach((step, i) => {
      const y = curve.values[name][i];
      if (y === null) return;
      if (!points.has(step)) points.set(step, []);
      points.get(step).push([y, curve.values[name + "_low"]?.[i], curve.values[name + "_high"]?.[i]]);
    });
    const line = { label: one.label, color: one.color, runs: one.runs, points: new Map() };
    for (const [step, seen] of points) line.points.set(step, own.length > 1 ? overSeeds(seen.map((p) => p[0])) : seen[0]);
    lines.push(line);
  }
  return lines;
}

// What is drawn: each run, or each arm. The colour belongs to its place in the page, so hiding one changes no other.
function plotted(state) {
  const all = state.arms
    ? state.armList.map((arm, i) => ({ label: arm.label, key: arm.key, runs: arm.runs, color: PALETTE[i % 8] }))
    : state.runs.map((run, i) => ({ label: run.name, key: run.name, runs: [i], color: PALETTE[i % 8] }));
  return all.filter((one) => !state.off.has(one.key));
}

function overSeeds(values) {
  const n = values.length, mean = values.reduce((a, b) => a + b, 0) / n;
  if (n === 1) return [mean, null, null];
  if (n === 2) return [mean, Math.min(...values), Math.max(...values)];
  const sd = Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / (n - 1));
  const half = (STUDENT[n - 2] ?? 1.96) * sd / Math.sqrt(n);
  return [mean, mean - half, mean + half];
}

function bandWords(state) {
  if (!state.arms) return "Pale bands are 95 % intervals over the problems of an evaluation.";
  const sizes = new Set(state.armList.map((arm) => arm.runs.length));
  const words = ["Lines are means over the seeds of an arm, which are runs that differ in run.seed and run.dir only."];
  if (sizes.has(2)) words.push("The band of two seeds reaches from one to the other.");
  if ([...sizes].some((n) => n > 2)) words.push("The band of three seeds or more is the 95 % interval of their mean (Student's t).");
  return words.join(" ");
}

function smoothed(values, width) {
  if (!width) return values;
  return values.map((value, i) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, i - width), i + width + 1).filter((v) => v !== null);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
}

function drawCurves(state) {
  const host = document.getElementById("curves");
  const names = metricNames(state);
  const key = JSON.stringify([names, state.runs.map((run) => run.name), state.arms, [...state.off], state.smooth, state.find, state.all,
    matchMedia("(prefers-color-scheme: dark)").matches]);
  if (key === drawnAs) return charts.forEach((chart) => chart.update(state));
  drawnAs = key;
  charts.forEach((chart) => chart.plot.destroy());
  charts = [];
  const focus = document.activeElement?.id;
  host.replaceChildren(curveTools(state));
  if (!names.shown.length && !names.flat.length) {
    host.append(el("p", { class: "empty" }, state.find ? `No metric is called “${state.find}”.`
      : "No numbers yet: the run has not finished its first step."));
  }
  for (const title of ORDER) {
    const own = names.shown.filter((name) => section(name) === title);
    if (own.length) host.append(el("h2", {}, title), grid(own, state));
  }
  if (names.flat.length) {
    host.append(el("details", { class: "flat" },
      el("summary", {}, `${names.flat.length} metrics that never change`),
      el("ul", {}, names.flat.map((name) => el("li", {}, el("span", {}, titleWords(name, state)[0]), " ",
        el("b", {}, show(constant(name, state), titleWords(name, state)[1])))))));
  }
  if (focus) document.getElementById(focus)?.focus();
}

function curveTools(state) {
  const arms = state.armList.some((arm) => arm.runs.length > 1);
  const chips = (state.arms ? state.armList.map((arm) => [arm.key, `${arm.label} (${arm.runs.length} ${arm.runs.length > 1 ? "seeds" : "seed"})`])
    : state.runs.map((run) => [run.name, run.name])).map(([key, label], i) =>
    el("button", { class: "chip", type: "button", "aria-pressed": String(!state.off.has(key)),
      title: "Shows or hides this line", onclick: () => toggleLine(key) }, swatch(PALETTE[i % 8]), label));
  return el("div", { class: "tools" },
    el("div", { class: "chips" }, chips),
    el("span", { class: "spacer" }),
    arms && el("label", {}, "Lines ", choose("arms", [["", "each run"], ["1", "arms over seeds"]], state.arms ? "1" : "",
      (value) => go({ arms: value, off: "" }))),
    el("label", {}, "Smooth ", choose("smooth", [["", "no"], ["2", "5 steps"], ["5", "11 steps"], ["12", "25 steps"]],
      state.smooth ? String(state.smooth) : "", (value) => go({ smooth: value }))),
    el("input", { id: "find", type: "search", placeholder: "Find a metric", "aria-label": "Find a metric", value: state.find,
      oninput: (event) => go({ find: event.target.value }, true) }),
    el("label", { title: "Shows also the metrics that the report leaves out" },
      el("input", { type: "checkbox", checked: state.all, onchange: (event) => go({ all: event.target.checked ? "1" : "" }) }), " all"),
    el("p", { class: "hint" }, bandWords(state), " Click a point to read the completions of its step; drag to zoom, double-click to see all."));
}

function swatch(color) {
  const node = el("i", { class: "swatch" });
  node.style.background = `var(${color})`;
  return node;
}

function choose(id, options, value, onchange) {
  return el("select", { id, onchange: (event) => onchange(event.target.value) },
    options.map(([key, label]) => el("option", { value: key, selected: key === value }, label)));
}

const section = (name) => SECTIONS.find(([, has]) => has(name))[0];

function titleWords(name, state) {
  const own = state.words.metrics[name];
  if (own) return own;
  const evaluated = name.match(/^eval_(?:(.+)_)?(pass|avg|maj)@(\d+)$/);
  if (evaluated) {
    const k = evaluated[3];
    const what = { pass: k === "1" ? "A sample is correct" : `At least one of ${k} samples is correct`, avg: `Share of correct samples, of ${k}`,
      maj: `The most frequent answer of ${k} samples is correct` }[evaluated[2]];
    return [`${evaluated[2]}@${k}${evaluated[1] ? ", " + evaluated[1] : ""}`, "share", `${what}: held-out problems.`];
  }
  return [name, "", ""];
}

function metricNames(state) {
  const all = new Set();
  for (const curve of state.curves) for (const name of Object.keys(curve?.values ?? {})) all.add(name);
  const lead = [...new Set(state.words.panels.flat())];
  const rank = (name) => lead.includes(name) ? lead.indexOf(name) : 1000;
  let names = [...all].filter((name) => !/_(low|high)$/.test(name) || !all.has(name.replace(/_(low|high)$/, "")))
    .sort((a, b) => rank(a) - rank(b) || evalRank(a) - evalRank(b) || a.localeCompare(b));
  if (state.find) {
    const wanted = state.find.toLowerCase();
    names = names.filter((name) => (name + " " + titleWords(name, state)[0]).toLowerCase().includes(wanted));
  } else if (!state.all) {
    names = names.filter((name) => rank(name) < 1000 || /^eval_(?:.+_)?(pass|maj)@/.test(name));
  }
  const flat = names.filter((name) => constant(name, state) !== undefined);
  return { shown: names.filter((name) => !flat.includes(name)), flat };
}

const evalRank = (name) => Number(name.match(/@(\d+)$/)?.[1] ?? 500) + (/maj@/.test(name) ? 200 : 0);

// The value of a metric that has the same one everywhere, over three steps or more; undefined for others.
function constant(name, state) {
  const values = state.curves.flatMap((curve) => curve?.values[name] ?? []).filter((value) => value !== null);
  return values.length > 2 && values.every((value) => value === values[0]) ? values[0] : undefined;
}

function grid(names, state) {
  return el("div", { class: "panels" }, names.map((name) => {
    const [title, unit, note] = titleWords(name, state);
    const readout = el("div", { class: "readout", "aria-live": "off" });
    const place = el("div", { class: "plot" });
    const card = el("section", { class: "card", "data-metric": name }, el("h3", { title: name }, title), el("p", { class: "note" }, note), readout, place);
    requestAnimationFrame(() => card.isConnected && charts.push(new Chart(name, unit, place, readout, state)));
    return card;
  }));
}

class Chart {
  constructor(name, unit, place, readout, state) {
    Object.assign(this, { name, unit, place, readout, state });
    this.build();
    this.resized = new ResizeObserver(() => this.plot && place.clientWidth && this.plot.setSize({ width: place.clientWidth, height: 170 }));
    this.resized.observe(place);
  }

  data(state) {
    this.lines = metricLines(this.name, state);
    const runs = plotted(state).flatMap((one) => one.runs);
    // The steps of all metrics, so that the crosshair is at one place in all charts.
    const x = [...new Set(runs.flatMap((run) => state.curves[run]?.steps ?? []))].sort((a, b) => a - b);
    const columns = [x];
    for (const line of this.lines) {
      const at = (i) => smoothed(x.map((step) => line.points.get(step)?.[i] ?? null), i === 0 ? state.smooth : 0);
      columns.push(at(0), at(1), at(2));
    }
    return columns;
  }

  build() {
    const data = this.data(this.state);
    const [muted, lines] = [colour("--muted"), colour("--grid")];
    const dots = Math.max(...this.lines.map((line) => line.points.size)) <= 40;
    const series = [{}], bands = [];
    this.lines.forEach((line, i) => {
      const stroke = colour(line.color);
      series.push({ label: line.label, stroke, width: 2, spanGaps: true, points: { show: dots, size: 5, fill: stroke } });
      for (let k = 0; k < 2; k++) series.push({ stroke: thin(stroke, 0.35), width: 0.7, spanGaps: true, points: { show: false } });
      bands.push({ series: [3 * i + 3, 3 * i + 2], fill: thin(stroke, 0.16) });
    });
    const axis = { stroke: muted, grid: { stroke: lines, width: 1 }, ticks: { stroke: lines, width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
    this.plot = new uPlot({
      width: Math.max(this.place.clientWidth, 200), height: 170, series, bands,
      scales: { x: { time: false }, y: { range: (plot, low, high) => this.range(low, high) } },
      axes: [{ ...axis, grid: { show: false }, size: 26, values: (plot, at) => at.map((v) => Number.isInteger(v) ? String(v) : "") },
        { ...axis, size: 48, values: (plot, at) => at.map((v) => show(v, this.unit)) }],
      legend: { show: false },
      cursor: { sync: { key: "steps", setSeries: false }, points: { size: 7 }, y: false,
        // The chart's own rule swallows a click where its note of the pointer's place is older than the last scroll.
        drag: { x: true, y: false, dist: DRAG, click: () => {} } },
      hooks: { setCursor: [(plot) => this.read(plot)] },
    }, data, this.place);
    const over = this.place.querySelector(".u-over");
    let from = 0;
    over.addEventListener("mousedown", (event) => { from = event.clientX; });
    over.addEventListener("click", (event) => Math.abs(event.clientX - from) < DRAG && this.open(event));
    this.read(this.plot);
  }

  range(low, high) {
    if (low === null || high === null) return [0, 1];
    if (this.unit === "share") return [Math.min(0, low), Math.max(high, 0.05) * 1.04];
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [low >= 0 && low < high / 2 ? 0 : low - room, high + room];
  }

  read(plot) {
    const index = plot.cursor.idx ?? plot.data[0].length - 1;
    const step = plot.data[0][index];
    this.readout.replaceChildren(el("span", { class: "step" }, step === undefined ? "" : `step ${step}`), ...this.lines.map((line, i) => {
      let [value, low, high] = [1, 2, 3].map((k) => plot.data[3 * i + k][index] ?? null);
      let before = index;
      while (value === null && before > 0) value = plot.data[3 * i + 1][--before] ?? null;
      if (before !== index) [low, high] = [2, 3].map((k) => plot.data[3 * i + k][before] ?? null);
      return el("span", { title: line.label }, swatch(line.color), show(value, this.unit),
        low !== null && high !== null && el("small", {}, ` ${show(low, this.unit)} to ${show(high, this.unit)}`),
        before !== index && value !== null && el("small", {}, ` at step ${plot.data[0][before]}`));
    }));
  }

  // From a point to the completions of its step: of the line that is nearest to the pointer.
  // The place is that of the click: the crosshair follows the pointer a frame later.
  open(event) {
    const { plot } = this, corner = event.currentTarget.getBoundingClientRect();
    const index = plot.posToIdx(event.clientX - corner.left);
    const step = plot.data[0][index];
    if (step === undefined) return;
    const y = plot.posToVal(event.clientY - corner.top, "y");
    const far = this.lines.map((line, i) => Math.abs((plot.data[3 * i + 1][index] ?? Infinity) - y));
    const line = this.lines[far.indexOf(Math.min(...far))] ?? this.lines[0];
    openStep(line.runs[0], step, this.name);
  }

  update(state) {
    this.state = state;
    const zoom = this.plot.scales.x, all = this.plot.data[0];
    const zoomed = all.length && (zoom.min > all[0] || zoom.max < all[all.length - 1]);
    this.plot.setData(this.data(state), !zoomed);
    this.read(this.plot);
  }
}
