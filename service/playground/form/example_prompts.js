// The model's examples of prompts: the first one is the field's placeholder, and a button writes one after another.

import { $ } from "../ui/dom.js";

let examples = [];
let next = 0;

export function offer({ example_prompts }) {
  [examples, next] = [example_prompts, 0];
  $("prompt").placeholder = examples[0] ?? "What to draw, in words";
  $("another-example").hidden = !examples.length;
}

$("another-example").addEventListener("click", () => {
  $("prompt").value = examples[next];
  next = (next + 1) % examples.length;
  $("prompt").dispatchEvent(new Event("input", { bubbles: true }));
});
