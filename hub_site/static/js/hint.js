// [data-term] shows its hint by CSS alone; Escape takes it away until the term is left.
const shown = () => document.querySelector("[data-term]:hover, [data-term]:focus");

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") shown()?.classList.add("is-dismissed");
});
for (const left of ["pointerout", "focusout"]) {
  document.addEventListener(left, (event) => {
    event.target.closest?.("[data-term]")?.classList.remove("is-dismissed");
  });
}
