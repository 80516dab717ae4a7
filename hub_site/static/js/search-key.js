// "/" goes to [data-search-key], unless somebody is typing.
const TYPES = "input, textarea, select, [contenteditable]";

document.addEventListener("keydown", (event) => {
  const isPlain = event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (!isPlain || event.target.closest?.(TYPES)) return;
  const box = document.querySelector("[data-search-key]");
  if (!box) return;
  event.preventDefault();
  box.focus();
  box.select();
});
