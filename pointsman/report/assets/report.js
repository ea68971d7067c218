"use strict";

// Draws the plots of the page from the JSON inside it. Every text comes written out; here are only places and looks.
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const root = document.documentElement;
  root.classList.remove("unscripted");

  const SHAPES = ["circle", "rectRot", "triangle", "rect", "star", "crossRot", "cross", "rectRot"];
  const DASHES = [[], [6, 4], [2, 3], [9, 3, 2, 3]];
  const PHONE = 520;
  const shown = new Map();

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const lookOf = (slot) => (slot === undefined ? colour("grey") : colour(`series-${slot % 8}`));
  const faded = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");
  const known = (...values) => values.filter((value) => value !== undefined);

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  const FONT = `12px ${Chart.defaults.font.family}`;

  const written = {
    usd: (value) => (value < 0 ? "\u2212$" : "$") + trimmed(Math.abs(value), Math.abs(value) < 1 && value ? 2 : 0),
    percent: (value) => trimmed(value) + "%",
    points: (value) => trimmed(value),
    plain: (value) => trimmed(value),
  };

  function trimmed(value, decimals = 0) {
    const rounded = Number(value.toPrecision(4));
    const options = { minimumFractionDigits: decimals, maximumFractionDigits: 8 };
    return rounded.toLocaleString("en", options).replace("-", "\u2212");
  }

  // Ends of an axis that hold every mark and every interval; nothing below zero has a place on a logarithmic one.
  function ends(panel, axis) {
    const values = panel.series.flatMap((series) =>
      series.points.flatMap((point) => known(point[axis], point[`${axis}_low`], point[`${axis}_high`])),
    );
    for (const rule of panel.rules || []) if (rule.axis === axis) values.push(rule.at);
    const spec = panel[axis];
    const usable = [...values, ...known(spec.low, spec.high)].filter((value) => !spec.log || value > 0);
    return [Math.min(...usable), Math.max(...usable)];
  }

  function scaleOf(panel, axis, width) {
    const spec = panel[axis];
    const ink = colour("quiet");
    const scale = {
      type: spec.log ? "logarithmic" : "linear",
      title: { display: Boolean(spec.title), text: spec.title || "", color: ink },
      grid: { color: colour("grid"), drawTicks: false },
      border: { display: false },
      ticks: { color: ink, padding: 6, maxRotation: 0, autoSkipPadding: 12 },
    };
    if (spec.ticks) {
      const room = axis === "y" ? Math.min(Math.round(width / 17), 44) : 10;
      const short = spec.ticks.map((name) => (name.length > room ? name.slice(0, room - 1) + "\u2026" : name));
      Object.assign(scale, { min: -0.6, max: spec.ticks.length - 0.4, reverse: axis === "y" });
      scale.afterBuildTicks = (built) => (built.ticks = short.map((_, value) => ({ value })));
      scale.ticks.callback = (value) => short[value];
      scale.ticks.autoSkip = axis === "x";
      scale.grid.display = axis === "y";
      return scale;
    }
    const [low, high] = ends(panel, axis);
    const write = written[spec.unit] || written.plain;
    scale.ticks.maxTicksLimit = axis === "x" && width < PHONE ? 5 : 8;
    if (spec.log) {
      Object.assign(scale, { min: spec.low || low / 1.25, max: high * 1.25 });
      const decades = Math.log10(scale.max / scale.min);
      const leading = decades > 3 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 5];
      scale.afterBuildTicks = (built) => {
        built.ticks = [];
        for (let power = Math.floor(Math.log10(scale.min)); power <= Math.log10(scale.max); power++)
          for (const digit of leading) {
            const value = Number((digit * 10 ** power).toPrecision(3));
            if (value >= scale.min && value <= scale.max) built.ticks.push({ value });
          }
      };
      scale.ticks.callback = write;
      scale.ticks.autoSkip = false;
    } else {
      const margin = 0.04 * (high - low) || 1;
      scale.suggestedMin = low === spec.low ? low : low - margin;
      scale.suggestedMax = spec.unit === "percent" && high <= 100 ? Math.min(high + margin, 100) : high + margin;
      if (high === spec.high) scale.max = high;
      scale.ticks.callback = write;
    }
    return scale;
  }

  const datasetOf = (series, narrow) => {
    const look = lookOf(series.slot);
    const slot = series.slot === undefined ? 3 : series.slot;
    const bare = series.bars || (series.band && !series.line);
    const radius = bare ? 0 : (narrow ? 3.5 : 4.5) + (SHAPES[slot % 8] === "circle" ? 0 : 1);
    return {
      label: series.label,
      data: series.points.filter((point) => point.x !== undefined && point.y !== undefined),
      series,
      showLine: Boolean(series.line),
      borderColor: look,
      borderDash: DASHES[slot % 4],
      borderWidth: 2,
      pointBorderWidth: 1.5,
      pointStyle: series.bars ? "rect" : SHAPES[slot % 8],
      pointBackgroundColor: series.hollow ? colour("paper") : look,
      pointBorderColor: look,
      backgroundColor: look,
      radius,
      hoverRadius: series.bars ? 0 : radius + 2,
      hitRadius: 8,
    };
  };

  // Where a value stands, or the edge it lies beyond: a logarithmic axis has no zero.
  const pixel = (scale, value) => {
    if (scale.type === "logarithmic" && value <= 0) return scale.isHorizontal() ? scale.left : scale.bottom;
    return scale.getPixelForValue(value);
  };

  function whiskers(context, chart, dataset) {
    const { x, y } = chart.scales;
    context.lineWidth = 1.5;
    context.strokeStyle = faded(dataset.borderColor, 0.75);
    context.beginPath();
    for (const point of dataset.data) {
      const [px, py] = [pixel(x, point.x), pixel(y, point.y)];
      if (point.x_low !== undefined && point.x_high !== undefined) {
        context.moveTo(pixel(x, point.x_low), py);
        context.lineTo(pixel(x, point.x_high), py);
      }
      if (point.y_low !== undefined && point.y_high !== undefined && !dataset.series.band) {
        context.moveTo(px, pixel(y, point.y_low));
        context.lineTo(px, pixel(y, point.y_high));
      }
    }
    context.stroke();
  }

  function band(context, chart, dataset) {
    const { x, y } = chart.scales;
    const both = dataset.data.filter((point) => point.y_low !== undefined && point.y_high !== undefined);
    if (both.length < 2) return;
    context.fillStyle = faded(dataset.borderColor, 0.16);
    context.beginPath();
    for (const point of both) context.lineTo(pixel(x, point.x), pixel(y, point.y_high));
    for (const point of [...both].reverse()) context.lineTo(pixel(x, point.x), pixel(y, point.y_low));
    context.fill();
    if (dataset.series.line) return;
    context.lineWidth = 2;
    context.strokeStyle = dataset.borderColor;
    for (const end of ["y_low", "y_high"]) {
      context.beginPath();
      for (const point of both) context.lineTo(pixel(x, point.x), pixel(y, point[end]));
      context.stroke();
    }
  }

  function bars(context, chart, dataset) {
    const { x, y } = chart.scales;
    context.fillStyle = faded(dataset.borderColor, 0.75);
    for (const point of dataset.data) {
      const [left, right, top] = [pixel(x, point.x_low), pixel(x, point.x_high), pixel(y, point.y)];
      context.fillRect(left + 0.5, top, Math.max(right - left - 1, 1), chart.chartArea.bottom - top);
    }
  }

  function rules(context, chart, panel) {
    const { left, right, top, bottom } = chart.chartArea;
    const ink = colour("quiet");
    for (const rule of panel.rules || []) {
      const at = pixel(chart.scales[rule.axis], rule.at);
      context.strokeStyle = ink;
      context.lineWidth = 1;
      context.setLineDash(rule.strong ? [] : [4, 4]);
      context.beginPath();
      context.moveTo(rule.axis === "x" ? at : left, rule.axis === "x" ? top : at);
      context.lineTo(rule.axis === "x" ? at : right, rule.axis === "x" ? bottom : at);
      context.stroke();
      if (rule.label) {
        context.fillStyle = ink;
        const room = right - at > context.measureText(rule.label).width + 12;
        context.textAlign = room ? "left" : "right";
        context.fillText(rule.label, at + (room ? 6 : -6), top + 12);
      }
    }
    if (panel.diagonal) {
      const low = Math.max(chart.scales.x.min, chart.scales.y.min);
      const high = Math.min(chart.scales.x.max, chart.scales.y.max);
      context.strokeStyle = ink;
      context.beginPath();
      context.moveTo(pixel(chart.scales.x, low), pixel(chart.scales.y, low));
      context.lineTo(pixel(chart.scales.x, high), pixel(chart.scales.y, high));
      context.stroke();
    }
  }

  // Labels go beside their mark where nothing else stands; a label without room is left to the hover text.
  function labels(context, chart) {
    const taken = [];
    const { left, right, top, bottom } = chart.chartArea;
    const visible = chart.data.datasets.filter((_, index) => chart.isDatasetVisible(index));
    const marks = visible.flatMap((dataset) =>
      dataset.data.map((point) => ({ dataset, point, x: pixel(chart.scales.x, point.x), y: pixel(chart.scales.y, point.y) })),
    );
    marks.forEach((mark, index) => {
      taken.push([mark.x - 6, mark.y - 6, mark.x + 6, mark.y + 6]);
      const next = marks[index + 1];
      if (!mark.dataset.series.line || next?.dataset !== mark.dataset) return;
      const steps = Math.ceil(Math.hypot(next.x - mark.x, next.y - mark.y) / 6);
      for (let step = 1; step < steps; step++) {
        const [x, y] = [mark.x + ((next.x - mark.x) * step) / steps, mark.y + ((next.y - mark.y) * step) / steps];
        taken.push([x - 2, y - 2, x + 2, y + 2]);
      }
    });
    context.textAlign = "left";
    for (const { dataset, point, x, y } of marks) {
      if (!point.label) continue;
      const [wide, high] = [context.measureText(point.label).width, 12];
      const beside = [[x + 9, y - 6], [x - 9 - wide, y - 6]];
      const above = [[x - wide / 2, y - 22], [x - wide / 2, y + 10]];
      const corners = [[x + 7, y - 19], [x + 7, y + 7], [x - 7 - wide, y - 19], [x - 7 - wide, y + 7]];
      const places = dataset.series.line ? [...above, ...corners, ...beside] : [...beside, ...above, ...corners];
      const box = places
        .map(([bx, by]) => [bx, by, bx + wide, by + high])
        .find(
          (b) => b[0] > left && b[2] < right && b[1] > top && b[3] < bottom &&
            taken.every((t) => b[2] < t[0] || t[2] < b[0] || b[3] < t[1] || t[3] < b[1]),
        );
      if (!box) continue;
      taken.push(box);
      context.lineWidth = 3;
      context.strokeStyle = colour("paper");
      context.strokeText(point.label, box[0], box[1] + 10);
      context.fillStyle = dataset.borderColor;
      context.fillText(point.label, box[0], box[1] + 10);
    }
  }

  const drawing = (panel) => ({
    id: "drawing",
    beforeDatasetsDraw(chart) {
      const context = chart.ctx;
      const { left, top, width, height } = chart.chartArea;
      context.save();
      context.font = FONT;
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      rules(context, chart, panel);
      context.setLineDash([]);
      chart.data.datasets.forEach((dataset, index) => {
        if (!chart.isDatasetVisible(index)) return;
        if (dataset.series.band) band(context, chart, dataset);
        if (dataset.series.bars) bars(context, chart, dataset);
        else whiskers(context, chart, dataset);
      });
      context.restore();
    },
    afterDatasetsDraw(chart) {
      chart.ctx.save();
      chart.ctx.font = FONT;
      labels(chart.ctx, chart);
      chart.ctx.restore();
    },
  });

  function draw(plot) {
    const box = document.getElementById(plot.id);
    const panel = plot.panels[shown.get(plot.id) || 0];
    const canvas = box.querySelector("canvas");
    Chart.getChart(canvas)?.destroy();
    const width = box.clientWidth;
    const rows = panel.y.ticks?.length;
    const paper = root.classList.contains("paper");
    box.style.height = `${rows ? 100 + rows * (paper ? 20 : 28) : width < PHONE || paper ? 300 : 380}px`;
    new Chart(canvas, {
      type: "scatter",
      data: { datasets: panel.series.map((series) => datasetOf(series, width < PHONE)) },
      options: {
        animation: false,
        maintainAspectRatio: false,
        devicePixelRatio: Math.max(2, window.devicePixelRatio),
        interaction: { mode: "nearest", intersect: false, axis: panel.series[0].bars ? "x" : "xy" },
        layout: { padding: { top: 4, right: 8 } },
        scales: { x: scaleOf(panel, "x", width), y: scaleOf(panel, "y", width) },
        plugins: {
          legend: {
            display: panel.series.length > 1,
            position: "bottom",
            labels: { color: colour("ink"), usePointStyle: true, boxHeight: 7, padding: 16 },
          },
          tooltip: {
            displayColors: false,
            backgroundColor: colour("ink"),
            titleColor: colour("paper"),
            bodyColor: colour("paper"),
            padding: 10,
            callbacks: {
              title: (items) => items[0].raw.name || items[0].dataset.label,
              label: (item) => item.raw.notes || [],
            },
            filter: (_, index) => index === 0,
          },
        },
      },
      plugins: [drawing(panel)],
    });
  }

  function addMenu(plot) {
    if (plot.panels.length < 2) return;
    const label = document.createElement("label");
    const menu = document.createElement("select");
    label.className = "menu";
    label.append(`${plot.menu} `, menu);
    plot.panels.forEach((panel, index) => menu.add(new Option(panel.label, String(index))));
    menu.addEventListener("change", () => {
      shown.set(plot.id, menu.selectedIndex);
      draw(plot);
    });
    document.getElementById(plot.id).before(label);
  }

  const drawAll = () => plots.forEach(draw);
  plots.forEach(addMenu);
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  // On paper: light colours, the width of the sheet, and nothing left folded that a reader would want to unfold.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    root.classList.add("paper");
    unfolded = [...document.querySelectorAll("details[data-printed]:not([open])")];
    for (const details of unfolded) details.open = true;
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("paper");
    for (const details of unfolded) details.open = false;
    drawAll();
  });

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-10% 0px -80% 0px" },
  );
  for (const id of links.keys()) seen.observe(document.getElementById(id));
})();
