"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const grouped = (n) => n.toLocaleString("en-US");
  const whole = (cell) => Number(cell.textContent.replace(/[^0-9-]/g, ""));

  // The books are added up again from the numbers that the page shows.
  function showMark(place, ok, text) {
    const mark = place.querySelector(".mark");
    mark.className = "mark " + (ok ? "ok" : "bad");
    mark.firstElementChild.textContent = ok ? "✓" : "✗";
    mark.lastChild.textContent = " " + text;
  }
  function addUp() {
    const lines = all("tr[data-equation]");
    let closed = 0;
    for (const line of lines) {
      const right = Array.from(line.querySelectorAll("td.right")).reduce((sum, cell) => sum + whole(cell), 0);
      const off = whole(line.querySelector("td.left")) - right;
      showMark(line.querySelector(".check"), off === 0, off === 0 ? "closes" : "off by " + grouped(off));
      closed += off === 0;
    }
    const ok = closed === lines.length;
    document.getElementById("books-closed").textContent = grouped(closed);
    showMark(document.getElementById("books-mark"), ok, ok ? "every equation closes" : "the books do not close");
  }

  // The threshold: first bin that is flagged, number of documents from there on.
  const bins = data.bins;
  const above = new Array(bins.length + 1).fill(0);
  for (let bin = bins.length - 1; bin >= 0; bin--) above[bin] = above[bin + 1] + bins[bin];
  const slider = document.getElementById("slider");
  function percent(share) {
    return share === 0 ? "0" : (100 * share).toFixed(share >= 0.01 ? 2 : share >= 0.0001 ? 4 : 6);
  }
  function showThreshold() {
    const bin = Number(slider.value);
    const threshold = bin / bins.length;
    const text = `Threshold ${threshold.toFixed(3)} flags ${grouped(above[bin])} of ${grouped(above[0])} documents ` +
      `(${percent(above[bin] / above[0])} %)`;
    document.getElementById("slider-says").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    const chart = document.getElementById("scores");
    if (window.Plotly && chart && chart.data) window.Plotly.relayout(chart, { "shapes[0].x0": threshold });
  }

  async function loadLibrary() {
    const packed = document.getElementById("library");
    if (!packed || !("DecompressionStream" in window)) return false;
    const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script); // runs here; the page's policy knows its hash
    return Boolean(window.Plotly);
  }
  async function draw() {
    const options = { displayModeBar: false, responsive: true, showTips: false };
    for (const [id, figure] of Object.entries(data.charts)) {
      const place = document.getElementById(id);
      if (place) await window.Plotly.newPlot(place, figure.data, structuredClone(figure.layout), options);
    }
    for (const button of all("input[name=unit]")) {
      button.addEventListener("change", () => {
        for (const place of all("[id^=flow-].chart")) {
          window.Plotly.restyle(place, "visible", place.data.map((_, i) => i === Number(button.value)));
        }
      });
    }
    // A diagram that changes its width does so slowly, and a printer does not wait: it is drawn anew.
    const redraw = (size) => {
      for (const place of all(".js-plotly-plot")) {
        window.Plotly.newPlot(place, place.data, { ...structuredClone(data.charts[place.id].layout), ...size }, options);
      }
      if (slider) showThreshold();
    };
    window.addEventListener("beforeprint", () => redraw({ width: 680, autosize: false }));
    window.addEventListener("afterprint", () => redraw({}));
  }

  addUp();
  if (slider) {
    slider.addEventListener("input", showThreshold);
    document.getElementById("slider-box").hidden = false;
    showThreshold();
  }
  loadLibrary()
    .then(async (ready) => {
      if (!ready) throw new Error("no charts");
      await draw();
      if (slider) showThreshold();
      document.documentElement.dataset.charts = "drawn";
    })
    .catch(() => {
      for (const place of all(".chart")) place.hidden = true;
      document.getElementById("no-charts").hidden = false;
      document.documentElement.dataset.charts = "none";
    });
})();
