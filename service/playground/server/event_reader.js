// Reads the events of several jobs over one connection. Runs in a worker that all pages of a browser share, because a
// browser opens six connections to a server, over all its pages.

const ENDS = ["completed", "failed", "canceled"];
const SILENCE_MS = 45_000; // the server sends a heartbeat every 15 s
const LONGEST_PAUSE_MS = 8_000;
const MOST_JOBS = 64;

export class EventReader {
  // url: of the events. turnMs: close the connection after so long, so that other pages have a turn; null: never.
  constructor(url, turnMs = null) {
    Object.assign(this, { url, turnMs, jobs: new Map(), failures: 0, reading: null, running: false, wake: () => {} });
  }

  // Calls tell with { job, name, data } for each event of the job, from its first one on. data is JSON, as text. More
  // names: `lost`, the connection was lost and will be opened again; `gone`, the job's events can't be read; `key`, a
  // key is needed: call `retry` once there is one.
  follow(job, tell) {
    const known = this.jobs.get(job) ?? { events: [], last: null, over: false, followers: new Set() };
    this.jobs.set(job, known);
    known.followers.add(tell);
    for (const event of known.events) tell(event);
    if (!known.over && known.followers.size === 1) this.#changed();
  }

  forget(job, tell) {
    const known = this.jobs.get(job);
    if (!known?.followers.delete(tell) || known.followers.size) return;
    this.jobs.delete(job);
    if (!known.over) this.#changed();
  }

  forgetAll(tell) {
    for (const job of [...this.jobs.keys()]) this.forget(job, tell);
  }

  retry() {
    this.wake();
  }

  #left() {
    return [...this.jobs].filter(([, { over }]) => !over).slice(0, MOST_JOBS);
  }

  #changed() {
    this.reading?.abort();
    this.wake();
    if (!this.running) this.#run();
  }

  async #run() {
    this.running = true;
    await null; // jobs that are followed in one go share a connection
    while (this.#left().length) {
      const jobs = this.#left();
      this.reading = new AbortController();
      const { signal } = this.reading;
      try {
        await this.#read(jobs, this.reading);
        this.failures = 0;
      } catch (error) {
        if (signal.aborted && signal.reason !== "silent") continue;
        await this.#pause(jobs, error);
      }
    }
    this.running = false;
  }

  async #pause(jobs, error) {
    const milliseconds = Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** this.failures);
    this.failures += 1;
    const name = error.status === 401 ? "key" : "lost";
    for (const [job, known] of jobs) this.#tell(known, { job, name, data: JSON.stringify({ milliseconds }) });
    await new Promise((resolve) => {
      this.wake = resolve;
      if (name === "lost") setTimeout(resolve, milliseconds);
    });
  }

  async #read(jobs, reading) {
    const asked = new URLSearchParams(jobs.map(([job, { last }]) => ["job", last ? `${job}@${last}` : job]));
    let timer = setTimeout(() => reading.abort("silent"), SILENCE_MS);
    const turn = this.turnMs && setTimeout(() => reading.abort("turn"), this.turnMs);
    try {
      const response = await fetch(`${this.url}?${asked}`, { signal: reading.signal, cache: "no-store" });
      if (response.status === 204) return this.#end(jobs);
      if (!response.ok) throw Object.assign(new Error(`${response.status}`), { status: response.status });
      this.told = false;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done && !rest && !this.told) throw new Error("the stream is empty");
        if (done) return;
        this.told = true;
        clearTimeout(timer);
        timer = setTimeout(() => reading.abort("silent"), SILENCE_MS);
        this.failures = 0;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) this.#take(block, reading);
      }
    } finally {
      clearTimeout(timer);
      clearTimeout(turn);
    }
  }

  #take(block, reading) {
    const fields = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
    if (fields.event === "error") return this.#refused(fields.data, reading);
    if (!fields.id) return;
    const [job, last] = fields.id.split("@");
    const known = this.jobs.get(job);
    if (!known) return;
    const event = { job, name: fields.event, data: fields.data };
    known.events.push(event);
    Object.assign(known, { last, over: ENDS.includes(fields.event) });
    this.#tell(known, event);
  }

  // The events of one job end early. `expired`: for good.
  #refused(data, reading) {
    const { job, code } = JSON.parse(data);
    const known = this.jobs.get(job);
    if (code !== "expired" || !known) return reading.abort("again");
    known.over = true;
    this.#tell(known, { job, name: "gone", data });
  }

  // All events of these jobs were told before.
  #end(jobs) {
    for (const [, known] of jobs) known.over = true;
  }

  #tell(known, event) {
    for (const tell of known.followers) tell(event);
  }
}
