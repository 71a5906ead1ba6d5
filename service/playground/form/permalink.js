// A link that draws a picture again: the task and its request are in the address, after the #. The key never is.

const LINKED = ["generate", "expand"]; // the others start from a picture, which the server deletes some time
const LEFT_OUT = ["n", "seed", "previews", "priority", "source"];

export const linked = ({ told }) => LINKED.includes(told.task) && !told.fork;

// Of one picture of a job whose request is known.
export function linkTo({ told }, seed) {
  const given = Object.entries(told.request).filter(([name, value]) => value !== null && !LEFT_OUT.includes(name));
  const fields = [["task", told.task], ...given.map(([name, value]) => [name, String(value)]), ["seed", seed]];
  return `${location.origin}${location.pathname}#${new URLSearchParams(fields)}`;
}

// What the page's address asks for: { task, model, … }; null: nothing. It is forgotten, so that to reload the page does
// not draw again.
export function asked() {
  const fields = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!LINKED.includes(fields.task)) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return { class: null, prompt: null, negative_prompt: null, n: 1, ...fields };
}
