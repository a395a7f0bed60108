"use strict";
// Small things that the whole page uses. Whatever comes from a run reaches the page through `el` and becomes text:
// nothing here, or anywhere in the page, parses a string as markup.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

// Characters that would hide, or turn the direction of what follows, are named instead.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/gu;
function visible(text) {
  return String(text).replace(/\r\n/g, "\n").replace(HIDDEN, (c) =>
    "\u27e8" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9");
}

function show(value, unit = "") {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (unit === "share") return (100 * value).toFixed(value && Math.abs(value) < 0.1 ? 1 : 0) + " %";
  const size = Math.abs(value);
  if (size && size < 1e-3) return value.toExponential(1).replace("-", "\u2212");
  if (size >= 10000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A colour of the palette, thinner: canvas knows no color-mix with variables.
function thin(hex, opacity) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${opacity})`;
}

function quantile(values, share) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
}
