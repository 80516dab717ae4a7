// [data-example-rows]: rows of examples that can be added, removed, and filled by a paste.
// Without JavaScript "Add rows" is a submit button, and a row left empty is not saved.
const MORE = 5;
const table = document.querySelector("[data-example-rows]");
const box = table.querySelector("[data-paste-box]");
const said = table.querySelector("[data-rows-said]");
const button = document.querySelector("[data-compose-button]");
const rows = () => [...table.querySelectorAll("[data-row]")];
const cells = (row) => [...row.querySelectorAll("textarea")];
const isEmpty = (row) => cells(row).every((cell) => !cell.value.trim());
const examples = (many) => `${many} example${many === 1 ? "" : "s"}`;

function addRow() {
  const blank = table.querySelector("[data-row-template]").content.firstElementChild;
  const row = blank.cloneNode(true);
  table.querySelector("tbody").append(row);
  return row;
}

function changed() {
  rows().forEach((row, index) => {
    row.querySelector("[data-row-number]").textContent = index + 1;
    for (const part of row.querySelectorAll("[data-label]")) {
      part.setAttribute("aria-label", `${part.dataset.label} ${index + 1}`);
    }
  });
  const many = rows().filter((row) => !isEmpty(row)).length;
  const isPasted = box.querySelector("textarea").value.trim();
  button.textContent = many && !isPasted ? `Compose from ${examples(many)}` : "Save and compose";
  table.dispatchEvent(new Event("rows-changed", { bubbles: true }));
}

// Pairs of input and answer, or null when the text is neither a table nor JSON lines:
// then it goes to the box below, and the server says which line is wrong.
function readPairs(text) {
  const lines = text.split(/\r\n|\r|\n/).filter((line) => line.trim());
  if (!lines.length) return null;
  if (/^\s*\{/.test(lines[0])) {
    try {
      const found = lines.map((line) => JSON.parse(line));
      const pairs = found.map((one) => [one.input, one.target]);
      return pairs.flat().every((cell) => typeof cell === "string") ? pairs : null;
    } catch {
      return null;
    }
  }
  const pairs = lines.map((line) => line.split("\t").map((cell) => cell.trim()));
  if (!pairs.every((pair) => pair.length === 2)) return null;
  if (/^input (target|answer|output)$/i.test(pairs[0].join(" "))) pairs.shift();
  return pairs;
}

function fill(row, pairs) {
  for (const pair of pairs) {
    // A row that holds something is stepped over: a paste never overwrites.
    while (row && !isEmpty(row)) row = row.nextElementSibling;
    row ??= addRow();
    cells(row).forEach((cell, index) => (cell.value = pair[index]));
  }
  said.textContent = `${examples(pairs.length)} filled in.`;
  changed();
}

function putAside(text) {
  const area = box.querySelector("textarea");
  area.value = area.value.trim() ? `${area.value}\n${text}` : text;
  box.open = true;
  area.focus();
  said.textContent = "Not a plain table of two columns: mend it in the box below.";
  changed();
}

document.addEventListener("paste", (event) => {
  const row = event.target.closest?.("[data-row]");
  if (!row && event.target.closest?.("input, textarea, select")) return;
  const text = event.clipboardData?.getData("text/plain") ?? "";
  const isMany = text.includes("\t") || /^\s*\{.*\n\s*\{/.test(text) || /^\s*\{"/.test(text);
  if (!isMany) return;
  event.preventDefault();
  const pairs = readPairs(text);
  if (pairs?.length) fill(row ?? rows()[0], pairs);
  else putAside(text);
});

table.addEventListener("click", (event) => {
  if (event.target.closest("[data-add-row]")) {
    event.preventDefault();
    const added = Array.from({ length: MORE }, addRow);
    changed();
    cells(added[0])[0].focus();
  }
  const row = event.target.closest("[data-remove-row]")?.closest("[data-row]");
  if (!row) return;
  const near = row.nextElementSibling ?? row.previousElementSibling ?? addRow();
  row.remove();
  said.textContent = "Row removed.";
  changed();
  cells(near)[0].focus();
});

table.addEventListener("input", (event) => {
  const row = event.target.closest("[data-row]");
  if (row && !row.nextElementSibling) addRow();
  changed();
});
