// Says that something is new: from the service's events, and by itself where no events come.

const AGAIN_MS = 5000;
// Reading twice a second is as live as anyone sees, however fast a run reports.
const AT_MOST_EVERY_MS = 500;

// Returns what asks for a read by itself, after so many milliseconds.
export function follow(path, refresh, show, atMostEvery = AT_MOST_EVERY_MS) {
  let due = null;
  let busy = false;
  let missed = false;

  async function read() {
    due = null;
    if (busy) {
      missed = true;
      return;
    }
    busy = true;
    try {
      await refresh();
      show("live");
    } catch (error) {
      show(`not live: ${error.message}; trying again`);
      soon(AGAIN_MS);
    }
    busy = false;
    if (missed) {
      missed = false;
      soon(atMostEvery);
    }
  }

  function soon(delay) {
    due ??= setTimeout(read, delay);
  }

  function connect() {
    const events = new EventSource(path);
    events.onmessage = () => soon(atMostEvery);
    events.onerror = () => {
      show("not live: the service does not answer; trying again");
      // What was refused, such as for too many watchers, is not asked for again by the browser.
      if (events.readyState === EventSource.CLOSED) {
        soon(0);
        setTimeout(connect, AGAIN_MS);
      }
    };
  }

  soon(0);
  connect();
  return soon;
}
