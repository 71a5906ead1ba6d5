// Calls the public API. An error response becomes an Error; if a key is needed, a dialog asks the user for it.
// Paths are relative to the page, which a proxy may serve under a prefix; the URLs in responses carry that prefix.

import { askForKey } from "./key.js";

// JSON in which seeds are texts here and integers there: they have 63 bits, and a number of JavaScript has 53. A key is
// never preceded by a backslash; the same characters inside a text are.
export const read = (text) => JSON.parse(text.replace(/(?<!\\)("(?:keep_)?seed"\s*:\s*)(-?\d+)/g, '$1"$2"'));
export const write = (value) => JSON.stringify(value).replace(/(?<!\\)("(?:keep_)?seed":)"(-?\d+)"/g, "$1$2");
export const pretty = (text) => JSON.stringify(read(text), null, 2).replace(/(?<!\\)("(?:keep_)?seed": )"(-?\d+)"/g, "$1$2");

// The parsed body of a response. Throws an Error: with `away`, if the server did not answer; with `problem`, the
// problem document, and `status` of an error response.
export async function api(path, options) {
  for (;;) {
    let response, text;
    try {
      response = await fetch(path, options);
      text = await response.text();
    } catch (cause) {
      throw Object.assign(new Error("The server does not answer."), { away: true, cause });
    }
    let body = null;
    try {
      body = text === "" ? null : read(text);
    } catch {
      // Not from this server: for example a proxy's error page.
    }
    if (response.ok) return body;
    if (response.status === 401 && (await askForKey())) continue;
    const message = body?.detail ?? `The server answered ${response.status} ${response.statusText}.`;
    throw Object.assign(new Error(message), { problem: body, status: response.status });
  }
}

export const post = (path, fields) =>
  api(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: write(fields) });
