// Renders openapi.json: every route with its fields and responses. No build step.

const shapes = new Map(); // name → schema of an object that several routes use

function make(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

const prose = (text = "") => make("p", ...text.trim().split("`").map((part, k) => (k % 2 ? make("code", part) : part)));
const link = (name) => Object.assign(make("a", name), { href: `#${name}` });

function kind(schema = {}) {
  if (schema.$ref) return [link(schema.$ref.split("/").pop())];
  if (schema.properties && shapes.has(schema.title)) return [link(schema.title)];
  if (schema.anyOf) return schema.anyOf.flatMap((each, k) => (k ? [" or ", ...kind(each)] : kind(each)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.items) return ["list of ", ...kind(schema.items)];
  const bounds = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", maxLength: "length ≤" };
  const limits = Object.entries(bounds).filter(([name]) => name in schema).map(([name, sign]) => `${sign} ${schema[name]}`);
  return [`${schema.format ?? schema.type ?? "anything"} ${limits.join(", ")}`.trim()];
}

// Rows of [name, schema, note]; the note says where a parameter is sent, or that a field is required.
function fields(rows) {
  const cells = ([name, schema, note]) => {
    const fallback = schema.default === undefined ? "" : ` (${JSON.stringify(schema.default)})`;
    return make("tr", make("th", make("code", name)), make("td", ...kind(schema), fallback, note), make("td", prose(schema.description)));
  };
  return make("table", make("tbody", ...rows.map(cells)));
}

const properties = ({ properties = {}, required = [] }) =>
  fields(Object.entries(properties).map(([name, schema]) => [name, schema, required.includes(name) ? ", required" : ""]));

function route(method, path, { description, parameters = [], requestBody, responses }) {
  const parts = [make("summary", make("code", `${method.toUpperCase()} ${path}`), ` ${(description ?? "").split("\n")[0]}`)];
  parts.push(...(description ?? "").split("\n\n").slice(1).map(prose));
  if (parameters.length) parts.push(fields(parameters.map((each) => [each.name, each.schema, `, ${each.in}`])));
  for (const [media, { schema }] of Object.entries(requestBody?.content ?? {})) {
    parts.push(make("h3", media), schema.properties ? properties(schema) : make("p", ...kind(schema)));
  }
  const rows = Object.entries(responses).map(([status, { description, content = {} }]) => {
    const kinds = Object.entries(content).map(([media, { schema }]) => make("li", `${media}: `, ...kind(schema)));
    return make("tr", make("th", status), make("td", prose(description), make("ul", ...kinds)));
  });
  return make("details", ...parts, make("h3", "Responses"), make("table", make("tbody", ...rows)));
}

try {
  const { info, paths, components } = await (await fetch("openapi.json")).json();
  Object.entries(components.schemas).forEach(([name, schema]) => shapes.set(name, schema));
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([m, it]) => [m, path, it]));
  const shared = (found) => Object.values(found.content ?? {}).map(({ schema }) => schema).filter((schema) => schema?.properties);
  for (const [, , { responses }] of routes) Object.values(responses).flatMap(shared).forEach((each) => shapes.set(each.title, each));
  const entry = ([name, schema]) => Object.assign(make("section", make("h3", name), prose(schema.description), properties(schema)), { id: name });
  const intro = info.description.trim().split("\n\n").map(prose);
  document.getElementById("docs").replaceChildren(
    ...intro, make("h2", "Routes"), ...routes.map((each) => route(...each)), make("h2", "Objects"), ...[...shapes].map(entry),
  );
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  document.getElementById("docs").replaceChildren(prose(`openapi.json could not be loaded: ${error.message}`));
}
