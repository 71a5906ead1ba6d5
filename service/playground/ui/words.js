// The words of this page for the errors of the server: what was wrong and what to do, without words of the API.

const MOST_SEED = "9,223,372,036,854,775,807";

const OF_FIELDS = {
  seed: `A seed is a whole number from 0 to ${MOST_SEED}. Leave it empty for a random one.`,
  keep_seed: `A seed is a whole number from 0 to ${MOST_SEED}. Leave it empty to use the seed above.`,
  negative_prompt: "A negative prompt needs a prompt and guidance. Write a prompt, or leave this empty.",
};
const OF_CODES = {
  no_worker: "No worker serves this model at the moment. It may be starting: try again in some seconds.",
  queue_full: "The queue is full. Wait until some pictures are drawn, then try again.",
  quota_exceeded: "You have as many unfinished jobs as your key allows. Wait for one of them, or cancel one.",
  rate_limited: "Too many requests in a minute. Wait a moment, then try again.",
  too_many_open: "Too many pages of this key are open. Close some of them.",
  storage_full: "The server has no room for more pictures. Wait until older ones expire, then try again.",
  upload_quota_exceeded: "Your uploads take all the room that they may. Wait until some of their jobs end.",
  uploads_busy: "The server reads other uploads. Try again in some seconds.",
  expired: "This picture is no longer kept: pictures are deleted some time after they were drawn. Draw it again.",
  unknown_job: "The server does not know this job: it has expired, or another key made it.",
  not_reached_yet: "The picture has not come to this step yet. Choose an earlier one.",
  worker_lost: "Several workers stopped while they drew this. Draw fewer pictures, or a smaller one.",
  out_of_memory: "There was not enough memory to draw this. Draw fewer pictures, or a smaller one.",
  not_finite: "The model's numbers overflowed. Choose a lower guidance, or another class or prompt.",
  engine_failed: "The model failed while it drew this. Draw it again; if it fails again, the worker's log says why.",
  internal_error: "Something went wrong on the server. Try again; if it fails again, the server's log says why.",
  expired_waiting: "No worker had time to draw this. Draw it again.",
  start_timeout: "No worker had time to draw this as soon as the request wanted. Draw it again.",
  unsupported_job_version: "The service was updated before this was drawn. Draw it again.",
  upload_missing: "The picture to start from is no longer kept. Choose it again.",
  upload_damaged: "The picture to start from can't be read. Choose another one.",
  draining: "The server is about to stop. Try again in some seconds.",
};

export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "");

export const wordsOfField = ({ field, message, code }) => OF_FIELDS[field] ?? OF_CODES[code] ?? sentence(message);

export function wordsOf(error) {
  if (error.away) return "The server does not answer. Check that it runs and that you are online, then try again.";
  const [first] = error.problem?.errors ?? [];
  if (first) return wordsOfField(first);
  return OF_CODES[error.problem?.code] ?? (error.problem ? sentence(error.message) : error.message);
}
