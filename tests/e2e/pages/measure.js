// Measures every page of this document, each in a frame of its own, and leaves what is wrong with them, and what was
// measured, as JSON in base64 in an element: Chromium prints the document that results.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)").matches;

/** [red, green, blue, alpha], each from 0 to 1, of a computed colour. */
function colour(text) {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
  return [r / 255, g / 255, b / 255, a];
}

/** Relative luminance (WCAG 2.2). */
function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** What is painted behind a text: the bar that it stands in, or the nearest background. */
function behind(element, view) {
  if (element.matches("svg .inside")) {
    return colour(view.getComputedStyle(element.parentElement.querySelector("rect.bar")).fill);
  }
  for (let at = element; at; at = at.parentElement) {
    const ground = colour(view.getComputedStyle(at).backgroundColor);
    if (ground[3] > 0) return ground;
  }
  return dark ? [0, 0, 0, 1] : [1, 1, 1, 1];
}

function within(inner, outer, slack) {
  return inner.left >= outer.left - slack && inner.right <= outer.right + slack
    && inner.top >= outer.top - slack && inner.bottom <= outer.bottom + slack;
}

function apart(one, other) {
  return one.right <= other.left || other.right <= one.left || one.bottom <= other.top || other.bottom <= one.top;
}

function measure(frame) {
  const { contentDocument: page, contentWindow: view } = frame;
  const wrong = [];
  const root = page.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push(`it is ${root.scrollWidth} wide in a window of ${root.clientWidth}`);
  if (root.clientWidth > 1000) {
    for (const box of page.querySelectorAll(".wide")) {
      if (box.scrollWidth > box.clientWidth) wrong.push("a table has to be scrolled in a wide window");
    }
  }
  const ground = luminance(colour(view.getComputedStyle(page.body).backgroundColor));
  if (dark ? ground > 0.05 : ground < 0.9) wrong.push(`its background has luminance ${ground.toFixed(2)}`);

  let texts = 0;
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    const range = page.createRange();
    range.selectNodeContents(walker.currentNode);
    const box = range.getBoundingClientRect();
    if (!text || element.closest("title") || !box.width) continue;
    texts += 1;
    const style = view.getComputedStyle(element);
    const ratio = contrast(colour(element.closest("svg") ? style.fill : style.color), behind(element, view));
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)} of ${JSON.stringify(text)}`);
    if (!element.closest(".wide") && (box.left < 0 || box.right > root.clientWidth)) wrong.push(`${JSON.stringify(text)} is cut off`);
  }

  const bars = [...page.querySelectorAll("svg rect.bar")];
  for (const bar of bars) {
    const box = bar.getBoundingClientRect();
    const title = JSON.stringify(bar.textContent.trim());
    if (!(bar.getBBox().width > 0 && box.height > 0)) wrong.push(`a bar has no width: ${title}`);
    if (!within(box, bar.closest("svg").getBoundingClientRect(), 2)) wrong.push(`a bar is not inside its chart: ${title}`);
    const label = bar.parentElement.querySelector(".inside")?.getBoundingClientRect();
    if (label?.width && !within(label, box, 1)) wrong.push(`a bar is too small for what stands in it: ${title}`);
  }
  for (const chart of page.querySelectorAll(".chart")) {
    const boxes = [...chart.querySelectorAll("text, :scope > div > div")].map((text) => text.getBoundingClientRect()).filter((box) => box.width);
    boxes.forEach((box, at) => {
      if (boxes.slice(at + 1).some((other) => !apart(box, other))) wrong.push("texts of a chart cover each other");
    });
  }
  return { name: frame.name, width: root.clientWidth, wrong: [...new Set(wrong)], texts, bars: bars.length };
}

addEventListener("load", () => {
  const pages = [...document.querySelectorAll("iframe")].map(measure);
  const said = new TextEncoder().encode(JSON.stringify({ dark, pages }));
  document.querySelector("#measured").textContent = btoa(String.fromCharCode(...said));
});
