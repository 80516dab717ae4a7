// form[data-upload]: a place to drop files, what each of them is, the bytes as they travel, cancel.
// Without this script the form is an ordinary one and the server says all of it.
const KINDS = [
  [/^adapter_config( ?\(\d+\))?\.json$/i, "the config"],
  [/\.safetensors$/i, "the weights"],
  [/^readme( ?\(\d+\))?(\.md|\.markdown|\.txt)?$/i, "the card"],
  [/^(licen[sc]e|notice|copying)(\.txt|\.md)?$/i, "a licence text"],
  [/\.zip$/i, "a zip: it is looked through when it has come"],
  [/\.(bin|pt|pth|ckpt|pkl|pickle)$/i, "a pickle: never taken"],
];
const kindOf = (name) => KINDS.find(([pattern]) => pattern.test(name))?.[1];

// As on the rest of the site: powers of ten.
function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  let power = 1;
  while (bytes >= 999.5 * 1000 ** power && power < 4) power += 1;
  const scaled = bytes / 1000 ** power;
  return `${scaled < 9.95 ? scaled.toFixed(1) : Math.round(scaled)} ${["kB", "MB", "GB", "TB"][power - 1]}`;
}

const span = (seconds) => (seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`);

function enhance(form) {
  const input = form.querySelector("input[type=file]");
  const find = (name) => form.querySelector(`[data-${name}]`);
  const [drop, list, problem, progress] = ["drop", "list", "problem", "progress"].map(find);
  const bar = progress.querySelector("progress");
  const said = find("said");
  const button = form.querySelector("button:not([type])");
  const limits = { file: Number(form.dataset.maxFile), all: Number(form.dataset.maxAll), left: Number(form.dataset.left) };
  let sending = null;

  function tell(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  const sum = () => [...input.files].reduce((total, file) => total + file.size, 0);

  function tooLarge() {
    const large = [...input.files].find((file) => file.size > limits.file && !/\.zip$/i.test(file.name));
    if (large) return `${large.name} has ${size(large.size)}; ${size(limits.file)} are the most for one file.`;
    return sum() > limits.all ? `Together they have ${size(sum())}; ${size(limits.all)} are the most for a module.` : "";
  }

  // Only the server knows which of the bytes it has from this author already.
  function tight() {
    if (sum() <= limits.left) return "";
    return `Together they have ${size(sum())}, and you may bring ${size(limits.left)} of new bytes now. They fit only if you uploaded the same ones before.`;
  }

  function show() {
    list.replaceChildren(
      ...[...input.files].map((file) => {
        const item = document.createElement("li");
        const name = document.createElement("code");
        const kind = document.createElement("span");
        const bytes = document.createElement("span");
        name.textContent = file.name;
        kind.textContent = kindOf(file.name) ?? "not needed: left out";
        kind.className = "soft";
        bytes.textContent = size(file.size);
        bytes.className = "num";
        item.append(name, kind, bytes);
        return item;
      }),
    );
    list.hidden = input.files.length === 0;
    if (!list.hidden) form.querySelector("#upload-error")?.remove(); // it spoke of other files
    tell(tooLarge() || tight());
  }

  function ended(text) {
    sending = null;
    progress.hidden = true;
    button.disabled = input.disabled = false;
    tell(text);
  }

  // The answer is a page: the next step's, or this one again with what is wrong.
  function answered(request) {
    const here = new URL(form.action, location.href);
    const there = new URL(request.responseURL, location.href);
    if (request.status === 200 && (there.pathname !== here.pathname || there.search)) {
      location.assign(there);
      return;
    }
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const again = page.getElementById(form.id);
    if (!again) {
      ended(`The site answered with an error (${request.status}). Nothing was stored; try again.`);
      return;
    }
    form.replaceWith(document.adoptNode(again));
    enhance(again);
    again.querySelector("[role=alert]:not([hidden])")?.scrollIntoView({ block: "nearest" });
    again.querySelector("input[type=file]").focus();
  }

  function send() {
    const request = new XMLHttpRequest();
    const started = performance.now();
    sending = request;
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      const seconds = (performance.now() - started) / 1000;
      const left = (event.total - event.loaded) / (event.loaded / seconds);
      bar.value = event.loaded / event.total;
      said.textContent = `${size(event.loaded)} of ${size(event.total)}${seconds > 2 ? `, about ${span(left)} left` : ""}`;
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      said.textContent = "Everything is there. Reading the files …";
    });
    request.addEventListener("load", () => answered(request));
    request.addEventListener("error", () => ended("The connection broke off. Nothing was stored; try again."));
    request.addEventListener("abort", () => ended("Cancelled. Nothing was stored."));
    request.open("POST", form.action);
    const data = new FormData(form); // before the fields are closed: closed ones are not sent
    bar.value = 0;
    said.textContent = "Sending …";
    progress.hidden = false;
    button.disabled = input.disabled = true;
    tell("");
    request.send(data);
  }

  input.addEventListener("change", show);
  find("cancel").addEventListener("click", () => sending?.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (sending) return;
    const wrong = tooLarge();
    if (wrong) tell(wrong);
    else send();
  });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("is-over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    drop.addEventListener(name, () => drop.classList.remove("is-over"));
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (sending || input.disabled) return;
    const files = new DataTransfer(); // what is dropped is added to what was chosen
    for (const file of [...input.files, ...event.dataTransfer.files]) files.items.add(file);
    input.files = files.files;
    show();
  });
  if (input.files.length) show(); // the browser kept them over "back"
}

for (const form of document.querySelectorAll("form[data-upload]")) enhance(form);
