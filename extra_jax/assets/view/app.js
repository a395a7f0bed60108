"use strict";
// What is shown follows from the address behind `#`: every change of a filter is a new address, so a link restores it.

const FILTERS = ["step", "outcome", "guided", "bonus", "truncated", "shortest", "longest", "q"];
const state = { runs: [], words: { metrics: {}, panels: [] }, curves: [], status: [], off: new Set(), armList: [],
  list: [], next: null, total: null, shown: null, seen: "" };
const offline = JSON.parse(document.getElementById("data")?.textContent ?? "null");

// --- questions -------------------------------------------------------------------------------------------------

async function api(name, query = {}) {
  if (offline) return answerOffline(name, query);
  const response = await fetch("api/" + name + "?" + new URLSearchParams(query), { credentials: "same-origin" });
  const value = await response.json();
  if (!response.ok) throw new Error(value.error);
  return value;
}

const place = () => Math.max(0, state.runs.findIndex((run) => run.name === at("run")));
const sourceName = () => at("source") || state.runs[place()]?.sources[0]?.name || "training";
const ask = (name, query) => api(name, { run: place(), source: sourceName(), ...query });

// The same answers from the file itself, which holds some of them.
function answerOffline(name, query) {
  const key = `${query.run}|${query.source}`;
  if (name === "runs" || name === "state") return offline[name];
  if (name === "curves") return offline.curves[query.run];
  if (name === "groups") {
    const all = (offline.groups[key] ?? []).filter((entry) => passes(entry, query, offline.details[`${key}|${entry.ref}`]));
    return { groups: all, next: null, total: all.length };
  }
  const wanted = query.ref.split(":").map(Number);
  if (name === "group") {
    const entry = (offline.groups[key] ?? []).find((one) => one.step === wanted[0] && Number(one.ref.split(":")[1]) <= wanted[1]
      && wanted[1] < Number(one.ref.split(":")[1]) + one.n);
    if (!entry) throw new Error(`${query.ref} is not among the completions that this file holds`);
    return offline.details[`${key}|${entry.ref}`];
  }
  for (const [place, detail] of Object.entries(offline.details)) {
    const row = place.startsWith(key + "|") && detail.rows.find((one) => one.ref === query.ref);
    if (row) return { row, group: detail.group };
  }
  return { missing: `Completion ${query.ref} is not among those that this file holds.` };
}

function passes(entry, query, detail) {
  return (!query.step || entry.step === Number(query.step)) && (!query.guided || (entry.parent !== null) === (query.guided === "yes"))
    && (!query.outcome || ({ mixed: entry.correct > 0 && entry.correct < entry.n, solved: entry.correct === entry.n,
      unsolved: entry.correct === 0 }[query.outcome] ?? detail.rows.some((row) => row.verdict === query.outcome)))
    && (query.bonus !== "yes" || entry.bonus > 0) && (query.truncated !== "yes" || entry.truncated > 0)
    && (!query.shortest || entry.longest >= Number(query.shortest)) && (!query.longest || entry.shortest <= Number(query.longest))
    && (!query.q || [entry.uid, ...detail.rows.flatMap((row) => [row.prompt, row.completion, row.answer, row.group])].some((text) =>
      String(text ?? "").toLowerCase().includes(query.q.toLowerCase())));
}

// Whether a completion is one of those that the filter is about; the others of its group are faded.
function inFilter(row) {
  const q = at("q").toLowerCase(), outcome = at("outcome");
  return (!state.verdicts.includes(outcome) || row.verdict === outcome) && (!at("bonus") || row.bonus > 0)
    && (!at("truncated") || row.stop_reason === "length") && (!at("shortest") || row.length >= Number(at("shortest")))
    && (!at("longest") || row.length <= Number(at("longest")))
    && (!q || [row.uid, row.prompt, row.completion, row.answer, row.group].some((text) => String(text ?? "").toLowerCase().includes(q)));
}

// --- the address -----------------------------------------------------------------------------------------------

const address = () => new URLSearchParams(location.hash.slice(1));
const at = (name) => address().get(name) ?? "";

function changed(changes) {
  const next = address();
  for (const [name, value] of Object.entries(changes)) value ? next.set(name, value) : next.delete(name);
  return "#" + next;
}
const linkTo = (changes) => changed({ view: "groups", ...changes });

