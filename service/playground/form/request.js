// The request that the form makes: what is sent, and what the examples in other languages show.

import * as source from "../editor/source.js";
import { api, post } from "../server/api.js";
import * as form from "./form.js";

// { path, fields } of a request in JSON; { path, fields, files: [[name, file name, blob]] } of a form with files.
// Throws an Error where something is missing. drafted: an example, which may lack it.
export async function compose(model, { drafted = false } = {}) {
  const [task, fields, picture] = [form.task(), form.fields(), source.current()];
  const path = `v1/${task}`;
  if (!form.NEEDS_PICTURE.includes(task)) return { path, fields };
  if (picture === null && !drafted) throw form.wrong("image", "Choose a picture first.");
  const painted = task === "inpaint" && picture !== null;
  if (painted && source.mask.empty && !drafted) throw form.wrong("mask", "Paint the part that should be redrawn.");
  if (picture !== null && source.reused(model)) {
    const from = { source: { job: picture.job, image: picture.image } };
    return { path, fields: { ...fields, ...from, ...(painted && { mask: await dataURL(await source.mask.png()) }) } };
  }
  const files = [["image", "picture.png", picture && (await source.fileOf(picture))]];
  if (task === "inpaint") files.push(["mask", "mask.png", painted ? await source.mask.png() : null]);
  return { path, fields: withoutNull(fields), files };
}

// In a form an empty field is left out.
const withoutNull = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));

// Sends a request; resolves to the job.
export function send({ path, fields, files }) {
  if (!files) return post(path, fields);
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, textOf(value));
  for (const [name, fileName, file] of files) body.append(name, file, fileName);
  return api(path, { method: "POST", body });
}

// A value as a field of a form.
export const textOf = (value) => (Array.isArray(value) ? JSON.stringify(value) : String(value));

function dataURL(blob) {
  return new Promise((resolve, reject) => {
    const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: reject });
    reader.readAsDataURL(blob);
  });
}
