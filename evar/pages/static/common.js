// Shared by all pages: data, charts in the colours of the page, saving of texts.
"use strict";
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.documentElement.classList.remove("plain");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = {};

  function config() {
    const [text, quiet, line] = dark.matches
      ? ["#e6e8eb", "#a3acb8", "#343b46"]
      : ["#1b1f24", "#57606a", "#d8dde3"];
    const accent = dark.matches ? "#6cb2ff" : "#2f7fd0";
    const labels = { labelColor: quiet, titleColor: quiet, titleFontWeight: 500 };
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { ...labels, domainColor: line, tickColor: line, gridColor: line, labelFontSize: 11 },
      legend: { ...labels, labelFontSize: 11, symbolBaseFillColor: quiet },
      aria: false, // the element around a chart names it; its numbers stand in a table
      mark: { color: accent, aria: false },
      style: { interval: { stroke: text } },
      text: { color: quiet },
      rule: { color: quiet },
      range: { heatmap: dark.matches ? ["#1d2836", "#7cbaff"] : ["#edf4fb", "#08488f"] },
    };
  }

  // The library of charts waits as text, and runs when the first chart comes into view: tables
  // and filters are not kept waiting for it. The page's policy allows it by its hash.
  function library() {
    for (const held of document.querySelectorAll("script[data-library]")) {
      const script = document.createElement("script");
      script.textContent = held.textContent;
      held.replaceWith(script);
    }
  }

  async function draw(element, name, change) {
    library();
    const spec = structuredClone(data.charts[name]);
    if (change) change(spec);
    if (views[name]) views[name].finalize();
    const options = {
      ast: true, // expressions are interpreted: the page allows no eval
      actions: false,
      logLevel: vega.Error,
      defaultStyle: false,
      renderer: spec.data.values.length > 2000 ? "canvas" : "svg",
      config: config(),
      tooltip: { disableDefaultStyle: true, theme: dark.matches ? "dark" : "light" },
      loader: { load: () => Promise.reject(new Error("a page loads nothing")) },
    };
    const made = await vegaEmbed(element, spec, options);
    views[name] = made;
    const drawing = element.querySelector("svg, canvas");
    if (drawing) drawing.setAttribute("aria-hidden", "true");
    return made.view;
  }

  function clear(element, name, text) {
    if (views[name]) views[name].finalize();
    delete views[name];
    element.textContent = text;
  }

  function save(name, kind, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function shown(element, action) {
    // Charts are drawn when they come into view: a long page opens at once.
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        observer.disconnect();
        action();
      }
    }, { rootMargin: "300px" });
    observer.observe(element);
  }

  return { data, dark, draw, clear, save, shown };
})();
