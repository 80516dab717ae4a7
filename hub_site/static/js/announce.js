// [data-announce] says its words to screen readers once each; parts that are polled are replaced
// every second, and reading all of that aloud would be noise.
const heard = new Set();

function announce() {
  for (const { dataset } of document.querySelectorAll("[data-announce]")) {
    if (heard.has(dataset.announce)) continue;
    heard.add(dataset.announce);
    document.getElementById("said").textContent = dataset.announce;
  }
}

document.addEventListener("htmx:afterSettle", announce);
announce();
