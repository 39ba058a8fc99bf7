// Where a curve is not known: observations that never came, or that retention took out. No line is drawn across.

// Stretches from one shown step to the next with something missing between, of an answer of /history with the field
// `stride`, and the attempts of its run. `never` came to the service; `thinned` were there once.
export function gapsOf(read, attempts) {
  const strides = read.curves.stride;
  const [never, thinned] = [[], []];
  if (!strides) return { never, thinned };
  const until = read.thinned?.until_step ?? -1;
  for (let at = 1; at < strides.step.length; at += 1) {
    const [from, to] = [strides.step[at - 1], strides.step[at]];
    if (to <= until) {
      thinned.push([from, to]);
      continue;
    }
    // The first observation of a bucket follows on the one before it, in the bucket before at the earliest.
    const begin = to - ((to - read.from_step) % read.bucket_steps);
    const before = begin - strides.max[at];
    const resumed = attempts.some((each) => each.resumed_from_step >= before && each.resumed_from_step < to);
    if (before > from && !resumed) never.push([from, to]);
  }
  return { never, thinned };
}

// The same of a curve alone, along `x`: from each of its points to the next, as far as its run was thinned.
export function thinnedAlong(x, steps, thinned) {
  return steps.flatMap((step, at) => (at && thinned && step <= thinned.until_step ? [[x[at - 1], x[at]]] : []));
}

// The points of a line that ends at each gap and begins again behind it.
export function interrupted(x, y, gaps) {
  const broken = { x: [], y: [] };
  const across = crossings(x, gaps);
  x.forEach((step, at) => {
    if (across[at]) {
      broken.x.push((x[at - 1] + step) / 2);
      broken.y.push(null);
    }
    broken.x.push(step);
    broken.y.push(y[at]);
  });
  return broken;
}

// What is drawn instead: dots from the last known point to the next.
export function bridges(x, y, gaps) {
  const dots = { x: [], y: [] };
  const across = crossings(x, gaps);
  x.forEach((step, at) => {
    if (!across[at]) return;
    dots.x.push(x[at - 1], step, step);
    dots.y.push(y[at - 1], y[at], null);
  });
  return dots;
}

// Whether a whole gap lies between each point and the one before it. Points and gaps are in the order of steps.
function crossings(x, gaps) {
  let next = 0;
  return x.map((step, at) => {
    if (!at) return false;
    while (next < gaps.length && gaps[next][0] < x[at - 1]) next += 1;
    return next < gaps.length && gaps[next][1] <= step;
  });
}
