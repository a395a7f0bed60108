"use strict";
// Completions: cards of a group, tokens in colour, what a group continues, what continues it, what a judge said.

const TOKENS = 1500; // of a completion that are drawn at once
const LEVELS = 9;
const COLOURS = [["", "none"], ["entropy", "entropy"], ["logprob", "log-probability"], ["advantage", "advantage"]];
const WORDS = { no_answer: "no answer", gold_unparseable: "gold unreadable", correct: "correct", wrong: "wrong",
  timeout: "grader timeout", error: "grader error", length: "truncated" };

// What the darkest colour means, for the completions that are shown together.
function scaleFor(rows, kind) {
  if (kind === "entropy") return Math.max(quantile(rows.flatMap((row) => row.entropies ?? []), 0.98), 0.05);
  if (kind === "logprob") return Math.max(quantile(rows.flatMap((row) => row.logprobs ?? []).map((v) => -v), 0.98), 0.05);
  return Math.max(...rows.flatMap((row) => row.segment_advantages ?? [row.advantage ?? 0]).map(Math.abs), 0.05);
}

function tokenClass(row, i, kind, most) {
  const level = (value) => Math.min(LEVELS, Math.round(LEVELS * Math.sqrt(Math.max(0, value) / most)));
  if (kind === "entropy") return "e" + level(row.entropies?.[i] ?? 0);
  if (kind === "logprob") return "l" + level(-(row.logprobs?.[i] ?? 0));
  if (kind === "advantage") return (row.advantage > 0 ? "p" : "m") + Math.min(LEVELS, Math.round(LEVELS * Math.abs(row.advantage ?? 0) / most));
  return "";
}

function legend(kind, most) {
  if (!kind) return null;
  const names = { entropy: ["certain", `${show(most)} nats`], logprob: ["probability 1", `${show(Math.exp(-most), "share")}`],
    advantage: [`${show(-most)}`, show(most)] }[kind];
  const classes = kind === "advantage"
    ? [...Array(5).keys()].map((i) => "m" + (LEVELS - 2 * i)).concat([...Array(5).keys()].map((i) => "p" + (1 + 2 * i)))
    : [...Array(LEVELS + 1).keys()].map((i) => kind[0] + i);
  return el("span", { class: "legend", "aria-label": `Colours of ${kind}` }, names[0], el("span", { class: "ramp" },
    classes.map((name) => el("i", { class: name }))), names[1]);
}

// The text of a completion. `kept` characters at its start were given to the model, or were kept of it.
function tokensOf(row, kind, most, limit, from = 0) {
  const text = el("div", { class: "text", dir: "auto" });
  const all = row.completion ?? "";
  if (!row.pieces || !kind) {
    const start = all.slice(0, limit * 4);
    const kept = from || (row.kept ?? "").length;
    if (kept) text.append(el("u", { title: "given: the beginning of an earlier attempt" }, visible(start.slice(0, kept))));
    text.append(visible(start.slice(kept)));
    return [text, all.length > start.length];
  }
  if (row.kept) text.append(el("u", { title: "given: the beginning of an earlier attempt" }, visible(row.kept)));
  row.pieces.slice(0, limit).forEach((piece, i) => {
    if (piece === null) {
      text.append(el("span", { class: "stop " + tokenClass(row, i, kind, most), "data-i": i }, "end"));
    } else if (piece) {
      text.append(el("span", { class: tokenClass(row, i, kind, most), "data-i": i }, visible(piece)));
    }
  });
  text.addEventListener("mouseover", (event) => hover(event, row));
  text.addEventListener("mouseleave", () => { document.getElementById("tip").hidden = true; });
  return [text, row.pieces.length > limit];
}

