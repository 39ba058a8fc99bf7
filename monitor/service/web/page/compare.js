// Several runs in one chart, by step or by time, or their difference to one of them.

import * as address from "./address.js";
import { baseLayout, dotsOf, plain, theme } from "./charts.js";
import { interrupted, thinnedAlong } from "./gaps.js";
import { follow } from "./live.js";
import { refreshParts } from "./parts.js";
import { keepTables, tableOf } from "./table.js";

const CONFIG = { displayModeBar: false, responsive: true };
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SECONDS_IN_HOUR = 3600;

const byId = (id) => document.getElementById(id);
const [charts, curves, field, axis, minus] = ["charts", "curves", "field", "axis", "minus"].map(byId);
const runs = JSON.parse(charts.dataset.runs);
const chosen = () => ({ field: "cumulative_sparsity", axis: "step", minus: "", ...address.read() });

let drawn = [];
let unit = "";
let asked = 0;
const fillTables = keepTables(byId("numbers"), () => [
  tableOf(byId("explained").textContent, axis.selectedOptions[0].textContent, drawn),
]);

async function refresh() {
  asked += 1;
  const mine = asked;
  const shown = chosen();
  for (const control of [field, axis, minus]) control.value = shown[control.id];
  const query = new URLSearchParams([...runs.map((run) => ["run", run.run_id]), ["field", shown.field]]);
  if (shown.axis === "step" && shown.from !== undefined) {
    query.set("from_step", Math.max(0, Math.floor(shown.from)));
    query.set("to_step", Math.max(0, Math.ceil(shown.to)));
  }
  const response = await fetch(`/api/v1/compare?${query}`);
  const read = await response.json();
  if (!response.ok) throw new Error(read.detail);
  // Something else was chosen meanwhile.
  if (mine !== asked) return;
  draw(read, shown);
  await refreshParts();
}

function draw(read, shown) {
  const names = new Map(runs.map((run) => [run.run_id, run.name]));
  const lines = read.runs.filter((run) => run.curve).map((run) => {
    const x = along(run, shown.axis);
    // Logs of the trainer are not thinned in the store.
    const thinned = shown.field.startsWith("metric:") ? null : run.thinned;
    return {
      run: run.run_id, name: `${names.get(run.run_id)}${run.thinned ? " (thinned)" : ""}`, x, y: run.curve.last, unit: run.curve.unit,
      gaps: thinnedAlong(x, run.curve.step, thinned),
    };
  });
  const base = lines.find((line) => line.run === shown.minus);
  drawn = base ? lines.filter((line) => line !== base).map((line) => difference(line, base)) : lines;
  unit = lines[0]?.unit ?? "";
  const measured = [...new Set(read.runs.map((run) => `${run.criterion}, ${run.visible_dtype}`))].join("; ");
  byId("explained").textContent = explained(shown, base, measured, lines);
  redraw();
  fillTables();
}

function redraw() {
  const { traces, layout } = figure(chosen());
  Plotly.react(curves, traces, layout, CONFIG);
}

function along(run, by) {
  if (by === "step") return run.curve.step;
  const { started_at: start } = runs.find((each) => each.run_id === run.run_id);
  return run.curve.time.map((time) => (time - start) / SECONDS_IN_HOUR);
}

// To the last value that the other had by then; where it had none yet, or has ended, there is none.
function difference(line, base) {
  let at = -1;
  const y = line.x.map((x, index) => {
    while (at + 1 < base.x.length && base.x[at + 1] <= x) at += 1;
    const [value, other] = [line.y[index], x > base.x.at(-1) ? null : base.y[at] ?? null];
    return value === null || other === null ? null : value - other;
  });
  return { ...line, y };
}

function explained(shown, base, measured, lines) {
  const what = field.selectedOptions[0]?.textContent ?? shown.field;
  const told = `${what} (${measured}), ${{ ratio: "in %" }[unit] ?? (unit ? `in ${unit}` : "a number")}`;
  const missing = runs.length - lines.length;
  const none = missing ? ` ${missing} of the runs ${missing > 1 ? "have" : "has"} no such curve.` : "";
  if (!base) return `${told}.${none}`;
  const points = unit === "ratio" ? ", in percentage points" : "";
  return `${told}: difference to ${base.name}${points}, to the last value that it had by then.${none}`;
}

// A legend has no room for more; the table below it has all of the name.
function short(name) {
  const most = innerWidth < 640 ? 32 : 60;
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

function figure(shown) {
  const colours = theme();
  const format = { ratio: ".4~%", weights: "~s", bytes: "~s" }[unit] ?? ".4~g";
  const traces = drawn.flatMap((line) => {
    // A run keeps its colour, whichever others are drawn.
    const place = runs.findIndex((run) => run.run_id === line.run);
    const color = colours.curves[place % colours.curves.length];
    const dash = DASHES[Math.floor(place / colours.curves.length) % DASHES.length];
    const base = { type: "scatter", connectgaps: false, legendgroup: line.run, marker: { color } };
    const dotted = { mode: "lines+markers", line: { color, width: 1.2, dash: "dot" }, marker: { color, size: 3 } };
    return [...dotsOf(line.x, line.y, line.gaps, { ...base, ...dotted }), {
      ...base, ...interrupted(line.x, line.y, line.gaps), name: plain(short(line.name)),
      mode: line.x.length > 1 ? "lines" : "markers", line: { color, dash, width: 1.6 },
      hovertemplate: `%{y:${unit === "ratio" ? ".6~%" : ".6~g"}}<extra>${plain(short(line.name))}</extra>`,
    }];
  });
  const layout = {
    ...baseLayout(colours), height: 460, hovermode: "x", dragmode: "zoom", showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    xaxis: { title: { text: shown.axis === "step" ? "optimizer step" : "hours since the run started" }, gridcolor: colours.line, zeroline: false },
    yaxis: { tickformat: format, gridcolor: colours.line, zeroline: Boolean(shown.minus), zerolinecolor: colours.quiet, fixedrange: true },
  };
  if (shown.from !== undefined) layout.xaxis.range = [Number(shown.from), Number(shown.to)];
  return { traces, layout };
}

const say = (text) => { byId("live").textContent = text; };
const reread = () => refresh().catch((error) => say(`not live: ${error.message}`));

function show(changes) {
  address.write(changes);
  return reread();
}

field.addEventListener("change", () => show({ field: field.value }));
minus.addEventListener("change", () => show({ minus: minus.value || null }));
// Steps are no hours.
axis.addEventListener("change", () => show({ axis: axis.value, from: null, to: null }));
byId("all-steps").addEventListener("click", () => show({ from: null, to: null }));
// Paper is white, whatever the screen is.
for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", redraw);
addEventListener("hashchange", reread);

charts.hidden = false;
await Plotly.newPlot(curves, [], {}, CONFIG);
curves.on("plotly_relayout", (changed) => {
  if (changed["xaxis.range[0]"] !== undefined) show({ from: changed["xaxis.range[0]"], to: changed["xaxis.range[1]"] });
  else if (changed["xaxis.autorange"]) show({ from: null, to: null });
});
follow("/api/v1/events", refresh, say);
