// Layers × modules at one step as a heatmap, and the curve of one group.

import { baseLayout, dotsOf, plain, theme } from "./charts.js";
import { interrupted } from "./gaps.js";

const unique = (values) => [...new Set(values)];

export function heatmap(read) {
  const labels = unique(read.groups.map((group) => group.label));
  const modules = unique(read.groups.map((group) => group.module));
  const cells = new Map(read.groups.map((group) => [JSON.stringify([group.label, group.module]), group.cumulative_sparsity]));
  const z = labels.map((label) => modules.map((module) => cells.get(JSON.stringify([label, module])) ?? null));
  const colours = theme();
  return {
    traces: [{
      type: "heatmap", x: modules.map((_, at) => at), y: labels.map((_, at) => at), z, xgap: 1, ygap: 1,
      colorscale: "Viridis", colorbar: { tickformat: ".4~%", thickness: 12, outlinewidth: 0 },
      text: labels.map((label) => modules.map((module) => plain(`${label} ${module}`))),
      hovertemplate: "%{text}<br>cumulative sparsity %{z:.6~%}<extra></extra>",
    }],
    layout: {
      ...baseLayout(colours), height: Math.max(220, labels.length * 18 + 150), margin: { l: 60, r: 8, t: 10, b: 110 },
      xaxis: { tickvals: modules.map((_, at) => at), ticktext: modules.map(plain), tickangle: -40, fixedrange: true, showgrid: false, zeroline: false },
      yaxis: {
        title: { text: "layer" }, autorange: "reversed", fixedrange: true, showgrid: false, zeroline: false,
        tickvals: labels.map((_, at) => at), ticktext: labels.map(plain),
      },
    },
    groupAt: (x, y) => `${labels[y]}/${modules[x]}`,
  };
}

// Each layer over the steps: `read` is an answer of /groups/history by layer, `range` the steps shown or null.
export function layersOverSteps(read, range, named) {
  const labels = read.groups.map((group) => group.label);
  const colours = theme();
  const layout = {
    ...baseLayout(colours), height: Math.max(200, labels.length * 11 + 90), margin: { l: 64, r: 8, t: 10, b: 44 },
    dragmode: "zoom", xaxis: { title: { text: "optimizer step" }, showgrid: false, zeroline: false },
    yaxis: {
      title: { text: "layer" }, autorange: "reversed", fixedrange: true, showgrid: false, zeroline: false,
      tickmode: "array", ...everyNth(labels),
    },
  };
  if (range) layout.xaxis.range = range;
  markThinned(layout, read, colours);
  return {
    traces: [{
      type: "heatmap", x: read.step, y: labels.map((_, at) => at), z: read.groups.map((group) => group.values),
      colorscale: "Viridis", colorbar: { tickformat: ".4~%", thickness: 12, outlinewidth: 0 },
      text: labels.map((label) => read.step.map(() => plain(label))),
      hovertemplate: `layer %{text}, step %{x:,d}<br>${named} %{z:.6~%}<extra></extra>`,
    }],
    layout,
  };
}

// Dots above the steps between which observations were taken out: each cell reaches half the way to the next one.
function markThinned(layout, { step: steps, thinned }, colours) {
  const last = thinned && steps.findLast((step) => step <= thinned.until_step);
  if (!thinned || last === undefined || last === steps[0]) return;
  layout.margin.t = 30;
  layout.shapes = [{
    type: "line", x0: steps[0], x1: last, yref: "paper", ysizemode: "pixel", yanchor: 1, y0: 4, y1: 4,
    line: { color: colours.quiet, width: 2, dash: "dot" },
  }];
  layout.annotations = [{
    text: `thinned: at least 1 observation in ${thinned.every} is left`, x: 0, xref: "paper", xanchor: "left", y: 1, yref: "paper",
    yanchor: "bottom", yshift: 4, showarrow: false, font: { size: 11, color: colours.quiet },
  }];
}

const MOST_TICKS = 24;

function everyNth(labels) {
  const every = Math.ceil(labels.length / MOST_TICKS);
  const shown = labels.map((_, at) => at).filter((at) => at % every === 0);
  return { tickvals: shown, ticktext: shown.map((at) => plain(labels[at])) };
}

// `gaps`: where observations are missing between those that are shown.
export function groupCurve(read, range, gaps) {
  const colours = theme();
  const steps = range ? { range } : {};
  const color = colours.curves[0];
  return {
    traces: read.groups.flatMap((group) => [
      {
        type: "scatter", mode: read.step.length > 1 ? "lines" : "markers", ...interrupted(read.step, group.values, gaps),
        line: { color, width: 1.6 }, hovertemplate: "%{y:.6~%}<extra></extra>", connectgaps: false, showlegend: false,
      },
      ...dotsOf(read.step, group.values, gaps, { type: "scatter", mode: "lines", line: { color, width: 1.2, dash: "dot" } }),
    ]),
    layout: {
      ...baseLayout(colours), height: 240, hovermode: "x", dragmode: "zoom",
      xaxis: { title: { text: "optimizer step" }, gridcolor: colours.line, zeroline: false, ...steps },
      yaxis: { tickformat: ".4~%", gridcolor: colours.line, zeroline: false, fixedrange: true, nticks: 5 },
    },
  };
}
