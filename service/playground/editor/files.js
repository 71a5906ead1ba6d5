// Takes pictures that the user chooses, drops or pastes.

const KINDS = ["image/png", "image/jpeg", "image/webp"];

// inputs: file inputs. taken: called with a picture { url, name, file }; refused: with an Error.
export function receive(inputs, taken, refused) {
  const bring = async (file) => {
    if (!file) return;
    const name = file.name || "A pasted picture";
    if (!KINDS.includes(file.type)) return refused(new Error(`${name} is not a PNG, JPEG or WebP picture. Choose one of these.`));
    await taken({ url: URL.createObjectURL(file), name, file });
  };
  for (const input of inputs) {
    input.addEventListener("change", () => {
      bring(input.files[0]);
      input.value = "";
    });
  }
  const files = (event) => [...(event.dataTransfer ?? event.clipboardData).items].filter(({ kind }) => kind === "file");
  document.addEventListener("dragover", (event) => {
    if (!files(event).length) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => document.body.classList.remove("dropping"));
  for (const name of ["drop", "paste"]) {
    document.addEventListener(name, (event) => {
      const [first] = files(event);
      if (!first) return;
      event.preventDefault();
      bring(first.getAsFile());
    });
  }
}
