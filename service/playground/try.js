// A form for a route: sends the request from this page, shows the response, and the curl command that does the same.
// Paths are relative to the page, which a proxy may serve under a prefix.

import { pretty } from "./server/api.js";
import { make } from "./elements.js";

const LONGEST_LINE = 400; // of a response that is shown: previews are thousands of letters of base64
const LONGEST_TEXT = 200_000;

let made = ""; // the id of the last job that was made here

const control = (label, element, name) => {
  if (name) element.name = name;
  return make("label", make("span", label), element);
};

function choice(values, chosen) {
  const select = make("select", ...values.map((value) => Object.assign(make("option", value || "—"), { value })));
  if (chosen !== undefined) select.value = chosen;
  return select;
}

function input({ schema = {}, required }) {
  const plain = schema.anyOf?.find(({ type }) => type !== "null") ?? schema;
  if (plain.format === "binary") return Object.assign(make("input"), { type: "file", required });
  const values = plain.enum ?? (plain.const ? [plain.const] : plain.type === "boolean" ? ["true", "false"] : null);
  if (values) return choice(["", ...values], "");
  const shown = schema.default === undefined ? (plain.type ?? "") : String(schema.default);
  return Object.assign(make("input"), { type: "text", placeholder: shown, autocomplete: "off", spellcheck: false, required });
}

// The body of a request: for each media type a group of controls, of which one is shown.
function bodyOf({ requestBody }, schemas) {
  const content = Object.entries(requestBody?.content ?? {});
  if (!content.length) return { parts: [], media: () => null };
  const groups = content.map(([media, { schema, examples }]) => {
    const group = make("div");
    if (media === "application/json") {
      const named = examples ?? { "no fields": { value: {} } };
      const text = Object.assign(make("textarea"), { name: "json", rows: 8, spellcheck: false });
      const pick = choice(Object.keys(named));
      pick.onchange = () => (text.value = JSON.stringify(named[pick.value].value, null, 2));
      pick.onchange();
      group.append(control("example", pick), control("body", text));
    } else {
      const { properties, required = [] } = schemas[schema.$ref.split("/").pop()];
      for (const [name, field] of Object.entries(properties)) {
        group.append(control(name, input({ schema: field, required: required.includes(name) }), `form ${name}`));
      }
    }
    return group;
  });
  const pick = choice(content.map(([media]) => media));
  const show = () => groups.forEach((group, k) => {
    group.hidden = k !== pick.selectedIndex;
    for (const each of group.querySelectorAll("input, select, textarea")) each.disabled = group.hidden;
  });
  pick.onchange = show;
  show();
  return { parts: [...(content.length > 1 ? [control("sent as", pick)] : []), ...groups], media: () => pick.value };
}

export function trial(method, path, operation, schemas) {
  const { parameters = [], responses } = operation;
  const body = bodyOf(operation, schemas);
  const medias = Object.entries(responses).filter(([status]) => status.startsWith("2")).flatMap(([, { content = {} }]) => Object.keys(content));
  const accepts = [...new Set(medias)];
  const accept = choice(accepts.length ? accepts : ["*/*"]);
  const key = Object.assign(make("input"), { type: "password", autocomplete: "off", placeholder: "only where a key is needed" });
  const send = Object.assign(make("button", "Send"), { className: "main" });
  const stop = Object.assign(make("button", "Stop"), { type: "button", disabled: true });
  const [command, result] = [make("pre"), make("div")];
  command.className = "curl";
  result.setAttribute("aria-live", "polite");
  const form = make(
    "form",
    ...parameters.map((each) => control(`${each.name} (${each.in})`, input(each), `${each.in} ${each.name}`)),
    ...body.parts, ...(accepts.length > 1 ? [control("Accept", accept)] : []), control("key", key),
    Object.assign(make("div", send, stop), { className: "actions" }), command, result,
  );
  form.className = "try";
  form.querySelectorAll('input[name="path id"]').forEach((field) => (field.value = made));
  const asked = () => request(method, path, form, body.media(), accept.value, key.value.trim());
  form.oninput = () => (command.textContent = asked().curl);
  form.oninput();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const aborted = new AbortController();
    [send.disabled, stop.disabled] = [true, false];
    stop.onclick = () => aborted.abort();
    result.replaceChildren(make("p", "Sending…"));
    try {
      const { url, options } = asked();
      await show(await fetch(url, { ...options, signal: aborted.signal }), result);
    } catch (error) {
      result.append(make("p", aborted.signal.aborted ? "Stopped." : `The server could not be reached (${error.message}).`));
    }
    [send.disabled, stop.disabled] = [false, true];
  };
  return form;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// What fetch takes, and the same as a curl command. The command does not show the key.
