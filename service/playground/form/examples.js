// The same request for curl, Python and JavaScript.

import { write } from "../server/api.js";
import { keyed } from "../server/key.js";
import { textOf } from "./request.js";

const KEY = "ARPG_KEY"; // the variable of the environment that holds the key

export const LANGUAGES = { curl, Python: python, JavaScript: javascript };

const address = (path) => new URL(path, document.baseURI).href;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// One picture comes by itself; several are in a job, which the response describes.
const alone = ({ fields }) => (fields.n ?? 1) === 1;

function curl({ path, fields, files }) {
  const lines = ["curl -f"];
  if (keyed()) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  lines.push(alone({ fields }) ? "-H 'Accept: image/png' -o picture.png" : "-H 'Prefer: wait=60'");
  if (files) {
    lines.push(...files.map(([name, file]) => `-F ${name}=@${file}`));
    lines.push(...Object.entries(fields).map(([name, value]) => `-F ${quoted(`${name}=${textOf(value)}`)}`));
  } else {
    lines.push("-H 'Content-Type: application/json'", `-d ${quoted(write(fields))}`);
  }
  return `${[...lines, address(path)].join(" \\\n  ")}`;
}

// A value as Python writes it. Seeds are texts here and integers there.
function literal(value, name = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return name === "seed" || name === "keep_seed" ? value : JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((each) => literal(each)).join(", ")}]`;
  if (typeof value !== "object") return String(value);
  return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each, key)}`).join(", ")}}`;
}

function python({ path, fields, files }) {
  const lines = [...(keyed() ? ["import os", ""] : []), "import httpx  # pip install httpx", "", `fields = ${literal(fields)}`];
  const headers = [`"${alone({ fields }) ? 'Accept": "image/png' : 'Prefer": "wait=60'}"`];
  if (keyed()) headers.push(`"Authorization": f"Bearer {os.environ['${KEY}']}"`);
  lines.push(`headers = {${headers.join(", ")}}`);
  if (files) lines.push(`files = {${files.map(([name, file]) => `"${name}": open("${file}", "rb")`).join(", ")}}`);
  const body = files ? "data=fields, files=files" : "json=fields";
  lines.push(`url = "${address(path)}"`, `response = httpx.post(url, ${body}, headers=headers, timeout=120)`, "response.raise_for_status()");
  if (alone({ fields })) lines.push('open("picture.png", "wb").write(response.content)');
  else lines.push('for image in response.json()["images"]:', '    print(httpx.URL(url).join(image["url"]))');
  return lines.join("\n");
}

function javascript({ path, fields, files }) {
  const headers = alone({ fields }) ? { Accept: "image/png" } : { Prefer: "wait=60" };
  const shown = Object.entries(headers).map(([name, value]) => `${name}: "${value}"`);
  if (keyed()) shown.push(`Authorization: \`Bearer \${process.env.${KEY}}\``);
  const lines = [];
  let body = "body";
  if (files) {
    lines.push('import { openAsBlob } from "node:fs";', "", "const body = new FormData();");
    for (const [name, value] of Object.entries(fields)) lines.push(`body.append(${JSON.stringify(name)}, ${JSON.stringify(textOf(value))});`);
    for (const [name, file] of files) lines.push(`body.append("${name}", await openAsBlob("${file}"), "${file}");`);
  } else {
    // As text: a seed may be larger than a number of JavaScript.
    lines.push(`const body = ${JSON.stringify(write(fields))};`);
    shown.push('"Content-Type": "application/json"');
  }
  lines.push(`const response = await fetch("${address(path)}", {`, '  method: "POST",', `  headers: { ${shown.join(", ")} },`, `  ${body},`, "});");
  lines.push("if (!response.ok) throw new Error(await response.text());");
  lines.push(alone({ fields }) ? "const picture = await response.blob();" : "const { images } = await response.json();");
  return lines.join("\n");
}
