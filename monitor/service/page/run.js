// The page of a run: its charts, and the tables below them, as the run goes on.

import * as address from "./address.js";
import { figure } from "./charts.js";
import { groupCurve, heatmap } from "./layers.js";
import { follow } from "./live.js";

const FIELDS = [
  "cumulative_sparsity", "step_sparsity", "newly_changed", "reverted", "changed", "touched", "transient", "hidden",
  "relative_norm",
];
const MOST_LOGGED = 12;
const IMPORTANT = /^metric:(reward|kl|loss|grad_norm|learning_rate|entropy)$/;
const CONFIG = { displayModeBar: false, responsive: true };

const charts = document.getElementById("charts");
const bands = JSON.parse(charts.dataset.bands);
const api = `/api/v1/runs/${encodeURIComponent(charts.dataset.run)}`;
const [curves, layers, group] = ["curves", "layers", "group"].map((id) => document.getElementById(id));
const slider = document.getElementById("step");
const said = document.getElementById("step-said");
const choice = document.getElementById("group-choice");

let history = null;
let tag = "";
let steps = [];
let cells = null;

async function answer(path, headers = {}) {
  const response = await fetch(path, { headers });
  if (!response.ok && response.status !== 304) throw new Error((await response.json()).detail);
  return response;
}

const json = async (path) => (await answer(path)).json();

async function refresh() {
  const run = await json(api);
  const named = run.fields.map((field) => field.name);
  const overlap = named.filter((name) => name.startsWith("overlap_o1:") || name.startsWith("overlap_lift:"));
  const all = named.filter((name) => name.startsWith("metric:"));
  const logged = [...all.filter((name) => IMPORTANT.test(name)), ...all.filter((name) => !IMPORTANT.test(name))]
    .slice(0, MOST_LOGGED);
  const left = all.length - logged.length;
  document.getElementById("left-out").textContent = left ? `${left} more logged metrics are in the table below` : "";
  const query = new URLSearchParams([...FIELDS, ...overlap, ...logged].map((name) => ["fields", name]));
  const { from, to } = address.read();
  if (from !== undefined) query.set("from_step", Math.max(0, Math.floor(from)));
  if (to !== undefined) query.set("to_step", Math.max(0, Math.ceil(to)));
  const read = await answer(`${api}/history?${query}`, { "If-None-Match": tag });
  await refreshTables();
  if (read.status === 304) return;
  history = await read.json();
  drawCurves();
  await Promise.all([refreshLayers(), refreshGroup()]);
  // Not before all of it is drawn: what failed is to be read again.
  tag = read.headers.get("ETag") ?? "";
}

function drawCurves() {
  const { from, to } = address.read();
  const { traces, layout } = figure(history, bands, from === undefined ? null : [Number(from), Number(to)]);
  Plotly.react(curves, traces, layout, CONFIG);
}

async function refreshLayers() {
  const observed = history.curves.cumulative_sparsity?.step ?? [];
  if (!observed.length) return;
  steps = observed;
  slider.max = steps.length - 1;
  const wanted = address.read().step;
  const at = wanted === undefined ? -1 : steps.findIndex((step) => step >= Number(wanted));
  slider.value = at < 0 ? steps.length - 1 : at;
  await drawLayers(wanted);
}

async function drawLayers(wanted) {
  const read = await json(wanted === undefined ? `${api}/groups` : `${api}/groups?step=${encodeURIComponent(wanted)}`);
  said.textContent = `step ${read.step.toLocaleString("en")}${wanted === undefined ? ", the latest" : ""}`;
  slider.setAttribute("aria-valuetext", said.textContent);
  cells = heatmap(read);
  await Plotly.react(layers, cells.traces, cells.layout, CONFIG);
  if (choice.options.length !== read.groups.length + 1) offer(read.groups);
}

function offer(groups) {
  const chosen = address.read().group ?? "";
  choice.length = 1;
  for (const each of groups) choice.add(new Option(`${each.label} ${each.module}`, `${each.label}/${each.module}`));
  choice.value = chosen;
}

async function refreshGroup() {
  const chosen = address.read().group;
  group.hidden = chosen === undefined;
  if (chosen === undefined) return;
  const read = await json(`${api}/groups/history?group=${encodeURIComponent(chosen)}`);
  const { traces, layout } = groupCurve(read);
  await Plotly.react(group, traces, layout, CONFIG);
}

// The tables say the same to who does not see charts; the service writes them.
async function refreshTables() {
  const response = await fetch(location.pathname);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const now of document.querySelectorAll("[data-now]")) {
    const next = page.querySelector(`[data-now="${now.dataset.now}"]`);
    if (next) now.replaceWith(document.adoptNode(next));
  }
}

function choose(name) {
  address.write({ group: name || null });
  choice.value = name;
  refreshGroup().catch(failed);
}

function say(text) {
  document.getElementById("live").textContent = text;
}

function failed(error) {
  say(`not live: ${error.message}`);
}

function reread() {
  tag = "";
  return refresh().catch(failed);
}

slider.addEventListener("input", () => {
  const latest = Number(slider.value) === steps.length - 1;
  const step = latest ? undefined : steps[slider.value];
  address.write({ step: step ?? null });
  drawLayers(step).catch(failed);
});
choice.addEventListener("change", () => choose(choice.value));
document.getElementById("all-steps").addEventListener("click", () => {
  address.write({ from: null, to: null });
  reread();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", reread);
addEventListener("hashchange", reread);

charts.hidden = false;
await Plotly.newPlot(curves, [], {}, CONFIG);
await Plotly.newPlot(layers, [], {}, CONFIG);
curves.on("plotly_relayout", (changed) => {
  if (changed["xaxis.range[0]"] !== undefined) {
    address.write({ from: changed["xaxis.range[0]"], to: changed["xaxis.range[1]"] });
    reread();
  } else if (changed["xaxis.autorange"]) {
    address.write({ from: null, to: null });
    reread();
  }
});
layers.on("plotly_click", ({ points }) => choose(cells.groupAt(points[0].x, points[0].y)));
follow(`${api}/events`, refresh, say);