function hover(event, row) {
  const tip = document.getElementById("tip"), i = event.target.dataset?.i;
  tip.hidden = i === undefined;
  if (i === undefined) return;
  const logprob = row.logprobs?.[i];
  tip.replaceChildren(el("b", {}, row.pieces[i] === null ? "end of text" : JSON.stringify(visible(row.pieces[i]))),
    ` token ${Number(i) + 1} of ${row.pieces.length}`, el("br"),
    `entropy ${show(row.entropies?.[i])} nats, probability ${logprob === null || logprob === undefined ? "–" : show(Math.exp(logprob), "share")}`);
  const box = event.target.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (box.top > 60 ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + "px";
}

function badge(verdict) {
  const kind = verdict === "correct" ? "good" : verdict === "wrong" ? "bad" : "odd";
  return el("span", { class: "badge " + kind }, WORDS[verdict] ?? visible(verdict ?? "no verdict"));
}

// One completion. `options`: kind and most (colour), title, faded, kept (characters of an attempt that were kept),
// children (groups that continue it), against (lines of another completion, to mark those that differ).
function card(row, options) {
  const { kind, most } = options;
  const facts = [
    row.advantage !== undefined && ["advantage", show(row.advantage), "What the update multiplies the completion's log-probabilities with."],
    row.bonus !== null && row.bonus !== undefined && ["bonus", show(row.bonus), "What the novelty bonus added to the advantage."],
    ["tokens", show(row.length), ""],
  ].filter(Boolean);
  const odd = row.stop_reason === "length" && el("span", { class: "badge odd", title: "Cut at rollout.max_completion_length" }, "truncated");
  const head = el("div", { class: "head" }, badge(row.verdict), odd, options.title && el("b", {}, options.title),
    el("a", { class: "ref", href: linkTo({ ref: row.ref }), title: "Step and number of this completion" }, row.ref),
    facts.map(([name, value, title]) => el("span", { class: "fact", title }, name + " ", el("b", {}, value))));
  const body = el("div", {});
  const draw = (limit) => {
    const [text, more] = options.against ? [linesOf(row, options.against), false] : tokensOf(row, kind, most, limit, options.kept);
    body.replaceChildren(text);
    if (more) body.append(el("button", { type: "button", class: "more", onclick: () => draw(Infinity) }, `Show all ${show(row.length)} tokens`));
  };
  if (row.judge?.length || row.segment_scores?.length) body.append(judged(row, kind, most));
  else draw(TOKENS);
  const node = el("article", { class: "completion" + (options.faded ? " faded" : "") + (row.parent ? " guided" : ""), "data-ref": row.ref }, head, body);
  if (row.grader_detail) node.append(el("p", { class: "why" }, visible(row.grader_detail)));
  if (row.nearest && !options.against) {
    node.append(el("p", { class: "why" }, "Novelty ", el("b", {}, show(row.novelty)), ", the distance from ",
      el("button", { type: "button", class: "link", onclick: () => compareNearest(row) }, `its nearest neighbour ${row.nearest}`)));
  }
  for (const child of options.children ?? []) {
    node.append(el("p", { class: "why" }, "Its beginning was kept for ", el("a", { href: linkTo({ ref: child.ref }) },
      `step ${child.step}: ${child.correct} of ${child.n} correct`)));
  }
  node.append(moreFacts(row));
  return node;
}

const TOLD = new Set(["step", "uid", "source", "prompt", "completion", "logprobs", "entropies", "pieces", "kept", "ref", "verdict",
  "grader_detail", "stop_reason", "advantage", "bonus", "novelty", "nearest", "parent", "prefix_score", "prefix_fraction",
  "rollout_id", "length", "judge", "judged", "group", "reference", "segment_tokens", "segment_chars", "segment_scores",
  "segment_advantages", "correct"]);

function moreFacts(row) {
  const list = el("dl", {});
  for (const [name, value] of Object.entries(row)) {
    if (TOLD.has(name) || value === null || value === "") continue;
    const text = typeof value === "object" ? JSON.stringify(value) : show(value);
    list.append(el("dt", {}, visible(name)), el("dd", {}, visible(text.length > 600 ? text.slice(0, 600) + " …" : text)));
  }
  return el("details", { class: "facts" }, el("summary", {}, "answer, reward, further columns"), list);
}

// Lines of a completion, with a mark on those that the other does not have.
function linesOf(row, others) {
  const text = el("div", { class: "text", dir: "auto" });
  for (const line of (row.completion ?? "").split("\n")) {
    text.append(el("span", { class: others.has(line) ? "" : "differs" }, visible(line)), "\n");
  }
  return text;
}

// A trace by segment, each with the judge's score beside it, and with the reply, or with what it was worth in training.
function judged(row, kind, most) {
  const whole = row.completion ?? "", ends = row.segment_chars ?? [];
  const units = row.judge ?? row.segment_scores.map((score, segment) => ({ segment, score, status: score === null ? "none" : "ok" }));
  const single = units.length === 1 && ends.length > 1;
  const table = el("div", { class: "segments" });
  let start = 0, token = 0;
  (single || !ends.length ? [whole.length] : ends).forEach((end, i) => {
    const unit = units.find((one) => one.segment === i) ?? (single ? units[0] : undefined);
    const tokens = single || !ends.length ? row.pieces?.length : row.segment_tokens?.[i];
    const advantage = single ? row.advantage : row.segment_advantages?.[i] ?? row.advantage;
    const part = { ...row, advantage, completion: [...whole].slice(start, end).join(""), kept: "",
      pieces: row.pieces?.slice(token, tokens), logprobs: row.logprobs?.slice(token, tokens), entropies: row.entropies?.slice(token, tokens) };
    const score = unit?.score;
    table.append(el("div", { class: "segment" }, el("span", { class: "score s" + (score ? Math.round(score) : 0),
      title: unit ? `judge: ${unit.status}` : "not judged" }, score ? show(score) : unit ? unit.status : "–"),
      tokensOf(part, kind, most, TOKENS)[0],
      unit?.reply ? el("details", {}, el("summary", { title: "the judge's reply" }, el("span", {}, visible(unit.reply.trim().replace(/\s+/g, " ").slice(0, 90)))),
        el("div", { class: "text reply" }, visible(unit.reply))) : el("span", { class: "why" }, !row.judge && ["advantage ", el("b", {}, show(advantage))])));
    start = end; token = tokens;
  });
  const stored = row.judged && state.runs[place()].sources.find((source) => source.name.startsWith("judge/"));
  return el("div", {}, el("p", { class: "why" }, "Score of the judge, 1 to 5, for ",
    single ? "the whole trace" : "each segment (with rubrics by prefix: for everything up to its end)",
    stored && [". ", el("a", { href: linkTo({ source: stored.name, q: row.judged.replace(/\/\d+$/, ""), ref: "", step: "" }) }, "Its replies")]), table);
}

async function compareNearest(row) {
  const dialog = document.getElementById("dialog");
  const other = await ask("row", { ref: row.nearest });
  const close = el("button", { type: "button", class: "close", onclick: () => dialog.close(), "aria-label": "Close" }, "×");
  const sides = other.row ? [[row, other.row, "this completion"], [other.row, row, "nearest neighbour"]].map(([one, against, title]) =>
    card(one, { title, against: new Set((against.completion ?? "").split("\n")) })) : [card(row, { title: "this completion" }), el("p", {}, other.missing)];
  dialog.replaceChildren(close, el("h2", {}, `Distance ${show(row.novelty)}`),
    el("p", { class: "note" }, "Two completions of one problem as explore.encoder sees them: 0 is alike, 1 has nothing in common. Lines that the other does not have are marked.",
      row.bonus !== null && row.bonus !== undefined ? ` The bonus of this completion is ${show(row.bonus)}.` : ""),
    el("div", { class: "cards two" }, sides));
  dialog.showModal();
}

// What a group was begun with: the attempt, its kept part, and what came of it.
function lineage(answer, most) {
  const { group, parent, rows } = answer;
  if (!group.parent) return null;
  const first = rows[0] ?? {};
  const cut = first.prefix_fraction !== null && first.prefix_fraction !== undefined ? `after ${show(first.prefix_fraction, "share")} of it` : "";
  const score = first.prefix_score !== null && first.prefix_score !== undefined ? `, where the mean entropy of the kept part is ${show(first.prefix_score)} nats` : "";
  const box = el("section", { class: "lineage" });
  const before = parent.group ? `In the group of that attempt, ${parent.group.correct} of ${parent.group.n} were correct; ` : "";
  box.append(el("h3", {}, "Guided"), el("p", {}, `The prompt came with the beginning of attempt ${group.parent}, cut ${cut}${score}. `,
    before, `from here, ${group.correct} of ${group.n} are correct.`));
  if (parent.row) {
    box.append(card(parent.row, { kind: "", most, title: "the attempt", kept: (first.kept ?? "").length }));
    if (!first.kept) box.append(el("p", { class: "why" }, "Which part was kept cannot be shown without the tokenizer."));
  } else {
    box.append(el("p", { class: "why" }, parent.missing), first.kept && el("div", { class: "text" }, el("u", {}, visible(first.kept))));
  }
  return box;
}
