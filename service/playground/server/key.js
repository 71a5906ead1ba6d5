// The dialog that asks for a key. The server then sets a cookie, which scripts can't read; the page keeps no key.

const $ = (id) => document.getElementById(id);

let asking = null; // requests that need a key at the same time share one dialog

// Resolves to whether the server accepted a key.
export function askForKey() {
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

// Whether this server needs keys.
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
  } catch {
    return "The server does not answer. Check that it runs, then try again.";
  }
}
