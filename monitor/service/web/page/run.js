// The page of a run: its charts, and the tables below them, as the run goes on.

import * as address from "./address.js";
import { figure, nameOf, rowsOf } from "./charts.js";
import { gapsOf } from "./gaps.js";
import { groupCurve, heatmap, layersOverSteps } from "./layers.js";
import { follow } from "./live.js";
import { followOver } from "./over.js";
import { refreshParts } from "./parts.js";
import { keepTables, tableOf } from "./table.js";

const FIELDS = [
  "cumulative_sparsity", "step_sparsity", "newly_changed", "reverted", "changed", "touched", "transient", "hidden",
  "relative_norm", "host_seconds", "device_seconds", "monitor_bytes",
  "stride",
];
const MOST_LOGGED = 12;
const IMPORTANT = /^metric:(reward|kl|loss|grad_norm|learning_rate|entropy)$/;
const CONFIG = { displayModeBar: false, responsive: true };

const byId = (id) => document.getElementById(id);
const charts = byId("charts");
const [bands, thresholds] = [charts.dataset.bands, charts.dataset.thresholds].map(JSON.parse);
const api = `/api/v1/runs/${encodeURIComponent(charts.dataset.run)}`;
const [curves, layers, over, group] = ["curves", "layers", "over", "group"].map(byId);
const [slider, said, choice, layered] = ["step", "step-said", "group-choice", "layered"].map(byId);

let run = null;
let history = null;
let tag = "";
let steps = [];
let cells = null;
let asked = 0;
let moved = 0;
const answers = { layers: null, over: null, group: null };

async function answer(path, headers = {}) {
  const response = await fetch(path, { headers });
  if (!response.ok && response.status !== 304) throw new Error((await response.json()).detail);
  return response;
}

const json = async (path) => (await answer(path)).json();

function rangeQuery(query) {
  const { from, to } = address.read();
  if (from !== undefined) query.set("from_step", Math.max(0, Math.floor(from)));
  if (to !== undefined) query.set("to_step", Math.max(0, Math.ceil(to)));
  return query;
}

function range() {
  const { from, to } = address.read();
  return from === undefined ? null : [Number(from), Number(to)];
}

async function refresh() {
  asked += 1;
  const mine = asked;
  run = await json(api);
  const read = await answer(`${api}/history?${historyQuery()}`, { "If-None-Match": tag });
  const next = read.status === 304 ? null : await read.json();
  // The tables say the same to who does not see charts.
  await refreshParts();
  // Other steps were asked for meanwhile.
  if (next === null || mine !== asked) return;
  history = next;
  drawCurves();
  if (!byId("drawn").hidden) await Promise.all([refreshLayers(), refreshOver(), refreshGroup()]);
  // Not before all of it is drawn: what failed is to be read again.
  if (mine === asked) tag = read.headers.get("ETag") ?? "";
}

function historyQuery() {
  const named = run.fields.map((field) => field.name);
  const overlap = named.filter((name) => name.startsWith("overlap_o1:") || name.startsWith("overlap_lift:"));
  const all = named.filter((name) => name.startsWith("metric:"));
  const logged = [...all.filter((name) => IMPORTANT.test(name)), ...all.filter((name) => !IMPORTANT.test(name))]
    .slice(0, MOST_LOGGED);
  const left = all.length - logged.length;
  byId("left-out").textContent = left ? `${left} more logged metrics are in the table below` : "";
  return rangeQuery(new URLSearchParams([...FIELDS, ...overlap, ...logged].map((name) => ["fields", name])));
}

function drawCurves() {
  // The first attempt starts, the others resume.
  const marks = { bands, thresholds, attempts: run.attempts.slice(1) };
  const empty = !rowsOf(history.curves, measured(history)).length;
  byId("no-curves").textContent = range() ? "No observation in these steps." : "No observation yet: the curves begin with the first one.";
  byId("no-curves").hidden = !empty;
  byId("drawn").hidden = empty;
  if (empty) return;
  draw(curves, figure(history, marks, range()));
  fillCurves();
}

// A chart is made when it is first drawn: made out of sight, it would be 700 pixels wide, whatever room there is.
function draw(chart, { traces, layout }) {
  const made = Boolean(chart.on);
  const drawn = Plotly.react(chart, traces, layout, CONFIG);
  if (!made && chart === layers) chart.on("plotly_click", ({ points }) => choose(cells.groupAt(points[0].x, points[0].y)));
  else if (!made) chart.on("plotly_relayout", zoomed);
  return drawn;
}

async function refreshLayers() {
  const observed = history.curves.cumulative_sparsity?.step ?? [];
  if (!observed.length) return;
  steps = observed;
  slider.max = steps.length - 1;
  // Of the steps in sight, the last one; of all, the latest, whichever that is by then.
  const wanted = address.read().step ?? (range() ? steps.at(-1) : undefined);
  const at = wanted === undefined ? -1 : steps.findIndex((step) => step >= Number(wanted));
  slider.value = at < 0 ? steps.length - 1 : at;
  await drawLayers(wanted);
}