function go(changes, quietly = false) {
  const target = changed(changes);
  if (quietly) { history.replaceState(null, "", target); draw(); } else if (target !== location.hash) location.hash = target;
}

function toggleLine(key) {
  const off = new Set(state.off);
  off.has(key) ? off.delete(key) : off.add(key);
  go({ off: [...off].join("|") });
}

// From a curve to the completions of the recorded step that is nearest.
function openStep(run, step, metric) {
  const sources = state.runs[run].sources;
  const bench = metric.match(/^eval_(?:(.+)_)?(?:pass|avg|maj)@/);
  const source = bench ? sources.find((s) => s.name === `eval/${bench[1]}`) ?? sources.find((s) => s.name.startsWith("eval/"))
    : sources.find((s) => s.name === "training") ?? sources[0];
  if (!source?.steps.length) return say(`${state.runs[run].name} has no recorded completions (logging.rollouts_every).`);
  const nearest = source.steps.reduce((a, b) => Math.abs(b - step) < Math.abs(a - step) ? b : a);
  location.hash = new URLSearchParams({ view: "groups", run: state.runs[run].name, source: source.name, step: nearest });
}

// --- drawing ---------------------------------------------------------------------------------------------------

function draw() {
  const view = at("view") === "groups" ? "groups" : "curves";
  state.off = new Set(at("off").split("|").filter(Boolean));
  state.arms = at("arms") && state.armList.some((arm) => arm.runs.length > 1);
  state.smooth = Number(at("smooth")) || 0;
  state.find = at("find");
  state.all = at("all") === "1";
  for (const name of ["curves", "groups"]) {
    document.getElementById(name).hidden = name !== view;
    document.getElementById("tab-" + name).setAttribute("aria-current", name === view ? "page" : "false");
    document.getElementById("tab-" + name).href = changed({ view: name });
  }
  document.title = `${state.runs.length === 1 ? state.runs[0].name : state.runs.length + " runs"} · extra-jax view`;
  view === "curves" ? drawCurves(state) : drawGroups();
}

let asked = 0;
async function drawGroups() {
  const host = document.getElementById("groups"), wanted = at("run");
  if (wanted && !state.runs.some((run) => run.name === wanted)) return host.replaceChildren(el("p", { class: "empty" }, `This page has no run ${wanted}.`));
  try {
    await fillGroups(host);
  } catch (error) { // what the link names is not there
    state.listed = null;
    host.replaceChildren(el("p", { class: "empty" }, error.message));
  }
}

async function fillGroups(host) {
  const filter = Object.fromEntries(FILTERS.map((name) => [name, at(name)]).filter(([, value]) => value));
  const key = JSON.stringify([place(), sourceName(), filter]);
  if (!state.runs[place()]?.sources.length) {
    return host.replaceChildren(el("p", { class: "empty" }, "No completions yet. A training writes those of every logging.rollouts_every-th step."));
  }
  if (state.listed !== key || !host.firstChild) {
    const before = state.listed && JSON.stringify(JSON.parse(state.listed).slice(0, 2));
    state.listed = key;
    if (before !== JSON.stringify([place(), sourceName()]) || !host.firstChild) {
      host.replaceChildren(groupTools(), el("div", { class: "split" }, el("aside", { id: "list", "aria-label": "Groups" }), el("section", { id: "detail" })));
    }
    syncTools();
    await fillList(filter, false);
  }
  await drawDetail();
}

async function fillList(filter, more) {
  const own = ++asked;
  const answer = await ask("groups", { ...filter, most: 60, ...(more ? { after: state.next } : {}) });
  if (own !== asked) return;
  state.list = more ? state.list.concat(answer.groups) : answer.groups;
  state.next = answer.next;
  state.total = answer.total;
  drawList(filter);
  if (answer.next && filter.q && state.list.length < 60) await fillList(filter, true); // a search goes on by itself
}

