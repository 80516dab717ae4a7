// form[data-sliders]: each slider's number stands beside it; [data-back] puts all where the search
// had found them.
const shown = (value) => {
  const text = Math.abs(value).toFixed(2);
  return value < 0 ? `\u2212${text}` : `+${text}`;
};

const tell = (slider) => {
  slider.form.querySelector(`output[for="${slider.id}"]`).value = shown(Number(slider.value));
};

document.addEventListener("input", (event) => {
  if (event.target.type === "range" && event.target.closest("[data-sliders]")) tell(event.target);
});

document.addEventListener("click", (event) => {
  const form = event.target.closest("[data-back]")?.closest("[data-sliders]");
  if (!form) return;
  for (const slider of form.querySelectorAll("input[type=range]")) {
    slider.value = slider.dataset.found;
    tell(slider);
  }
  form.dispatchEvent(new Event("input", { bubbles: true }));
});
