// Calls the public API. An error response becomes an Error; if a key is needed, a dialog asks the user for it.
// Paths are relative to the page, which a proxy may serve under a prefix; the URLs in responses carry that prefix.

const $ = (id) => document.getElementById(id);

// JSON in which seeds are texts here and integers there: they have 63 bits, and a number of JavaScript has 53. A key is
// never preceded by a backslash; the same characters inside a text are.
export const read = (text) => JSON.parse(text.replace(/(?<!\\)("(?:keep_)?seed"\s*:\s*)(-?\d+)/g, '$1"$2"'));
export const write = (value) => JSON.stringify(value).replace(/(?<!\\)("(?:keep_)?seed":)"(-?\d+)"/g, "$1$2");
export const pretty = (text) => JSON.stringify(read(text), null, 2).replace(/(?<!\\)("(?:keep_)?seed": )"(-?\d+)"/g, "$1$2");

// The parsed body of a response. Throws an Error; its `problem` is the problem document, if the server sent one.
export async function api(path, options) {
  for (;;) {
    const response = await fetch(path, options);
    const text = await response.text();
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

// ---- the key -------------------------------------------------------------------------------------------------

let asking = null; // requests that need a key at the same time share one dialog

// Resolves to whether the server accepted a key. It then sets a cookie, which scripts can't read.
export function askForKey() {
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

export const keyed = () => !$("give-key").hidden;

function ask() {
  const [dialog, input, wrong] = [$("key-dialog"), $("key"), $("wrong-key")];
  const refuse = (why) => {
    wrong.textContent = why;
    wrong.hidden = why === "";
    input.setAttribute("aria-invalid", String(why !== ""));
  };
  $("give-key").hidden = false;
  refuse("");
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    $("key-form").onsubmit = async (event) => {
      event.preventDefault();
      const refused = await enter(input.value.trim());
      if (refused === null) return dialog.close("in");
      refuse(refused);
      input.select();
    };
    $("no-key").onclick = () => dialog.close("");
    dialog.onclose = () => {
      input.value = "";
      resolve(dialog.returnValue === "in");
    };
  });
}

// Why the server rejects the key; null: it accepts it.
async function enter(key) {
  if (key === "") return "Enter a key.";
  try {
    const response = await fetch("v1/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } });
    return response.ok ? null : (await response.json()).detail;
  } catch (error) {
    return `The server could not be reached (${error.message}).`;
  }
}
