"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const make = (name, more = {}, ...inside) => {
    const node = Object.assign(document.createElement(name), more);
    node.append(...inside);
    return node;
  };
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const digits = (value) => Number.isInteger(value)
    ? value.toLocaleString("en")
    : value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const signed = (percent) => (percent > 0 ? "+" : "−") + Math.abs(percent).toFixed(2) + " %";
  const sign = (verdict) => (verdict === "worse" ? "▲" : "▼");
  const dashes = [[8, 4], [2, 3], [10, 3, 2, 3], [4, 4], [14, 4], [6, 2, 2, 2]];
  let plots = [];

  const theme = (name) => {
    document.documentElement.dataset.theme = name;
    by("theme").textContent = name === "dark" ? "Light" : "Dark";
  };
  const wished = new URLSearchParams(location.search).get("theme");
  theme(wished || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  by("theme").onclick = () => {
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    draw();
  };

  const fill = (select, values, word) => {
    for (const value of values) {
      select.append(make("option", { value, textContent: word(value) }));
    }
  };
  const all = (of) => [...new Set(data.metrics.flatMap(of))];
  fill(by("clock"), all((m) => [m.clock]), (c) => ({ lab: "lab: 1 ns an instruction", host: "real" }[c] || c));
  fill(by("kernel"), ["all", ...all((m) => m.points.map((p) => p.kernel)).filter((k) => k)], (k) => k);
  for (const id of ["clock", "kernel", "peers", "scale"]) {
    by(id).onchange = () => draw();
  }

  // What is left of a metric after the choices; changes keep their points.
  const chosen = (metric) => {
    const kernel = by("kernel").value;
    const kept = metric.points.map((_, i) => i).filter((i) => kernel === "all" || metric.points[i].kernel === kernel);
    const place = new Map(kept.map((old, index) => [old, index]));
    return {
      ...metric,
      points: kept.map((i) => metric.points[i]),
      changes: metric.changes.filter((c) => place.has(c.at)).map((c) => ({ ...c, at: place.get(c.at) })),
      peers: by("peers").value === "all" ? metric.peers : [],
    };
  };

  const axis = (more) => ({
    stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 },
    font: "12px system-ui, sans-serif", ...more,
  });

  const told = (metric, index) => {
    const p = metric.points[index];
    let text = `${p.commit} ${p.subject}: ${digits(p.value)} ${metric.unit}`;
    if (p.parts) {
      text += `; set-up ${digits(p.parts[0])}, guest ${digits(p.parts[1])}, host ${digits(p.parts[2])} ms`;
    }
    if (p.exits !== null) {
      text += `; ${p.exits.toLocaleString("en")} exits`;
    }
    return text + (p.date ? ` (${p.date.slice(0, 10)})` : "");
  };

  // Marks of changes: a line, and a sign that tells the direction without colour.
  const marks = (metric) => (u) => {
    const ratio = devicePixelRatio;
    const { ctx } = u;
    ctx.save();
    ctx.font = `${14 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    for (const change of metric.changes) {
      const x = u.valToPos(change.at, "x", true);
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = color(change.verdict === "worse" ? "--worse" : "--better");
      ctx.setLineDash([3 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top + 16 * ratio);
      ctx.lineTo(x, u.bbox.top + u.bbox.height);
      ctx.stroke();
      ctx.fillText(sign(change.verdict), x, u.bbox.top + 13 * ratio);
    }
    ctx.restore();
  };

  const chart = (full) => {
    const metric = chosen(full);
    const box = make("article", { className: "chart", id: metric.name });
    box.append(make("h3", { textContent: metric.name }));
    const unit = metric.clock === "lab" && metric.unit === "ms" ? "virtual ms" : metric.unit;
    const words = [metric.about, metric.control, `${unit}, ${metric.better === "more" ? "more" : "less"} is better`];
    box.append(make("p", { className: "about", textContent: words.filter((w) => w).join("; ") }));
    const plot = make("div", { className: "plot", tabIndex: 0 });
    plot.setAttribute("role", "application");
    const under = make("p", { className: "under" });
    under.setAttribute("aria-live", "polite");
    box.append(plot, under);
    by("charts").append(box);
    const last = metric.points.length - 1;
    if (last < 0) {
      under.textContent = "nothing with this kernel";
      return;
    }
    plot.setAttribute("aria-label", `${metric.name}, ${metric.points.length} commits, newest ${digits(metric.points[last].value)} ${unit}`);
    const xs = metric.points.map((_, index) => index);
    const log = by("scale").value === "log" && metric.points.every((p) => p.low > 0);
    // Others that are far off would flatten all else: they are told, not drawn.
    const far = 1.9 * Math.max(...metric.points.map((p) => p.high));
    const drawn = metric.peers.filter((peer) => peer.value <= far);
    const series = [{}, {
      label: metric.name, stroke: color("--main"), width: 2, points: { show: true, size: 7, fill: color("--ground") },
    }, { stroke: "transparent", points: { show: false } }, { stroke: "transparent", points: { show: false } }];
    drawn.forEach((peer, index) => series.push({
      label: peer.name, stroke: color("--soft"), width: 1.5, dash: dashes[index % dashes.length], points: { show: false },
    }));
    const names = (u) => {
      const { ctx } = u;
      const ratio = devicePixelRatio;
      ctx.save();
      ctx.fillStyle = color("--soft");
      ctx.font = `${12 * ratio}px system-ui, sans-serif`;
      ctx.textAlign = "left";
      for (const peer of drawn) {
        const y = u.valToPos(peer.value, "y", true);
        if (y < u.bbox.top + 12 || y > u.bbox.top + u.bbox.height) continue;
        ctx.fillText(`${peer.name} ${peer.version} ${digits(peer.value)}`, u.bbox.left + 8 * ratio, y - 4 * ratio);
      }
      ctx.restore();
    };
    const u = new uPlot({
      width: plot.clientWidth || 600, height: 240, series,
      cursor: { drag: { x: true, y: false }, points: { size: 9 } },
      scales: {
        x: { time: false, range: (_, from, to) => (from === to ? [from - 1, to + 1] : [from - (to - from) * 0.02, to + (to - from) * 0.02]) },
        y: log ? { distr: 3 } : { range: (_, from, to) => { const more = (to - from) * 0.15 || Math.abs(to) * 0.05 || 1; return [from - more, to + more]; } },
      },
      axes: [
        axis({ space: 90, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], values: (_, ticks) => ticks.map((t) => metric.points[t]?.commit.slice(0, 8) ?? "") }),
        axis({ size: 70, values: (_, ticks) => ticks.map((t) => (t === null ? "" : t.toLocaleString("en"))) }),
      ],
      bands: [{ series: [3, 2], fill: color("--band") }],
      hooks: {
        draw: [marks(metric), names],
        setCursor: [(u) => { if (u.cursor.idx !== null && u.cursor.idx !== undefined) under.textContent = told(metric, u.cursor.idx); }],
      },
    }, [xs, metric.points.map((p) => p.value), metric.points.map((p) => p.low), metric.points.map((p) => p.high),
      ...drawn.map((peer) => xs.map(() => peer.value))], plot);
    plots.push([u, plot]);
    under.textContent = told(metric, last);
    let at = last;
    const point = (index) => {
      at = Math.max(0, Math.min(last, index));
      u.setCursor({ left: u.valToPos(at, "x"), top: u.valToPos(metric.points[at].value, "y") });
      under.textContent = told(metric, at);
    };
    const zoom = (factor) => {
      const { min, max } = u.scales.x;
      const half = Math.max((max - min) * factor / 2, 0.6);
      u.setScale("x", { min: Math.max(0, at - half), max: Math.min(last, at + half) });
    };
    const whole = () => u.setScale("x", { min: 0, max: last });
    plot.onkeydown = (event) => {
      const act = {
        ArrowLeft: () => point(at - 1), ArrowRight: () => point(at + 1), Home: () => point(0), End: () => point(last),
        "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), Escape: whole,
      }[event.key];
      if (act) {
        act();
        event.preventDefault();
      }
    };
    if (metric.peers.length > 0) {
      const others = metric.peers.map((peer) => `${peer.name} ${peer.version} ${digits(peer.value)}`);
      box.append(make("p", { className: "about", textContent: `Others, with their own words on the command line: ${others.join("; ")}` }));
    }
    if (metric.changes.length > 0) {
      box.append(make("ul", {}, ...metric.changes.map((change) => {
        const p = metric.points[change.at];
        const word = make("span", { className: change.verdict, textContent: `${sign(change.verdict)} ${change.verdict} ${signed(change.percent)}` });
        const more = change.parts ? `; ${change.parts}` : "";
        return make("li", {}, word, ` ${digits(change.before)} to ${digits(change.after)} ${metric.unit}: ${p.commit} ${p.subject}${more}`);
      })));
    }
    const rows = metric.points.map((p) => make("tr", {},
      make("td", { textContent: p.commit }), make("td", { textContent: p.subject }), make("td", { className: "number", textContent: digits(p.value) })));
    box.append(make("details", {}, make("summary", { textContent: "as a table" }), make("div", { className: "wide" }, make("table", {}, make("tbody", {}, ...rows)))));
  };

  const row = (full) => {
    const metric = chosen(full);
    const last = metric.points[metric.points.length - 1];
    if (!last) return;
    const change = metric.changes[metric.changes.length - 1];
    const spark = make("div", { className: "spark" });
    const unit = metric.clock === "lab" && metric.unit === "ms" ? "virtual ms" : metric.unit;
    by("overview").tBodies[0].append(make("tr", {},
      make("td", {}, make("a", { href: `#${metric.name}`, textContent: metric.name }), make("small", { textContent: metric.about })),
      make("td", { className: "number", textContent: `${digits(last.value)} ${unit}` }),
      make("td", {}, change
        ? make("span", { className: change.verdict, textContent: `${sign(change.verdict)} ${change.verdict} ${signed(change.percent)}` }) : "none seen",
        make("small", { textContent: change ? metric.points[change.at].subject : "" })),
      make("td", {}, spark)));
    if (metric.points.length < 2) {
      spark.textContent = "one point";
      return;
    }
    const xs = metric.points.map((_, index) => index);
    plots.push([new uPlot({
      width: 160, height: 36, cursor: { show: false }, legend: { show: false }, padding: [4, 4, 4, 4],
      scales: { x: { time: false } }, axes: [{ show: false }, { show: false }],
      series: [{}, { stroke: color("--main"), width: 2, points: { show: false } }],
    }, [xs, metric.points.map((p) => p.value)], spark), null]);
  };

  const bars = (box, values, label, log) => {
    const xs = values.map((_, index) => index);
    const u = new uPlot({
      width: box.clientWidth || 400, height: 260, title: label, cursor: { show: false }, legend: { show: false },
      scales: { x: { time: false, range: [-0.6, values.length - 0.4] }, y: log ? { distr: 3, range: (_, from, to) => [100, to * 3] } : { range: (_, from, to) => [0, to * 1.15] } },
      axes: [
        axis({ splits: () => xs, values: () => data.talk.map((bar) => bar.step), rotate: -25, size: 62, grid: { show: false } }),
        axis({ size: 70, values: (_, ticks) => ticks.map((t) => (t === null || (log && !/^10*$/.test(String(t))) ? "" : t.toLocaleString("en"))) }),
      ],
      series: [{}, { stroke: color("--main"), fill: color("--band"), width: 2, points: { show: false }, paths: uPlot.paths.bars({ size: [0.6, 80] }) }],
      hooks: {
        draw: [(u) => {
          const { ctx } = u;
          ctx.save();
          ctx.fillStyle = color("--text");
          ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textAlign = "center";
          values.forEach((value, index) => ctx.fillText(digits(value), u.valToPos(index, "x", true), u.valToPos(value, "y", true) - 5 * devicePixelRatio));
          ctx.restore();
        }],
      },
    }, [xs, values], box);
    plots.push([u, box]);
  };

  const draw = () => {
    plots.forEach(([u]) => u.destroy());
    plots = [];
    for (const node of [by("charts"), by("talk"), by("overview").tBodies[0], by("talk-table").tBodies[0]]) {
      node.replaceChildren();
    }
    const shown = data.metrics.filter((metric) => metric.clock === by("clock").value);
    shown.forEach(row);
    by("talk").closest("section").hidden = data.talk.length === 0;
    if (data.talk.length > 0) {
      const boxes = [make("div"), make("div")];
      by("talk").append(...boxes);
      bars(boxes[0], data.talk.map((bar) => bar.ms), "virtual ms", false);
      bars(boxes[1], data.talk.map((bar) => bar.exits), "exits", true);
      data.talk.forEach((bar) => by("talk-table").tBodies[0].append(make("tr", {},
        make("td", { textContent: bar.step }), make("td", { className: "number", textContent: digits(bar.ms) }),
        make("td", { className: "number", textContent: bar.exits.toLocaleString("en") }))));
    }
    shown.forEach(chart);
    const newest = shown.flatMap((metric) => metric.points.slice(-1))[0];
    by("newest").textContent = newest ? `Newest: ${newest.commit} ${newest.subject}` : "Nothing was measured yet.";
  };
  draw();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width !== innerWidth) {
      width = innerWidth;
      draw();
    }
  });
})();
