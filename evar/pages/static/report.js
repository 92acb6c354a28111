// Run report and comparison: draws the charts, plays the clip that was clicked in the map.
"use strict";
(() => {
  const players = new Map();
  for (const audio of document.querySelectorAll("audio[data-clip]")) {
    players.set(audio.dataset.clip, audio.src);
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    });
  }
  const playing = document.getElementById("playing");
  const own = document.createElement("audio");
  own.controls = true;

  function play(row) {
    const source = (page.data.sounds || {})[row.clip] || players.get(row.clip);
    playing.textContent = row.predicted
      ? `${row.clip}: true ${row.label}, predicted ${row.predicted}`
      : row.clip;
    if (!source) {
      playing.append(" (its sound is not in this page)");
      return;
    }
    own.src = source;
    own.setAttribute("aria-label", row.clip);
    playing.append(own);
    own.play().catch(() => {});
  }

  async function map(element, name) {
    const view = await page.draw(element, name);
    view.addEventListener("click", (_, item) => {
      if (item && item.datum && item.datum.clip !== undefined) play(item.datum);
    });
  }

  const drawn = new Map();
  function drawAll(element) {
    const name = element.dataset.chart;
    drawn.set(element, name);
    return name.startsWith("map-") ? map(element, name) : page.draw(element, name);
  }
  const charts = [...document.querySelectorAll("[data-chart]")];
  for (const element of charts) page.shown(element, () => drawAll(element));
  page.dark.addEventListener("change", () => [...drawn.keys()].forEach(drawAll));
  addEventListener("beforeprint", () => charts.forEach((e) => drawn.has(e) || drawAll(e)));

  const buttons = [...document.querySelectorAll("[data-method]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const element = document.querySelector('[data-chart^="map-"]');
      element.dataset.chart = `map-${button.dataset.method}`;
      drawAll(element);
    });
  }
})();
