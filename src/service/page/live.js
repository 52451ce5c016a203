const live = document.getElementById("live");
const offline = document.getElementById("offline");
const events = new EventSource("/events");
events.onopen = () => { offline.hidden = true; };
events.onerror = () => {
  offline.hidden = false;
  // The browser connects again by itself, unless it was refused.
  if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 10_000);
};
events.onmessage = (event) => {
  // A selection would be lost.
  if (!getSelection().isCollapsed) return;
  const active = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  live.innerHTML = event.data;
  if (active) live.querySelector(`a[href="${CSS.escape(active)}"]`)?.focus({ preventScroll: true });
};