function drawList(filter) {
  const list = document.getElementById("list");
  if (!list) return;
  const top = list.scrollTop;
  const pending = state.status[place()]?.sources[sourceName()]?.pending ?? 0;
  const count = state.total === null ? `${state.list.length}${state.next ? " so far" : ""} found` : `${show(state.total)} ${state.total === 1 ? "group" : "groups"}`;
  list.replaceChildren(el("p", { class: "count" }, count, pending ? `, ${pending} steps not indexed yet` : ""),
    ...state.list.map((entry) => el("a", { class: "entry", href: linkTo({ ref: entry.ref }), "data-ref": entry.ref,
      "aria-current": state.shown === entry.ref ? "true" : "false" },
      el("span", { class: "name" }, visible(entry.uid)), shareBar(entry),
      el("span", { class: "meta" }, `${stepWord()} ${stepName(entry.step)}`, ` · ${entry.correct}/${entry.n} correct`,
        entry.parent && el("em", { class: "guided" }, "guided"), entry.bonus > 0 && el("em", { class: "bonus" }, "bonus"),
        entry.truncated > 0 && el("em", {}, `${entry.truncated} truncated`)))));
  if (!state.list.length) list.append(el("p", { class: "empty" }, pending ? "Reading …" : Object.keys(filter).length ? "Nothing passes this filter." : "Nothing is recorded yet."));
  if (state.next) list.append(el("button", { type: "button", class: "more", onclick: () => fillList(filter, true) }, "Show more"));
  list.scrollTop = top;
}

const stepWord = () => sourceName().startsWith("judge/") ? "round" : "step";
const stepName = (step) => sourceName().startsWith("judge/") ? Math.floor(step / 10000) : step;

function shareBar(entry) {
  const bar = el("i");
  bar.style.width = 100 * entry.correct / entry.n + "%";
  return el("span", { class: "share" + (entry.parent ? " guided" : ""), title: `${entry.correct} of ${entry.n} correct` }, bar);
}

async function drawDetail() {
  const detail = document.getElementById("detail");
  if (!detail) return;
  const ref = at("ref") || state.list[0]?.ref;
  if (!ref) { state.shown = null; detail.dataset.key = ""; return detail.replaceChildren(); }
  const key = JSON.stringify([place(), sourceName(), ref, at("color"), FILTERS.map(at), state.seen]);
  if (detail.dataset.key === key) return;
  let answer;
  try {
    answer = await ask("group", { ref });
  } catch (error) {
    detail.dataset.key = "";
    return detail.replaceChildren(el("p", { class: "empty" }, error.message));
  }
  detail.dataset.key = key;
  const jumped = state.shown !== answer.group.ref;
  state.shown = answer.group.ref;
  showGroup(detail, answer, ref);
  for (const entry of document.querySelectorAll("#list .entry")) {
    entry.setAttribute("aria-current", entry.dataset.ref === state.shown ? "true" : "false");
    if (jumped && entry.dataset.ref === state.shown) entry.scrollIntoView({ block: "nearest" });
  }
}

function showGroup(detail, answer, ref) {
  const { group, rows, children, visits } = answer;
  const color = at("color") || (rows.some((row) => row.pieces && row.entropies) ? "entropy" : "");
  const kind = color === "none" ? "" : color, most = scaleFor(rows, kind);
  const from = (row) => children.filter((child) => child.parent === row.ref);
  const cards = el("div", { class: rows.some((row) => row.judge?.length || row.segment_scores?.length) ? "cards wide" : "cards" }, rows.map((row) =>
    card(row, { kind, most, faded: !inFilter(row), children: from(row) })));
  const missing = state.status[place()]?.no_tokens;
  detail.replaceChildren(...[
    el("h2", {}, visible(group.uid)),
    el("pre", { class: "prompt" }, visible(rows[0]?.prompt ?? "")),
    rows[0]?.reference && el("details", { class: "facts" }, el("summary", {}, "reference solution, which the judge saw"), el("pre", { class: "prompt" }, visible(rows[0].reference))),
    visits.length > 1 && visitStrip(group, visits),
    el("div", { class: "bar" }, el("b", {}, `${stepWord()} ${stepName(group.step)}: ${group.correct} of ${group.n} correct`),
      el("label", {}, "Colour ", choose("color", [["entropy", "entropy"], ["logprob", "log-probability"], ["advantage", "advantage"], ["none", "none"]],
        kind || "none", (value) => go({ color: value }))), legend(kind, most)),
    missing && !rows.some((row) => row.pieces) && el("p", { class: "warn" }, visible(missing)),
    !missing && rows.length && !rows.some((row) => row.pieces) && el("p", { class: "warn" },
      "The tokens of these rows do not give their text with the tokenizer of the run, so the text is shown without them."),
    lineage(answer, most), cards].filter(Boolean));
  if (rows.length < group.n) {
    detail.append(el("button", { type: "button", class: "more", onclick: async (event) => {
      const further = await ask("group", { ref, first: rows.length });
      event.target.remove();
      showGroup(detail, { ...answer, rows: rows.concat(further.rows) }, ref);
    } }, `Show ${Math.min(16, group.n - rows.length)} more of ${group.n}`));
  }
  const target = ref !== group.ref && cards.querySelector(`[data-ref="${CSS.escape(ref)}"]`);
  if (target) {
    target.classList.add("target");
    target.scrollIntoView({ block: "center" });
  }
}

