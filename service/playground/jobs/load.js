// The live panel: what the service does now.

import { $ } from "../ui/dom.js";
import { api } from "../server/api.js";

const EVERY_MS = 2000;
const POINTS = 40;

const rates = [];

export async function watch() {
  for (;;) {
    if (!document.hidden) {
      try {
        show(await api("v1/load"));
      } catch {
        $("load").classList.add("old");
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

function show({ models }) {
  const sum = (name) => models.reduce((total, model) => total + model[name], 0);
  const [rate, pages, used] = [sum("tokens_per_second"), sum("kv_pages"), sum("kv_pages_used")];
  rates.push(rate);
  if (rates.length > POINTS) rates.shift();
  $("load").hidden = false;
  $("load").classList.remove("old");
  $("load-rate").textContent = Math.round(rate).toLocaleString("en-GB");
  $("load-jobs").textContent = `${sum("running")} + ${sum("queued")}`;
  $("load-pages").textContent = pages ? `${Math.round((100 * used) / pages)} %` : "–";
  $("load-bar").value = pages ? used / pages : 0;
  const most = Math.max(...rates, 1);
  const points = rates.map((each, k) => `${((POINTS - rates.length + k) / (POINTS - 1)) * 100},${22 - (20 * each) / most}`);
  $("load-line").setAttribute("points", points.join(" "));
}
