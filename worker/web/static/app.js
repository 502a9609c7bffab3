// Puts times into the zone of the reader, and says when the page is not up to date.
"use strict";

const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function showLocalTimes() {
  for (const each of document.querySelectorAll("time[datetime]")) {
    each.title = each.dateTime;
    each.textContent = zoned.format(new Date(each.dateTime));
  }
}

function showOutage(words) {
  const shown = document.getElementById("outage");
  if (!shown || shown.textContent === words) return;
  shown.textContent = words;
  shown.hidden = !words;
}

document.addEventListener("outage", (event) => {
  showOutage(`Not up to date: ${event.detail.data}. It is tried again every second.`);
});
document.addEventListener("htmx:after:swap", showLocalTimes);
// Messages come one after the other, and this follows each of them; a swap may still be under way when the next one is there.
document.addEventListener("htmx:sse:after:message", (event) => {
  if (!event.detail.message.event) showOutage("");
});
for (const name of ["htmx:sse:error", "htmx:sse:close"]) {
  document.addEventListener(name, () => {
    showOutage("Not up to date: the connection to the server is lost. It is tried again.");
  });
}
showLocalTimes();

// The extension connects again after a stream has ended, but gives up if its first request fails.
const live = document.querySelector("main[data-live]");
let isConnected = false;
document.addEventListener("htmx:sse:after:connection", () => { isConnected = true; });
setInterval(() => {
  if (!live || isConnected || document.hidden) return;
  htmx.ajax("GET", live.getAttribute("hx-sse:connect"), { source: live });
}, 5000);
