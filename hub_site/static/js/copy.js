// [data-copy="text"] copies its text; [data-copy-from="#id"] copies what that element shows.
const said = () => document.getElementById("said");

async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Plain http on another machine has no clipboard object: select and copy the old way.
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const worked = document.execCommand("copy");
  area.remove();
  if (!worked) throw new Error("copying was refused");
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (!button) return;
  const source = button.dataset.copyFrom && document.querySelector(button.dataset.copyFrom);
  let answer = "Copied";
  try {
    await write(source ? source.value ?? source.textContent : button.dataset.copy);
    button.classList.add("is-done");
    setTimeout(() => button.classList.remove("is-done"), 1500);
  } catch {
    answer = "The browser refused to copy; select the text and copy it by hand.";
  }
  if (said()) said().textContent = answer;
});
