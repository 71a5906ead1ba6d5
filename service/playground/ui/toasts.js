// Messages that say what happened and what to do, and announcements for screen readers.

import { $, button, make } from "./dom.js";
import { wordsOf } from "./words.js";

const SHOWN_MS = 6000;

// Says something that went well.
export function tell(text) {
  const toast = show("status", text);
  setTimeout(() => toast.remove(), SHOWN_MS);
}

// Says what went wrong. It stays until the user closes it, the same thing is said again, or `closeErrors`.
export function complain(error) {
  const text = wordsOf(error);
  for (const toast of $("toasts").children) if (toast.firstChild.textContent === text) toast.remove();
  show("alert", text);
}

// The server answers again: what was said about that is over.
export function settle() {
  for (const toast of $("toasts").querySelectorAll(".away")) toast.remove();
}

// A job was accepted: earlier errors are over.
export function closeErrors() {
  for (const toast of $("toasts").querySelectorAll(".alert")) toast.remove();
}

export function away() {
  if ($("toasts").querySelector(".away")) return;
  const text = "The server does not answer. Check that it runs and that you are online. This page tries again by itself, and unfinished pictures go on.";
  show("alert", text).classList.add("away");
}

function show(role, text) {
  const words = make("p", { role, textContent: text });
  const toast = make("div", { className: `toast ${role}` }, words);
  toast.append(button("×", "Close this message", () => toast.remove()));
  $("toasts").append(toast);
  return toast;
}

// For screen readers alone. A draw says few things: begun, drawing, done.
export function announce(text) {
  $("announcer").textContent = text;
}
