// Finds and makes elements.

export const $ = (id) => document.getElementById(id);

// An element with these properties and children. `aria-…`, `role` and `data-…` are attributes.
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$|for$)/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const button = (text, label, onclick, properties = {}) =>
  make("button", { type: "button", textContent: text, ...(label && { "aria-label": label, title: label }), onclick, ...properties });

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