// A problem over its visits: how often it was solved, orange where it was guided.
function visitStrip(group, visits) {
  return el("div", { class: "visits", role: "group", "aria-label": "Visits of this problem" }, el("span", {}, `${visits.length} visits`),
    visits.map((visit) => {
      const bar = el("i", { class: "fill" });
      bar.style.height = 100 * visit.correct / visit.n + "%";
      return el("a", { href: linkTo({ ref: visit.ref }), class: visit.parent ? "guided" : "", "aria-current": visit.ref === group.ref ? "true" : "false",
        title: `${stepWord()} ${stepName(visit.step)}: ${visit.correct} of ${visit.n} correct${visit.parent ? ", guided" : ""}` }, el("span", { class: "track" }, bar), el("small", {}, stepName(visit.step)));
    }));
}

function groupTools() {
  const text = (id, label, attributes = {}) => el("input", { id, "aria-label": label, placeholder: label, ...attributes,
    oninput: later((event) => go({ [id]: event.target.value, ref: "" }, true)) });
  const check = (id, label, title) => el("label", { title }, el("input", { id, type: "checkbox",
    onchange: (event) => go({ [id]: event.target.checked ? "yes" : "", ref: "" }) }), " " + label);
  const own = state.runs[place()];
  return el("div", { class: "tools" },
    state.runs.length > 1 && choose("run", state.runs.map((run) => [run.name, run.name]), own.name, (value) => go({ run: value, ref: "", source: "", step: "" })),
    own.sources.length > 1 && choose("source", own.sources.map((source) => [source.name, source.title]), sourceName(), (value) => go({ source: value, ref: "", step: "" })),
    !sourceName().startsWith("judge/") && text("step", "step", { inputmode: "numeric", class: "short" }),
    choose("outcome", [["", "any outcome"], ["mixed", "mixed groups"], ["solved", "all correct"], ["unsolved", "none correct"],
      ...state.verdicts.map((verdict) => [verdict, "some " + (WORDS[verdict] ?? verdict)])], at("outcome"), (value) => go({ outcome: value, ref: "" })),
    choose("guided", [["", "plain and guided"], ["no", "plain prompts"], ["yes", "guided prompts"]], at("guided"), (value) => go({ guided: value, ref: "" })),
    check("bonus", "bonus", "Some completion has a positive novelty bonus"), check("truncated", "truncated", "Some completion was cut"),
    text("shortest", "tokens from", { inputmode: "numeric", class: "short" }), text("longest", "to", { inputmode: "numeric", class: "short" }),
    text("q", "Search problems and texts", { type: "search" }));
}

function syncTools() {
  for (const name of [...FILTERS, "run", "source"]) {
    const input = document.getElementById(name);
    if (!input || input === document.activeElement) continue;
    if (input.type === "checkbox") input.checked = at(name) === "yes";
    else input.value = name === "source" ? sourceName() : name === "run" ? state.runs[place()].name : at(name);
  }
}

function later(call) {
  let timer;
  return (event) => { clearTimeout(timer); timer = setTimeout(() => call(event), 250); };
}

// --- while the run goes on -------------------------------------------------------------------------------------

async function begin() {
  const answer = await api("runs");
  Object.assign(state, { runs: answer.runs, verdicts: answer.verdicts, words: { metrics: answer.metrics, panels: answer.panels } });
  const arms = new Map();
  answer.runs.forEach((run, i) => {
    if (!arms.has(run.arm)) arms.set(run.arm, { key: run.arm, label: run.arm_name, runs: [] });
    arms.get(run.arm).runs.push(i);
  });
  state.armList = [...arms.values()];
  for (const arm of state.armList) if (arm.runs.length === 1) arm.label = answer.runs[arm.runs[0]].name;
}

