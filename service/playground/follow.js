// Follows a job's events from its beginning to its end, over lost connections.

import { api, read } from "./api.js";

const NAMES = ["queued", "started", "tokens", "completed", "failed", "canceled", "error", "reconnect"];
const RETRY_MS = 2000;

// handlers: functions by event name; also `lost`, when the connection is lost and will be reopened, and `gone`, with the
// error, when the job can't be read any more. Returns a function that stops following.
export function follow(job, handlers) {
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
        handlers[name]?.(read(event.data));
      });
    }
    // The browser reconnects by itself after the last event that it received; but after an error response it stops.
    source.onerror = ({ data }) => {
      if (over || data) return; // the server's `error` event, handled above
      if (source.readyState === EventSource.CLOSED) lookUp();
      else if (!leaving) handlers.lost();
    };
  }

  // After an error response: the job has expired, the server is full, all events were read, or a key is needed.
  async function lookUp() {
    let now = null;
    try {
      now = await api(job.urls.self);
    } catch (error) {
      if (over) return;
      // All other errors are temporary: too many requests, or an error of the server.
      const permanent = error.status >= 400 && error.status < 500 && error.status !== 429;
      if (permanent) return handlers.gone(error);
    }
    if (over) return;
    const end = { succeeded: "completed", failed: "failed", canceled: "canceled" }[now?.status];
    if (end) return handlers[end](now);
    handlers.lost();
    setTimeout(() => over || open(), RETRY_MS);
  }

  open();
  return () => {
    over = true;
    source.close();
  };
}
