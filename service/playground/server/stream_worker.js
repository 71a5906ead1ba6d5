// The worker that all pages of a browser share: it reads the events of all their jobs.

import { EventReader } from "./event_reader.js";

const reader = new EventReader(new URL("../../v1/events", self.location));

self.onconnect = ({ ports: [port] }) => {
  const tell = (event) => port.postMessage(event);
  port.onmessage = ({ data: { what, job } }) => {
    if (what === "follow") reader.follow(job, tell);
    else if (what === "forget") reader.forget(job, tell);
    else if (what === "leave") reader.forgetAll(tell);
    else if (what === "retry") reader.retry();
  };
};
