// What Gradio's parts lack: alternative texts, the place of a click in a photo, and its markers.
"use strict";
(() => {
  const find = (selector) => document.querySelector(selector);
  const field = (what, point) => find(`#${what}-${point} input`);
  const texts = [
    ["#photo-slider img:nth-of-type(1)", "alt", "The photo"],
    ["#photo-slider img:nth-of-type(2)", "alt", "Its depth map, coloured by distance"],
    ["#photo-cloud canvas", "aria-label", "The photo's points in space; drag to turn them"],
    ["#video-shown video", "aria-label", "The video's depth, coloured by distance"],
    ["#photo-note, #video-note, #photo-values", "role", "status"],
  ];
  let next = 1;

  const size = () => ["column", "row"].map((what) => Number(field(what, 1)?.max) + 1);

  // The photo inside the box of its <img>, without the colour bar that metres have below it.
  function frame() {
    const img = find("#photo-slider img");
    const [width, height] = size();
    if (!img?.naturalWidth || !(width > 1 || height > 1)) return null;
    const box = img.getBoundingClientRect();
    const share = Math.min(box.width / img.naturalWidth, box.height / img.naturalHeight);
    const wide = share * img.naturalWidth;
    return {
      left: box.left + (box.width - wide) / 2,
      top: box.top + (box.height - share * img.naturalHeight) / 2,
      scale: wide / width, width, height,
    };
  }

  function fill(input, value) {
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, value);
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // Gradio's lists stay open where a click elsewhere takes no focus, and open again on Tab.
  window.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && event.target.matches?.("[role=combobox]")) event.stopPropagation();
  }, true);

  let pressed = null;
  document.addEventListener("pointerdown", (event) => {
    const focused = document.activeElement;
    if (focused?.matches("[role=combobox]") && event.target !== focused &&
        !event.target.closest("[role=listbox]")) focused.blur();
    pressed = event.target.closest?.("#photo-slider img") ? event : null;
  }, true);
  document.addEventListener("pointerup", (event) => {
    const still = pressed && Math.hypot(event.clientX - pressed.clientX,
      event.clientY - pressed.clientY) < 5;
    pressed = null;
    const at = still && frame();
    if (!at) return;
    const column = Math.floor((event.clientX - at.left) / at.scale);
    const row = Math.floor((event.clientY - at.top) / at.scale);
    if (column < 0 || row < 0 || column >= at.width || row >= at.height) return;
    if (field("column", 1).value === "") next = 1;
    fill(field("column", next), column);
    fill(field("row", next), row);
    next = 3 - next;
  }, true);

  function mark() {
    const at = frame();
    const holder = find("#photo-slider");
    for (const point of [1, 2]) {
      let marker = find(`#marker-${point}`);
      const [column, row] = ["column", "row"].map((what) => field(what, point)?.value ?? "");
      if (!at || !holder || column === "" || row === "") {
        marker?.remove();
        continue;
      }
      if (marker?.parentElement !== holder) {
        marker?.remove();
        marker = document.createElement("div");
        Object.assign(marker, { id: `marker-${point}`, className: "marker", textContent: point });
        holder.append(marker);
      }
      const box = holder.getBoundingClientRect();
      marker.style.left = `${at.left - box.left + (Number(column) + 0.5) * at.scale}px`;
      marker.style.top = `${at.top - box.top + (Number(row) + 0.5) * at.scale}px`;
    }
  }

  setInterval(() => {
    for (const [selector, name, text] of texts) {
      for (const part of document.querySelectorAll(selector)) {
        if (part.getAttribute(name) !== text) part.setAttribute(name, text);
      }
    }
    mark();
  }, 250);
})();
