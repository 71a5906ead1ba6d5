// Elements of the documentation page.

export function make(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

export const prose = (text = "") => make("p", ...text.trim().split("`").map((part, k) => (k % 2 ? make("code", part) : part)));
