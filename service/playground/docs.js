// Renders openapi.json: every route with its fields and responses, and a form that sends it. No build step.

import { make, prose } from "./elements.js";
import { trial } from "./try.js";

const nameOf = ({ $ref }) => $ref.split("/").pop();
const link = (name) => Object.assign(make("a", name), { href: `#${name}` });

function kind(schema = {}) {
  if (schema.$ref) return [link(nameOf(schema))];
  if (schema.anyOf) return schema.anyOf.flatMap((each, k) => (k ? [" or ", ...kind(each)] : kind(each)));
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
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

function route(method, path, operation, schemas) {
  const { summary, description, parameters = [], requestBody, responses } = operation;
  const parts = [make("summary", make("code", `${method.toUpperCase()} ${path}`), ` ${summary}`)];
  if (description) parts.push(...description.split("\n\n").map(prose));
  if (parameters.length) {
    parts.push(fields(parameters.map(({ name, schema, description, in: place }) => [name, { description, ...schema }, `, ${place}`])));
  }
  for (const [media, { schema }] of Object.entries(requestBody?.content ?? {})) {
    parts.push(make("h3", media), make("p", ...kind(schema)));
  }
  const rows = Object.entries(responses).map(([status, { description, content = {} }]) => {
    const kinds = Object.entries(content).map(([media, { schema }]) => make("li", `${media}: `, ...kind(schema)));
    return make("tr", make("th", status), make("td", prose(description), make("ul", ...kinds)));
  });
  parts.push(make("h3", "Responses"), make("table", make("tbody", ...rows)), make("h3", "Try it"));
  const shown = make("details", ...parts);
  // The form is made when the route is opened: most never are.
  shown.addEventListener("toggle", () => shown.append(trial(method, path, operation, schemas)), { once: true });
  return shown;
}

try {
  const { info, paths, components: { schemas } } = await (await fetch("openapi.json")).json();
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([m, it]) => [m, path, it]));
  const object = ([name, schema]) => Object.assign(make("section", make("h3", name), prose(schema.description), properties(schema)), { id: name });
  document.getElementById("docs").replaceChildren(
    ...info.description.trim().split("\n\n").map(prose), make("p", `Licence: ${info.license.name}.`),
    make("h2", "Routes"), ...routes.map((each) => route(...each, schemas)),
    make("h2", "Objects"), ...Object.entries(schemas).map(object),
  );
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  document.getElementById("docs").replaceChildren(prose(`openapi.json could not be loaded: ${error.message}`));
}
