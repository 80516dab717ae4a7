// [data-example-rows]: rows of examples that can be added, removed, and filled by a paste.
// Without JavaScript "Add 5 rows" is a submit button, and a row left empty is not saved.
const tables = [...document.querySelectorAll("[data-example-rows]")];
const cells = (row) => [...row.querySelectorAll("textarea")];
const rowsOf = (table) => [...table.querySelectorAll("[data-row]")];
const isEmpty = (row) => cells(row).every((cell) => !cell.value.trim());

function renumber(table) {
  rowsOf(table).forEach((row, index) => {
    row.querySelector("[data-row-number]").textContent = index + 1;
    for (const part of row.querySelectorAll("[data-label]")) {
      part.setAttribute("aria-label", `${part.dataset.label} ${index + 1}`);
    }
  });
}

function addRow(table) {
  const row = table.querySelector("[data-row-template]").content.firstElementChild.cloneNode(true);
  table.querySelector("tbody").append(row);
  return row;
}

function changed(table) {
  renumber(table);
  const button = document.querySelector("[data-compose-button]");
  const shots = tables.find((one) => one.dataset.exampleRows === "shot");
  const many = rowsOf(shots).filter((row) => !isEmpty(row)).length;
  if (button) {
    const what = `Compose from ${many} example${many === 1 ? "" : "s"}`;
    button.textContent = many ? what : "Save and compose";
  }
  table.dispatchEvent(new Event("rows-changed", { bubbles: true }));
}

function say(table, words) {
  table.querySelector("[data-rows-said]").textContent = words;
}

// Pairs of input and answer, or null when the text is neither a table nor JSON lines:
// then it goes to the box below, and the server says which line is wrong.
function readPairs(text) {
  const lines = text.split(/\r\n|\r|\n/).filter((line) => line.trim());
  if (!lines.length) return null;
  try {
    if (/^\s*\{/.test(lines[0])) {
      const found = lines.map((line) => JSON.parse(line));
      const good = found.every((one) => typeof one.input === "string" && typeof one.target === "string");
      return good ? found.map((one) => [one.input, one.target]) : null;
    }
  } catch {
    return null;
  }
  const pairs = lines.map((line) => line.split("\t"));
  if (!pairs.every((pair) => pair.length === 2)) return null;
  const heading = pairs[0].map((cell) => cell.trim().toLowerCase()).join(" ");
  if (/^input (target|answer|output)$/.test(heading)) pairs.shift();
  return pairs.map((pair) => pair.map((cell) => cell.trim()));
}

function fill(table, start, pairs) {
  let row = start;
  for (const pair of pairs) {
    // Rows that hold something are stepped over: a paste never overwrites.
    while (row && !isEmpty(row)) row = row.nextElementSibling;
    row ??= addRow(table);
    cells(row).forEach((cell, index) => (cell.value = pair[index]));
    row = row.nextElementSibling;
  }
  changed(table);
  say(table, `${pairs.length} pasted example${pairs.length === 1 ? "" : "s"} filled in.`);
}

function putAside(table, text) {
  const box = table.querySelector("[data-paste-box]");
  const area = box.querySelector("textarea");
  box.open = true;
  area.value = area.value ? `${area.value}\n${text}` : text;
  area.focus();
  say(table, "This is not a plain table of two columns: look at it in the box below.");
  changed(table);
}

document.addEventListener("paste", (event) => {
  const text = event.clipboardData?.getData("text/plain") ?? "";
  const row = event.target.closest?.("[data-row]");
  const isElsewhere = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (!row && isElsewhere) return;
  const pairs = readPairs(text);
  const looksLikeMany = /\t/.test(text) || (/\n./.test(text.trim()) && /^\s*\{/.test(text));
  if (!pairs && !looksLikeMany) return;
  event.preventDefault();
  const table = row?.closest("[data-example-rows]") ?? tables[0];
  if (pairs?.length) fill(table, row ?? rowsOf(table)[0], pairs);
  else putAside(table, text);
});

for (const table of tables) {
  table.addEventListener("click", (event) => {
    if (event.target.closest("[data-add-row]")) {
      event.preventDefault();
      const first = addRow(table);
      for (let more = 1; more < 5; more += 1) addRow(table);
      changed(table);
      cells(first)[0].focus();
    }
    const remove = event.target.closest("[data-remove-row]");
    if (remove) {
      const row = remove.closest("[data-row]");
      const next = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      changed(table);
      (next ? cells(next)[0] : table.querySelector("[data-add-row]")).focus();
      say(table, "Row removed.");
    }
  });
  table.addEventListener("input", (event) => {
    const row = event.target.closest("[data-row]");
    if (!row) return;
    if (!row.nextElementSibling && table.dataset.exampleRows === "shot") addRow(table);
    changed(table);
  });
}
