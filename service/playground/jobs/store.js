// The jobs that the page knows: those that it made, and those in the server's list, the newest first.

import { api } from "../server/api.js";
import { settle } from "../ui/toasts.js";
import { Job } from "./job.js";

const PAGE = 24;
const BUSY_MS = 2000;
const IDLE_MS = 8000;

const jobs = new Map();
let cursor = null;

// Called with each change of the list.
export const changes = new EventTarget();
const changed = () => changes.dispatchEvent(new Event("change"));

export const all = () => [...jobs.values()].sort((a, b) => (a.told.created_at < b.told.created_at ? 1 : -1));
export const unfinished = () => all().filter(({ over }) => !over);
export const more = () => cursor !== null;
export const known = (id) => jobs.get(id);

export function add(told, about) {
  const job = new Job(told, about);
  jobs.set(job.id, job);
  job.addEventListener("change", changed);
  if (!job.over) job.follow();
  changed();
  return job;
}

// A job by its id, whether or not it is in the list. Throws an Error if the server does not know it.
export async function find(id) {
  return known(id) ?? add(await api(`v1/jobs/${encodeURIComponent(id)}`));
}

function merge(listed) {
  for (const told of listed) known(told.id) ? known(told.id).tell(told) : add(told);
}

export async function load() {
  const page = await api(`v1/jobs?limit=${PAGE}`);
  cursor ??= page.next_cursor;
  merge(page.jobs);
  changed();
}

export async function loadMore() {
  const page = await api(`v1/jobs?limit=${PAGE}&cursor=${cursor}`);
  cursor = page.next_cursor;
  merge(page.jobs);
  changed();
}

// Keeps positions, estimates and jobs of other pages up to date, while the page is seen.
export async function watch() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, unfinished().length ? BUSY_MS : IDLE_MS));
    if (document.hidden) continue;
    try {
      await load();
      settle();
    } catch {
      // The event stream says so where it matters.
    }
  }
}
