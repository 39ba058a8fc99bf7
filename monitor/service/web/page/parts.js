// The parts of a page that its service writes anew: what is scrolled, and what has the focus, stays so.

export async function refreshParts() {
  const response = await fetch(location.pathname + location.search);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const now of document.querySelectorAll("[data-now]")) {
    const next = page.querySelector(`[data-now="${now.dataset.now}"]`);
    if (next && now.innerHTML !== next.innerHTML) replace(now, document.adoptNode(next));
  }
}

function replace(now, next) {
  const [before, after] = [now, next].map((part) => [...part.querySelectorAll("[tabindex]")]);
  const scrolled = before.map((each) => each.scrollLeft);
  const focused = before.indexOf(document.activeElement);
  now.replaceWith(next);
  after.forEach((each, at) => { each.scrollLeft = scrolled[at] ?? 0; });
  after[focused]?.focus({ preventScroll: true });
}