function request(method, path, form, media, accept, key) {
  const [headers, query, told] = [{ Accept: accept }, new URLSearchParams(), ["curl"]];
  let [place, body] = [path.slice(1), undefined];
  const files = new FormData();
  for (const element of form.querySelectorAll("[name]:not(:disabled)")) {
    const [kind, name] = element.name.split(" ");
    const value = element.type === "file" ? element.files[0] : element.value;
    if (kind === "path") place = place.replace(`{${name}}`, value ? encodeURIComponent(value) : `{${name}}`);
    if (!value) continue;
    if (kind === "query") query.append(name, value);
    if (kind === "header") headers[name] = value;
    if (kind === "json") body = value;
    if (kind === "form") {
      files.append(name, value);
      told.push("-F", quoted(value.name ? `${name}=@${value.name}` : `${name}=${value}`));
    }
  }
  if (method !== "get" && !media) told.push("-X", method.toUpperCase());
  for (const [name, value] of Object.entries(headers)) told.push("-H", quoted(`${name}: ${value}`));
  if (key) {
    headers.Authorization = `Bearer ${key}`;
    told.push("-H", '"Authorization: Bearer $KEY"');
  }
  if (media === "application/json") {
    headers["Content-Type"] = media;
    told.push("--json", quoted(body ?? ""));
  } else if (media) {
    body = files;
  }
  const url = `${place}${query.size ? `?${query}` : ""}`;
  told.push(quoted(new URL(url, document.baseURI).href.replaceAll("%7B", "{").replaceAll("%7D", "}")));
  return { url, options: { method: method.toUpperCase(), headers, body }, curl: told.join(" ") };
}

async function show(response, result) {
  const kind = response.headers.get("Content-Type") ?? "";
  const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  const parts = [make("p", make("strong", `${response.status} ${response.statusText}`)), make("details", make("summary", "Headers"), make("pre", headers))];
  if (kind.startsWith("image/")) {
    const url = URL.createObjectURL(await response.blob());
    const picture = Object.assign(make("img"), { src: url, alt: "The picture of the response", onload: () => URL.revokeObjectURL(url) });
    return result.replaceChildren(...parts, picture);
  }
  const text = make("pre");
  result.replaceChildren(...parts, text);
  if (kind.startsWith("text/event-stream")) return read(response.body, text);
  const said = await response.text();
  text.textContent = shortened(kind.includes("json") ? pretty(said) : said);
  if (response.ok && kind.includes("json")) remember(JSON.parse(said));
}

const shortened = (text) =>
  text.split("\n").map((line) => (line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)}… (${line.length} characters)` : line)).join("\n").slice(0, LONGEST_TEXT);

// Shows an event stream line by line, as it arrives.
async function read(stream, text) {
  const [reader, decoder] = [stream.getReader(), new TextDecoder()];
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + decoder.decode(value, { stream: !done })).split("\n");
    rest = done ? "" : lines.pop();
    if (lines.length && text.textContent.length < LONGEST_TEXT) text.append(`${shortened(lines.join("\n"))}\n`);
    if (done) return;
  }
}

// The id of a job that was made here is filled in wherever one is asked for.
function remember(told) {
  if (!told?.urls?.events || told.id === made) return;
  for (const field of document.querySelectorAll('input[name="path id"]')) {
    if (field.value !== made) continue; // the user has given another one
    field.value = told.id;
    field.form.oninput();
  }
  made = told.id;
}
