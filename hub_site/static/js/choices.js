// input[data-filter="#list"] shows only the list's items that hold all its words;
// [data-implies="name=value"] presses that radio button when it is ticked, or chosen from.
const plain = (text) => text.toLowerCase();

document.addEventListener("input", (event) => {
  const list = event.target.dataset?.filter && document.querySelector(event.target.dataset.filter);
  if (!list) return;
  const words = plain(event.target.value).split(/\s+/).filter(Boolean);
  for (const item of list.children) {
    const text = plain(item.dataset.filterText);
    item.hidden = !words.every((word) => text.includes(word));
  }
});

document.addEventListener("change", (event) => {
  const [name, value] = event.target.dataset?.implies?.split("=") ?? [];
  if (name && event.target.checked !== false) {
    event.target.form.querySelector(`[name="${name}"][value="${value}"]`).checked = true;
  }
});
