// [data-announce] says its words to screen readers when they change; parts that are polled are
// replaced every second, and reading all of that aloud would be noise.
let last = "";

function announce() {
  const words = document.querySelector("[data-announce]")?.dataset.announce ?? "";
  if (!words || words === last) return;
  last = words;
  document.getElementById("said").textContent = words;
}

document.addEventListener("htmx:afterSettle", announce);
announce();
