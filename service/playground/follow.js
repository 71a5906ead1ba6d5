// A job's events, from its beginning to its end, whatever happens to the connection.

import { api } from "./api.js";

const NAMES = ["queued", "started", "tokens", "completed", "failed", "canceled", "error", "reconnect"];
const AGAIN_MS = 2000;

// hear: what is done by name of event; `lost`: the connection is, and comes back by itself; `gone`: the job is, with
// the error. The answer ends it.
export function follow(job, hear) {
  let [source, last, over, leaving] = [null, null, false, false];

  function open() {
    const url = new URL(job.urls.events, document.baseURI);
    if (last) url.searchParams.set("last_event_id", last);
    source = new EventSource(url);
    for (const name of NAMES) {
      source.addEventListener(name, (event) => {
        if (over || !event.data) return;
        if (event.lastEventId) last = event.lastEventId;
        leaving = name === "reconnect";
        hear[name]?.(JSON.parse(event.data));
      });
    }
    // The browser reconnects by itself and goes on after the last event it has seen; a refusal it takes for good.
    source.onerror = ({ data }) => {
      if (over || data) return; // data: the server's own word, heard above
      if (source.readyState === EventSource.CLOSED) lookUp();
      else if (!leaving) hear.lost();
    };
  }

  // Refused: expired, no room, all seen, or a key is wanted.
  async function lookUp() {
    let now = null;
    try {
      now = await api(job.urls.self);
    } catch (error) {
      if (over) return;
      // Anything else passes: too many at once, or trouble of the server's own.
      const forGood = error.status >= 400 && error.status < 500 && error.status !== 429;
      if (forGood) return hear.gone(error);
    }
    if (over) return;
    const end = { succeeded: "completed", failed: "failed", canceled: "canceled" }[now?.status];
    if (end) return hear[end](now);
    hear.lost();
    setTimeout(() => over || open(), AGAIN_MS);
  }

  open();
  return () => {
    over = true;
    source.close();
  };
}
