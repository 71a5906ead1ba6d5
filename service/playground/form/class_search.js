// The field for the class: the user types a part of a name, a synonym or a WordNet id, and chooses from a list.

import { $, make } from "../ui/dom.js";

const SHOWN = 100;

let offered = []; // { class, sent, words }
let active = -1;

// What the form sends for each class: its name, or its label if another class has the same name.
function values(classes) {
  const count = new Map();
  for (const { name } of classes) count.set(name.toLowerCase(), (count.get(name.toLowerCase()) ?? 0) + 1);
  return classes.map(({ name, label }) => (count.get(name.toLowerCase()) > 1 ? String(label) : name));
}

export function offer(classes) {
  const sent = values(classes);
  offered = classes.map((each, k) => {
    const more = [...(sent[k] === each.name ? [] : [`class ${each.label}`]), ...each.synonyms, each.wordnet_id].filter(Boolean);
    const words = [each.name, ...more].join(" ").toLowerCase();
    return { label: String(each.label), name: each.name, sent: sent[k], more: more.join(", "), words };
  });
  const before = $("class").value;
  if (!sent.includes(before)) $("class").value = sent[Math.floor(Math.random() * sent.length)] ?? "";
  $("class").placeholder = `search ${classes.length} classes; empty: anything`;
  close();
}

// What to send for a class of this label.
export const valueOf = (label) => offered.find((each) => each.label === String(label))?.sent ?? "";

function matching(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted || offered.some(({ sent }) => sent === text)) return offered;
  const starts = ({ name }) => (name.toLowerCase().startsWith(wanted) ? 0 : 1);
  return offered.filter(({ words, label }) => words.includes(wanted) || label === wanted).sort((a, b) => starts(a) - starts(b));
}

function open() {
  const found = matching($("class").value).slice(0, SHOWN);
  const options = found.map(({ name, sent, more }, k) => {
    const option = make("li", { role: "option", id: `class-${k}`, "aria-selected": "false", "data-value": sent }, name);
    if (more) option.append(" ", make("small", {}, more));
    option.addEventListener("pointerdown", (event) => (event.preventDefault(), choose(sent)));
    return option;
  });
  $("class-list").replaceChildren(...options);
  const shown = options.length > 0;
  $("class-list").hidden = !shown;
  $("class").setAttribute("aria-expanded", String(shown));
  move(found.findIndex(({ sent }) => sent === $("class").value));
}

function close() {
  $("class-list").hidden = true;
  $("class").setAttribute("aria-expanded", "false");
  $("class").removeAttribute("aria-activedescendant");
  active = -1;
}

function move(to) {
  const options = $("class-list").children;
  options[active]?.setAttribute("aria-selected", "false");
  active = to;
  const option = options[active];
  if (!option) return $("class").removeAttribute("aria-activedescendant");
  option.setAttribute("aria-selected", "true");
  option.scrollIntoView({ block: "nearest" });
  $("class").setAttribute("aria-activedescendant", option.id);
}

function choose(value) {
  $("class").value = value;
  close();
  $("class").dispatchEvent(new Event("change", { bubbles: true }));
}

$("class").addEventListener("input", () => document.activeElement === $("class") && open());
$("class").addEventListener("click", () => ($("class").select(), open()));
$("class").addEventListener("blur", close);
$("class").addEventListener("keydown", (event) => {
  const count = $("class-list").children.length;
  const isOpen = !$("class-list").hidden;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (!isOpen) open();
    else move(event.key === "ArrowDown" ? (active + 1) % count : (Math.max(active, 0) + count - 1) % count);
  } else if (event.key === "Enter" && isOpen && active >= 0) {
    choose($("class-list").children[active].dataset.value);
  } else if (event.key === "Escape" && isOpen) {
    event.stopPropagation();
    close();
  } else return;
  event.preventDefault();
});
