// The public API as the page asks it: a problem is an error, and where a key is wanted, it is asked for.
// Paths are relative to the page, which a proxy may serve under a prefix; the URLs in answers carry that prefix.

const $ = (id) => document.getElementById(id);

// The body of an answer. Throws an Error whose `problem` is the server's own, where it has sent one.
export async function api(path, options) {
  for (;;) {
    const response = await fetch(path, options);
    const text = await response.text();
    let body = null;
    try {
      body = text === "" ? null : JSON.parse(text);
    } catch {
      // Not from our server: a proxy's page, say.
    }
    if (response.ok) return body;
    if (response.status === 401 && (await askForKey())) continue;
    const message = body?.detail ?? `the server answers ${response.status} ${response.statusText}`;
    throw Object.assign(new Error(message), { problem: body, status: response.status });
  }
}

export const post = (path, fields) =>
  api(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) });

// ---- the key -------------------------------------------------------------------------------------------------

let asking = null; // one dialog, however many requests wait for it

// Whether the server has taken a key; from then on a cookie speaks for us, which no script can read.
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

// Why the key is not taken; null: it is.
async function enter(key) {
  if (key === "") return "a key is needed";
  try {
    const response = await fetch("v1/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } });
    return response.ok ? null : (await response.json()).detail;
  } catch (error) {
    return `that did not reach the server (${error.message})`;
  }
}
