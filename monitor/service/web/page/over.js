// Layers over the steps, of which a read takes long where the model is large: not oftener than the service bears.

import * as address from "./address.js";

// One part in so many of the time goes into reading it again.
const REST = 5;
const [AT_MOST_EVERY_MS, AT_LEAST_EVERY_MS] = [2000, 15000];

// `read(query)` asks the service, `draw(answer)` draws, `failed(error)` says what went wrong between two calls. Returns
// what is to be called when something is new.
export function followOver(field, read, draw, failed) {
  let known = "";
  let again = 0;
  let due = null;

  async function refresh() {
    const { from, to, layered = "cumulative_sparsity" } = address.read();
    field.value = layered;
    const query = new URLSearchParams({ by: "layer", field: layered });
    if (from !== undefined) query.set("from_step", Math.max(0, Math.floor(from)));
    if (to !== undefined) query.set("to_step", Math.max(0, Math.ceil(to)));
    const wait = again - performance.now();
    if (query.toString() === known && wait > 0) {
      // What comes last is drawn, too.
      due ??= setTimeout(() => { due = null; refresh().catch(failed); }, wait);
      return;
    }
    const began = performance.now();
    const answer = await read(query);
    await draw(answer);
    known = query.toString();
    const took = performance.now() - began;
    again = performance.now() + Math.min(Math.max(AT_MOST_EVERY_MS, REST * took), AT_LEAST_EVERY_MS);
  }

  return refresh;
}
