// What a chart shows, as a table beside it: made when somebody opens it, and again while it is open.

const DIGITS = { maximumSignificantDigits: 9 };

function formatted(value, unit = "") {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  return unit === "ratio" ? `${(100 * value).toLocaleString("en", DIGITS)} %` : value.toLocaleString("en", DIGITS);
}

// `columns` are { name, x, y, unit }; rows are all values of x that any of them has, numbers by their size.
export function tableOf(caption, xName, columns) {
  const table = document.createElement("table");
  table.createCaption().textContent = caption;
  const head = table.createTHead().insertRow();
  for (const name of [xName, ...columns.map((column) => column.name)]) cellIn(head, "th", name).scope = "col";
  const values = columns.map(({ x, y }) => new Map(x.map((each, at) => [each, y[at]])));
  const body = table.createTBody();
  for (const x of [...new Set(columns.flatMap((column) => column.x))].sort((a, b) => a - b || 0)) {
    const row = body.insertRow();
    cellIn(row, "th", formatted(x)).scope = "row";
    values.forEach((each, at) => {
      cellIn(row, "td", formatted(each.get(x), columns[at].unit)).className = "number";
    });
  }
  return table;
}

function cellIn(row, kind, text) {
  const cell = document.createElement(kind);
  cell.textContent = text;
  row.append(cell);
  return cell;
}

// Keeps the tables in `details` up to date: returns what is to be called when `tables()` gives others.
export function keepTables(details, tables) {
  function fill() {
    if (!details.open) return;
    const wide = tables().map((table) => {
      const scrolled = document.createElement("div");
      // Who has no pointer scrolls with the keyboard.
      Object.assign(scrolled, { className: "wide tall", tabIndex: 0 });
      scrolled.append(table);
      return scrolled;
    });
    details.replaceChildren(details.querySelector("summary"), ...wide);
  }
  details.addEventListener("toggle", fill);
  return fill;
}