async function tick() {
  const status = await api("state");
  const before = state.status;
  state.status = status;
  await Promise.all(status.map(async (one, i) => {
    if (before[i]?.curves !== one.curves) state.curves[i] = await api("curves", { run: i });
  }));
  const seen = JSON.stringify(status.map((one) => one.sources));
  const grown = JSON.stringify(before.map((one) => one.sources)) !== seen;
  if (grown && before.length) await begin();
  drawStatus();
  draw();
  if (grown && before.length && at("view") === "groups" && state.listed && !at("q")) {
    await fillList(Object.fromEntries(FILTERS.map((name) => [name, at(name)]).filter(([, value]) => value)), false);
    await drawDetail();
  }
}

function drawStatus() {
  const words = state.status.map((one, i) => {
    const run = state.runs[i], fresh = one.age !== null && one.age < 120 && !offline;
    const reached = one.last === null ? "not started" : run.max_steps ? `step ${one.last} of ${run.max_steps}` : `step ${one.last}`;
    return { fresh, text: state.runs.length === 1 ? reached : "", over: `${run.name}: ${reached}` };
  });
  const fresh = words.filter((word) => word.fresh).length;
  document.getElementById("live").replaceChildren(el("i", { class: fresh ? "dot on" : "dot" }),
    [
      offline ? "a copy, with some of the completions" : fresh ? (state.runs.length > 1 ? `${fresh} live` : "live") : state.runs.length > 1 ? `${state.runs.length} runs` : "",
      ...words.map((word) => word.text),
    ].filter(Boolean).join(", "));
  document.getElementById("live").title = words.map((word) => word.over).join("\n");
  const notes = state.runs.filter((run) => run.fault).map((run) => run.fault);
  state.status.forEach((one, i) => Object.values(one.sources).forEach((source) => source.damaged &&
    notes.push(`${state.runs[i].name}: ${source.damaged} damaged lines are left out.`)));
  document.getElementById("notes").replaceChildren(...notes.map((note) => el("p", { class: "warn" }, visible(note))));
}

function say(text) {
  document.getElementById("notes").append(el("p", { class: "warn" }, text));
}

// --- keys ------------------------------------------------------------------------------------------------------

const KEYS = [["c, g", "curves, completions (groups)"], ["j, k", "next and previous group"], ["n, p", "next and previous visit of the problem"],
  ["e, l, a, 0", "colour by entropy, log-probability, advantage, not at all"], ["/", "search"], ["Esc", "close"]];

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
  const move = (links, by) => {
    const index = links.findIndex((link) => link.getAttribute("aria-current") === "true");
    links[Math.max(0, Math.min(links.length - 1, index + by))]?.click();
  };
  const entries = () => [...document.querySelectorAll("#list .entry")], visits = () => [...document.querySelectorAll(".visits a")];
  const does = { c: () => go({ view: "curves" }), g: () => go({ view: "groups" }), j: () => move(entries(), 1), k: () => move(entries(), -1),
    n: () => move(visits(), 1), p: () => move(visits(), -1), e: () => go({ color: "entropy" }), l: () => go({ color: "logprob" }),
    a: () => go({ color: "advantage" }), 0: () => go({ color: "none" }), "?": showKeys,
    "/": () => { event.preventDefault(); document.getElementById(at("view") === "groups" ? "q" : "find")?.focus(); } };
  does[event.key]?.();
}

function showKeys() {
  const dialog = document.getElementById("dialog");
  dialog.replaceChildren(el("button", { type: "button", class: "close", onclick: () => dialog.close(), "aria-label": "Close" }, "×"),
    el("h2", {}, "Keys"), el("dl", { class: "keys" }, KEYS.flatMap(([key, what]) => [el("dt", {}, key), el("dd", {}, what)])));
  dialog.showModal();
}

document.addEventListener("keydown", onKey);
document.getElementById("keys").addEventListener("click", showKeys);
document.getElementById("copy").addEventListener("click", async (event) => {
  await navigator.clipboard?.writeText(location.href);
  event.target.textContent = "Copied";
  setTimeout(() => { event.target.textContent = "Copy link"; }, 1500);
});
window.addEventListener("hashchange", draw);
if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token is a cookie now
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

async function live() {
  for (;;) {
    try {
      if (!document.hidden || !state.status.length) await tick();
      document.body.classList.remove("lost");
    } catch (error) {
      document.body.classList.add("lost"); // the server is gone; it is asked again
      document.getElementById("live").replaceChildren(el("i", { class: "dot" }), "no answer from extra-jax view");
    }
    if (offline) return;
    await new Promise((done) => setTimeout(done, 2000));
  }
}
begin().then(live);
