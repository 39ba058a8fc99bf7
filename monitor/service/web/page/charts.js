// The curves of a run, one below the other on one axis of steps, so that a zoom is of all.

import { bridges, gapsOf, interrupted } from "./gaps.js";

const ROW_PIXELS = 190;
// As many as a row has curves, each to be told from the others and from the ground of its theme.
const LIGHT = ["#0b7285", "#c2560a", "#7048a8", "#2f7d32", "#b02a5b"];
const DARK = ["#3bc9db", "#ffa94d", "#b197fc", "#69db7c", "#faa2c1"];
const BANDS = ["rgba(47, 125, 50, .13)", "rgba(176, 42, 91, .13)"];

const TICKS = { ratio: ".4~%", weights: "~s", seconds: ".3~s", bytes: ".4~s" };
const SUFFIXES = { seconds: "s", bytes: "B" };

// What has a row of its own: title, unit, and the fields in it.
export function rowsOf(curves, measured) {
  const has = (...names) => names.filter((name) => curves[name]?.last.some((value) => value !== null));
  const named = (prefix) => has(...Object.keys(curves).filter((name) => name.startsWith(prefix)));
  const rows = [
    { title: `cumulative sparsity (${measured})`, unit: "ratio", fields: has("cumulative_sparsity") },
    { title: `step sparsity (${measured})`, unit: "ratio", fields: has("step_sparsity") },
    { title: `weights moved per observation (${measured})`, unit: "weights", fields: has("newly_changed", "reverted") },
    { title: `weights so far (${measured})`, unit: "weights", fields: has("changed", "touched", "transient", "hidden") },
    { title: `changed weights in references (${measured})`, unit: "ratio", fields: named("overlap_o1:"), chance: true },
    { title: "size of the update, ‖Δ‖ ÷ ‖θ₀‖", unit: "ratio", fields: has("relative_norm") },
    { title: "time of the monitor per observation", unit: "seconds", fields: has("host_seconds", "device_seconds") },
    { title: "memory of the monitor", unit: "bytes", fields: has("monitor_bytes") },
  ];
  const logged = named("metric:").map((name) => ({ title: `logged: ${name.slice(7)}`, unit: "number", fields: [name] }));
  return [...rows, ...logged].filter((row) => row.fields.length);
}

// Names come from the run. plotly reads some markup in text, which here is none.
export const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export const nameOf = (field) => plain(field.replace(/^overlap_o1:/, "in ").replace(/^metric:/, "").replaceAll("_", " "));

function tracesOf(field, curve, index, place, bucketed, unit, gaps) {
  const { curves } = theme();
  const color = curves[index % curves.length];
  const base = { ...place, type: "scatter", mode: "lines", connectgaps: false };
  const drawn = (values) => interrupted(curve.step, values, gaps);
  const format = { ratio: ".6~%", weights: ",d", seconds: ".4~s", bytes: ",d" }[unit] ?? ".6~g";
  const line = {
    ...base, ...drawn(curve.last), name: nameOf(field), line: { color, width: 1.6 },
    mode: curve.step.length > 1 ? "lines" : "markers", marker: { color },
    hovertemplate: `%{y:${format}}${SUFFIXES[unit] ?? ""}<extra>${nameOf(field)}</extra>`,
  };
  const lines = [...dotsOf(curve.step, curve.last, gaps, { ...base, line: { color, width: 1.2, dash: "dot" } }), line];
  if (!bucketed) return lines;
  // What lies between the steps that are shown: from the least to the greatest.
  const edge = { ...base, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  return [
    { ...edge, ...drawn(curve.min) }, { ...edge, ...drawn(curve.max), fill: "tonexty", fillcolor: `${color}30` }, ...lines,
  ];
}

// The dots across gaps as a trace like `base`, if there are any.
export function dotsOf(x, y, gaps, base) {
  const dots = bridges(x, y, gaps);
  return dots.x.length ? [{ ...base, ...dots, hoverinfo: "skip", showlegend: false }] : [];
}

function chanceOf(field, curves, place) {
  const seen = curves[field];
  const lift = curves[field.replace("overlap_o1:", "overlap_lift:")];
  if (!lift) return [];
  const lifts = new Map(lift.step.map((step, at) => [step, lift.last[at]]));
  const y = seen.step.map((step, at) => (lifts.get(step) ? seen.last[at] / lifts.get(step) : null));
  const name = `${nameOf(field)}, by chance`;
  return [{
    ...place, x: seen.step, y, name, type: "scatter", mode: "lines", line: { dash: "dot", color: "#868e96", width: 1.4 },
    hovertemplate: `%{y:.6~%}<extra>${name}</extra>`,
  }];
}

const [LEGEND_LINE, LEGEND_EDGE] = [19, 14];

// What stands above a chart: title and legend beside each other, or one below the other where there is no room.
function headOf(row, narrow) {
  const showlegend = row.fields.length > 1 || Boolean(row.chance);
  if (!narrow) return { title: plain(row.title), showlegend, legend: 0, pixels: 26 };
  const lines = row.fields.length * (row.chance ? 2 : 1);
  const legend = showlegend ? lines * LEGEND_LINE + LEGEND_EDGE : 0;
  const [title, broken] = [plain(row.title), plain(row.title).replace(" (", "<br>(")];
  return { title: broken, showlegend, legend, pixels: legend + (broken === title ? 26 : 42) };
}

export function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return { text: colour("--text"), quiet: colour("--quiet"), line: colour("--line"), warning: colour("--warning"), curves: matchMedia("screen and (prefers-color-scheme: dark)").matches ? DARK : LIGHT };
}