async function drawLayers(wanted) {
  moved += 1;
  const mine = moved;
  const read = await json(wanted === undefined ? `${api}/groups` : `${api}/groups?step=${encodeURIComponent(wanted)}`);
  // The slider went on.
  if (mine !== moved) return;
  said.textContent = `step ${read.step.toLocaleString("en")}${wanted === undefined ? ", the latest" : ""}`;
  slider.setAttribute("aria-valuetext", said.textContent);
  if (choice.options.length !== read.groups.length + 1) offer(read.groups);
  answers.layers = read;
  await drawCells();
  fillLayers();
}

function drawCells() {
  cells = heatmap(answers.layers);
  return draw(layers, cells);
}

function offer(groups) {
  const chosen = address.read().group ?? "";
  choice.length = 1;
  for (const each of groups) choice.add(new Option(`${each.label} ${each.module}`, `${each.label}/${each.module}`));
  choice.value = chosen;
}

const refreshOver = followOver(
  layered,
  (query) => json(`${api}/groups/history?${query}`),
  async (read) => {
    answers.over = read;
    await drawOver();
    fillOver();
  },
  failed,
);

function drawOver() {
  return draw(over, layersOverSteps(answers.over, range(), layered.selectedOptions[0].textContent));
}

async function refreshGroup() {
  const chosen = address.read().group;
  group.hidden = chosen === undefined;
  byId("group-numbers").hidden = group.hidden;
  if (chosen === undefined) return;
  const read = await json(`${api}/groups/history?${rangeQuery(new URLSearchParams({ group: chosen }))}`);
  answers.group = read;
  await drawGroup();
  fillGroup();
}

function drawGroup() {
  const { never, thinned } = gapsOf(history, run.attempts.slice(1));
  return draw(group, groupCurve(answers.group, range(), [...thinned, ...never]));
}

// The same in other colours.
function redraw() {
  if (history) drawCurves();
  for (const [shown, draw] of [["layers", drawCells], ["over", drawOver], ["group", drawGroup]]) {
    if (answers[shown]) draw();
  }
}

const measured = (read) => `${read.criterion}, ${read.visible_dtype}`;

const fillCurves = keepTables(byId("curves-numbers"), () => rowsOf(history.curves, measured(history)).map((row) => tableOf(
  row.unit in { ratio: 0, number: 0 } ? row.title : `${row.title}, in ${row.unit}`, "step",
  row.fields.map((field) => ({ name: nameOf(field), x: history.curves[field].step, y: history.curves[field].last, unit: row.unit })),
)));
const fillLayers = keepTables(byId("layers-numbers"), () => {
  const read = answers.layers;
  const modules = [...new Set(read.groups.map((each) => each.module))];
  const columns = modules.map((module) => {
    const those = read.groups.filter((each) => each.module === module);
    return { name: module, x: those.map((each) => each.label), y: those.map((each) => each.cumulative_sparsity), unit: "ratio" };
  });
  return [tableOf(`cumulative sparsity (${measured(read)}) at step ${read.step}`, "layer", columns)];
});
const fillOver = keepTables(byId("over-numbers"), () => {
  const read = answers.over;
  const columns = read.groups.map((each) => ({ name: each.label, x: read.step, y: each.values, unit: "ratio" }));
  return [tableOf(`${nameOf(read.field)} (${measured(read)}) by layer`, "step", columns)];
});
const fillGroup = keepTables(byId("group-numbers"), () => {
  const read = answers.group;
  const columns = read.groups.map((each) => ({ name: `${each.label} ${each.module}`, x: read.step, y: each.values, unit: "ratio" }));
  return [tableOf(`cumulative sparsity (${measured(read)})`, "step", columns)];
});

function choose(name) {
  address.write({ group: name || null });
  choice.value = name;
  refreshGroup().catch(failed);
}

function say(text) {
  byId("live").textContent = text;
}

function failed(error) {
  say(`not live: ${error.message}`);
}

function reread() {
  tag = "";
  return refresh().then(() => say("live")).catch(failed);
}

// All charts are over the same steps.
function zoomed(changed) {
  if (changed["xaxis.range[0]"] !== undefined) {
    address.write({ from: changed["xaxis.range[0]"], to: changed["xaxis.range[1]"] });
    reread();
  } else if (changed["xaxis.autorange"]) {
    address.write({ from: null, to: null });
    reread();
  }
}

slider.addEventListener("input", () => {
  const latest = Number(slider.value) === steps.length - 1 && !range();
  const step = latest ? undefined : steps[slider.value];
  address.write({ step: step ?? null });
  drawLayers(step).catch(failed);
});
choice.addEventListener("change", () => choose(choice.value));
layered.addEventListener("change", () => {
  address.write({ layered: layered.value });
  refreshOver().catch(failed);
});
byId("all-steps").addEventListener("click", () => {
  address.write({ from: null, to: null });
  reread();
});
// Paper is white, whatever the screen is.
for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", redraw);
addEventListener("hashchange", reread);

charts.hidden = false;
follow(`${api}/events`, refresh, say);
