// What is shown, in the address: a link shows what its sender saw.

export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

export function write(changes) {
  const shown = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) shown.delete(name);
    else shown.set(name, value);
  }
  const text = shown.toString();
  history.replaceState(null, "", location.pathname + location.search + (text && `#${text}`));
}
