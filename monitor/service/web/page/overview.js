// The overview: runs sorted, searched and filtered as its address says, and ticked to be compared, as they go on.

import * as address from "./address.js";
import { follow } from "./live.js";

// All rows come with each read, of all runs.
const READ_AT_MOST_EVERY_MS = 1500;
const MOST_COMPARED = 20;

const byId = (id) => document.getElementById(id);
const [search, state, label, compare] = ["search", "state", "label", "compare"].map(byId);
const table = document.querySelector(".runs");
const [body] = table.tBodies;
const heads = [...table.tHead.querySelectorAll("[data-column]")];

// As the service has them: those that registered last come first.
let order = [...body.rows];

// Ids have no "/".
const ticked = () => new Set((address.read().ticked ?? "").split("/").filter(Boolean));

function arrange() {
  const shown = address.read();
  for (const [control, value] of [[search, shown.search], [state, shown.state], [label, shown.label]]) {
    if (control.value !== (value ?? "")) choose(control, value ?? "");
  }
  const chosen = ticked();
  let visible = 0;
  for (const row of order) {
    row.hidden = !matches(row, shown);
    row.querySelector("[type=checkbox]").checked = chosen.has(row.dataset.run);
    visible += row.hidden ? 0 : 1;
  }
  const sorted = sortedBy(shown.sort ?? "");
  if (sorted.some((row, at) => body.rows[at] !== row)) place(sorted);
  byId("shown").textContent = `${visible} of ${order.length} runs`;
  const [number, most] = [chosen.size, MOST_COMPARED];
  compare.disabled = number < 2 || number > most;
  compare.textContent = number > most ? `Compare at most ${most}` : number ? `Compare ${number} ticked` : "Compare";
}

// A link may name what no run has any more: it is shown, and finds nothing.
function choose(control, value) {
  if (control.options && ![...control.options].some((each) => each.value === value)) control.add(new Option(value));
  control.value = value;
}

function matches(row, shown) {
  const { searched, labels } = row.dataset;
  return (!shown.search || searched.toLowerCase().includes(shown.search.toLowerCase()))
    && (!shown.state || row.dataset.state === shown.state)
    && (!shown.label || Object.entries(JSON.parse(labels)).some(([name, value]) => `${name}=${value}` === shown.label));
}

function sortedBy(sort) {
  const name = sort.replace(/^-/, "");
  const head = heads.find((each) => each.dataset.column === name);
  for (const each of heads) each.ariaSort = each !== head ? "none" : sort === name ? "ascending" : "descending";
  if (head === undefined) return order;
  const number = "number" in head.dataset;
  const valueOf = (row) => {
    const { value } = row.cells[head.cellIndex].dataset;
    if (value === "" || value === "None") return null;
    return number ? Number(value) : value.toLowerCase();
  };
  const values = new Map(order.map((row) => [row, valueOf(row)]));
  const sign = sort === name ? 1 : -1;
  return order.toSorted((one, other) => {
    const [a, b] = [values.get(one), values.get(other)];
    // What has no value is last, whichever way.
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (number ? a - b : a.localeCompare(b));
  });
}

// What has the keyboard's focus keeps it.
function place(rows) {
  const focused = document.activeElement;
  body.append(...rows);
  if (body.contains(focused)) focused.focus();
}

async function refresh() {
  const response = await fetch(location.pathname);
  if (!response.ok) throw new Error("the service does not answer");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const id of ["none", "fleet"]) byId(id).hidden = page.getElementById(id).hidden;
  for (const control of [state, label]) offer(control, page.getElementById(control.id));
  const next = page.querySelector(".runs");
  takeOver(next.tBodies[0].rows);
  arrange();
  if (Number(next.dataset.left)) soon(READ_AT_MOST_EVERY_MS);
}

function offer(control, next) {
  const chosen = control.value;
  const texts = (select) => [...select.options].map((each) => each.value).join("\n");
  if (texts(control) === texts(next)) return;
  control.replaceChildren(...[...next.options].map((each) => document.adoptNode(each)));
  choose(control, chosen);
}

// Only cells that differ are replaced: a pointer, a focus or a selection in the others stays.
function takeOver(rows) {
  const known = new Map(order.map((row) => [row.dataset.run, row]));
  order = [...rows].map((next) => {
    const row = known.get(next.dataset.run);
    if (row === undefined) return document.adoptNode(next);
    known.delete(next.dataset.run);
    Object.assign(row.dataset, next.dataset);
    [...next.cells].forEach((cell, at) => {
      if (cell.outerHTML !== row.cells[at].outerHTML) row.cells[at].replaceWith(document.adoptNode(cell));
    });
    return row;
  });
  for (const gone of known.values()) gone.remove();
}

function show(changes) {
  address.write(changes);
  arrange();
}

for (const control of [search, state, label]) {
  control.addEventListener("input", () => show({ [control.id]: control.value || null }));
}
for (const head of heads) {
  const button = head.querySelector("button");
  button.disabled = false;
  button.addEventListener("click", () => {
    const name = head.dataset.column;
    const next = { [name]: `-${name}`, [`-${name}`]: null };
    const { sort } = address.read();
    show({ sort: sort in next ? next[sort] : name });
  });
}
body.addEventListener("change", ({ target }) => {
  const chosen = ticked();
  const { run } = target.closest("tr").dataset;
  if (target.checked) chosen.add(run);
  else chosen.delete(run);
  show({ ticked: [...chosen].join("/") || null });
});
compare.addEventListener("click", () => {
  location.assign(`/compare?${new URLSearchParams([...ticked()].map((run) => ["run", run]))}`);
});
addEventListener("hashchange", arrange);

byId("fleet").classList.add("alive");
arrange();
const soon = follow("/api/v1/events", refresh, (text) => { byId("live").textContent = text; }, READ_AT_MOST_EVERY_MS);
