// What the page says of a job.

import { sentence, wordsOf } from "../ui/words.js";

const TASKS = { generate: "Draw", inpaint: "Inpaint", outpaint: "Outpaint", vary: "Vary", expand: "Expand" };

export const titleOf = (job) => job.name ?? "anything";

export function detailsOf(job) {
  const { told } = job;
  const parts = [told.fork ? `Fork of step ${told.fork.step}` : (TASKS[told.task] ?? told.task), told.model];
  if (told.width) parts.push(`${told.width} × ${told.height}`);
  // What is drawn in windows takes the request's steps in each of them; a window with fewer tokens takes fewer.
  const [all, each] = [stepsOf(job), told.request?.steps];
  if (each && all > each) parts.push(`${all} steps: up to ${each} in each window`);
  return parts.join(" · ");
}

// How many steps a job takes in all; null: not known yet.
export const stepsOf = ({ steps, usage, told }) => steps ?? (usage ?? told.usage)?.steps ?? null;

export function timeOf(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

const left = ({ eta }) => (eta === null ? "" : `, ${timeOf(eta)} left`);

// shown: how many finished pictures the page has loaded.
export function statusOf(job, shown) {
  const { status, position, error, canceling } = job.told;
  if (job.retryAt !== null) return "The server does not answer. Trying again…";
  if (status === "failed") return job.blank ? "Failed." : `Failed. ${wordsOf(failureOf(error))}`;
  if (status === "canceled") return "Cancelled.";
  if (status === "succeeded") {
    const count = job.pictures.length;
    if (shown < count) return count === 1 ? "Loading the picture…" : `Loading the pictures: ${shown} of ${count}…`;
    return job.seconds === null ? "Done." : `Done in ${job.seconds.toFixed(1)} s.`;
  }
  if (canceling) return "Cancelling…";
  if (status === "queued") {
    if (!position) return `Waiting for a worker${left(job)}…`;
    return `Waiting: ${position} ${position === 1 ? "job" : "jobs"} ahead${left(job)}.`;
  }
  if (job.progress === 1) return job.pictures.length === 1 ? "All tokens are drawn. Decoding the picture…" : "All tokens are drawn. Decoding the pictures…";
  if (!job.step) return job.attempt > 1 ? "The worker was lost; drawing again." : "Drawing…";
  return `Step ${job.step} of ${job.steps}${job.step < job.steps ? left(job) : ""}.`;
}

// Of a job that ended before anything was drawn.
export const whyBlank = ({ told }) => (told.status === "failed" ? wordsOf(failureOf(told.error)) : "This job was cancelled before anything was drawn.");

// The error of a job, as wordsOf takes it.
export const failureOf = (error) => Object.assign(new Error(error?.message ?? ""), { problem: { code: error?.code } });

export const warningsOf = ({ warnings }) => warnings.map(({ message }) => sentence(message)).join(" ");