// Browsers shrink a page to the paper: this is about as wide as the text beside the charts.
const PAPER_PIXELS = 1000;

export function baseLayout(colours) {
  return {
    ...(matchMedia("print").matches ? { width: PAPER_PIXELS } : {}),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colours.text },
    margin: { l: 64, r: 12, t: 34, b: 44 },
  };
}

// What plotly draws: `read` is an answer of /history, `marks` what is published (bands), where alerts fire (thresholds)
// and where the run was resumed (attempts), `range` the steps shown or null.
// Dots stand where observations are missing. Logs of the trainer are not thinned in the store.
export function figure(read, marks, range) {
  const rows = rowsOf(read.curves, `${read.criterion}, ${read.visible_dtype}`);
  const { never, thinned } = gapsOf(read, marks.attempts);
  const colours = theme();
  const narrow = innerWidth < 640;
  const heads = rows.map((row) => headOf(row, narrow));
  const inside = heads.reduce((sum, head) => sum + ROW_PIXELS - 26 + head.pixels, 0);
  const height = inside + 78;
  const traces = [];
  const bottom = rows.length > 1 ? `y${rows.length}` : "y";
  const layout = {
    ...baseLayout(colours), height, hovermode: "x", dragmode: "zoom", annotations: [], shapes: [],
    xaxis: { title: { text: "optimizer step" }, gridcolor: colours.line, zeroline: false, anchor: bottom },
  };
  if (range) layout.xaxis.range = range;
  let top = 1;
  rows.forEach((row, index) => {
    const number = index ? index + 1 : "";
    const head = heads[index];
    const upper = top - head.pixels / inside;
    top = upper - (ROW_PIXELS - 26) / inside;
    layout[`yaxis${number}`] = {
      domain: [Math.max(0, top + 14 / inside), upper], gridcolor: colours.line, zeroline: false,
      tickformat: TICKS[row.unit] ?? ".4~g", ticksuffix: SUFFIXES[row.unit] ?? "", fixedrange: true, nticks: 5,
      // What it costs: little is to look like little, and no tick is to say the same as the next.
      ...(row.unit in SUFFIXES ? { rangemode: "tozero" } : {}),
    };
    layout[`legend${number}`] = {
      orientation: narrow ? "v" : "h", x: narrow ? 0 : 1, xanchor: narrow ? "left" : "right", y: upper, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)",
    };
    layout.annotations.push({
      text: head.title, x: 0, xref: "paper", xanchor: "left", align: "left", y: upper + head.legend / inside, yref: "paper",
      yanchor: "bottom", showarrow: false, font: { color: colours.quiet },
    });
    const place = { yaxis: `y${number}`, legend: `legend${number}`, showlegend: head.showlegend };
    const gaps = row.fields[0].startsWith("metric:") ? never : [...thinned, ...never];
    row.fields.forEach((field, at) => {
      traces.push(...tracesOf(field, read.curves[field], at, place, read.bucket_steps > 1, row.unit, gaps));
      if (row.chance) traces.push(...chanceOf(field, read.curves, place));
    });
  });
  rows.forEach((row, index) => {
    for (const each of marks.thresholds) if (row.fields.includes(each.field)) addThreshold(layout, each, `y${index ? index + 1 : ""}`, colours);
  });
  if (rows[0]?.fields[0] === "cumulative_sparsity") {
    layout.yaxis.range = [0, 1.02];
    addBands(layout, marks.bands, colours);
  }
  for (const each of marks.attempts) addAttempt(layout, each, colours);
  return { traces, layout };
}

function addThreshold(layout, threshold, y, colours) {
  layout.shapes.push({
    type: "line", xref: "paper", x0: 0, x1: 1, yref: y, y0: threshold.value, y1: threshold.value, layer: "below",
    line: { color: colours.warning, width: 1.2, dash: "dash" },
  });
  layout.annotations.push({
    text: threshold.alert, xref: "paper", x: 0.01, xanchor: "left", yref: y, y: threshold.value, yanchor: "top",
    showarrow: false, font: { size: 11, color: colours.warning },
  });
}

function addAttempt(layout, { attempt, resumed_from_step: step }, colours) {
  layout.shapes.push({
    type: "line", x0: step, x1: step, yref: "paper", y0: 0, y1: 1, line: { color: colours.quiet, width: 1, dash: "dot" },
  });
  layout.annotations.push({
    text: `attempt ${attempt}`, hovertext: `attempt ${attempt} resumed from step ${step}`, x: step, yref: "paper", y: 1,
    yanchor: "bottom", showarrow: false, font: { size: 11, color: colours.quiet },
  });
}

function addBands(layout, bands, colours) {
  bands.forEach((band, index) => {
    layout.shapes.push({
      type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: band.low, y1: band.high, layer: "below",
      line: { width: 0 }, fillcolor: BANDS[index % BANDS.length],
    });
    layout.annotations.push({
      text: band.name, hovertext: band.source, xref: "paper", x: 0.99, xanchor: "right", yref: "y", y: band.low,
      yanchor: "bottom", showarrow: false, font: { size: 11, color: colours.quiet },
    });
  });
}
