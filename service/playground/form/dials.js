// A slider beside a number: the slider is quick, the number is exact. data-scale="log": the slider's steps double.

const dials = [...document.querySelectorAll("input[type=range][data-dial]")].map((slider) => ({
  slider,
  number: document.getElementById(slider.dataset.dial),
  log: slider.dataset.scale === "log",
}));

// Moves each slider to its number.
export function follow() {
  for (const { slider, number, log } of dials) slider.value = log ? Math.log2(Math.max(1, Number(number.value))) : Number(number.value);
}

for (const { slider, number, log } of dials) {
  slider.addEventListener("input", () => {
    number.value = log ? Math.round(2 ** Number(slider.value)) : Number(slider.value);
  });
}
document.addEventListener("input", ({ target }) => target.type !== "range" && follow());
follow();
