// Somebody at the page: appended to it by the test, in Chromium.
addEventListener("load", () => setTimeout(() => {
  const lines = [];
  const check = (what, holds) => lines.push(`${holds ? "ok" : "not ok"} ${what}`);
  const data = JSON.parse(document.getElementById("data").textContent);
  const metric = data.metrics.find((m) => m.changes.length > 0);
  check("a metric has changes", metric);
  const box = document.getElementById(metric.name);
  const plot = box.querySelector(".plot"), over = box.querySelector(".u-over"), under = box.querySelector(".under");
  check("every metric of the clock has a chart", document.querySelectorAll(".chart").length === data.metrics.filter((m) => m.clock === metric.clock).length);
  check("every metric has a row", document.querySelectorAll("#overview tbody tr").length === document.querySelectorAll(".chart").length);
  const value = (p) => p.value.toLocaleString("en", Number.isInteger(p.value) ? {} : { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const shows = (p) => under.textContent.includes(p.commit) && under.textContent.includes(value(p));
  // The pointer over the first and the last point: their places are 2 % from the ends.
  const area = over.getBoundingClientRect();
  const move = (share) => {
    const where = { bubbles: true, clientX: area.left + area.width * share, clientY: area.top + area.height / 2 };
    over.dispatchEvent(new MouseEvent("mouseenter", where));
    over.dispatchEvent(new MouseEvent("mousemove", where));
  };
  const wait = () => new Promise((done) => setTimeout(done, 100));
  (async () => {
    move(0.02); await wait();
    check("the pointer at the first commit shows it", shows(metric.points[0]));
    move(0.98); await wait();
    check("the pointer at the last commit shows it", shows(metric.points[metric.points.length - 1]));
    plot.focus();
    check("a chart can be reached by the keyboard", document.activeElement === plot);
    const key = (name) => plot.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
    key("Home"); await wait();
    check("Home goes to the first commit", shows(metric.points[0]));
    key("ArrowRight"); await wait();
    check("an arrow goes to the next", shows(metric.points[1]));
    check("changes are named", metric.changes.every((c) => box.querySelector("ul").textContent.includes(metric.points[c.at].commit)));
    check("changes are told by more than colour", /[▲▼] (worse|better)/.test(box.querySelector("ul").textContent));
    const scale = document.getElementById("scale");
    scale.value = "log"; scale.dispatchEvent(new Event("change")); await wait();
    check("the logarithmic scale is drawn", document.querySelectorAll(".chart .u-over").length > 0);
    const kernel = document.getElementById("kernel");
    kernel.selectedIndex = 1; kernel.dispatchEvent(new Event("change")); await wait();
    check("a kernel can be chosen", document.querySelectorAll(".chart").length > 0);
    document.getElementById("theme").click(); await wait();
    check("the theme changes", document.documentElement.dataset.theme === "dark");
    check("nothing is wider than the window", document.documentElement.scrollWidth <= innerWidth);
    const said = document.createElement("pre");
    said.id = "tried";
    said.textContent = lines.join("\n");
    document.body.append(said);
  })();
}, 100));
