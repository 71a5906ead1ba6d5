// Follows jobs from a page, through the worker that all pages share. Where a browser has no such worker, the page reads
// the events itself, and closes its connection every few seconds, so that each page has a turn.

import { read } from "./api.js";
import { EventReader } from "./event_reader.js";
import { askForKey } from "./key.js";

const TURN_MS = 3000;

const handlers = new Map(); // job → function(name, data)
const port = connect();

// handler: called with the name and the data of each event of the job; names: see EventReader.
export function follow(job, handler) {
  handlers.set(job, handler);
  port.send("follow", job);
}

export function forget(job) {
  if (handlers.delete(job)) port.send("forget", job);
}

// A key was given: the events can be read again.
export const retry = () => port.send("retry");

function take({ job, name, data }) {
  handlers.get(job)?.(name, read(data));
  if (name === "key") askForKey().then((given) => given && retry());
}

function connect() {
  if (!window.SharedWorker) {
    const reader = new EventReader(new URL("../../v1/events", import.meta.url), TURN_MS);
    return { send: (what, job) => reader[what](job, take) };
  }
  const url = new URL("./stream_worker.js", import.meta.url);
  const worker = new SharedWorker(url, { type: "module", name: "arpg events" });
  worker.port.onmessage = ({ data }) => take(data);
  const send = (what, job) => worker.port.postMessage({ what, job });
  // A page may be shown again after it was left.
  addEventListener("pagehide", () => send("leave"));
  addEventListener("pageshow", ({ persisted }) => persisted && handlers.forEach((_, job) => send("follow", job)));
  return { send };
}
