// Definitions of every number, and what a reader can take away.
function definitionsTab(app, panel) {
  const { source } = app, search = element("input", { class: "ul-search", type: "search", placeholder: "name or word", oninput: show }), number = element("span", { role: "status" }), list = element("dl", { class: "ul-definitions" });
  let rows = [];
  panel.append(element("div", { class: "ul-controls" }, element("label", {}, "Find ", search), number), list);
  function show() {
    const words = search.value.toLowerCase().split(/\s+/), found = rows.filter(row => words.every(word => row.join(" ").toLowerCase().includes(word)));
    number.textContent = `${found.length} of ${count(rows.length, "definition")}`;
    list.replaceChildren(...found.map(([name, title, comment]) => element("div", {}, element("dt", {}, title, " ", element("code", {}, name)), element("dd", {}, comment))), ...(found.length ? [] : ["No definition has these words."]));
  }
  return async () => { rows = (await source.row("definitions", { complete: source.study.complete })).rows; show(); };
}
definitionsTab.keys = ["held", "measured"];

// a drawing with the style that it has on this page, a title and a ground, as text
function standalone(svg, title) {
  const copy = svg.cloneNode(true), from = [svg, ...svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")], { width, height } = svg.getBoundingClientRect();
  const named = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity", "font-size", "font-family", "text-anchor"];
  from.forEach((each, at) => { const style = getComputedStyle(each); for (const name of named) to[at].setAttribute(name, style.getPropertyValue(name)); });
  const ground = getComputedStyle(svg.closest(".ul-panel")).backgroundColor, ink = getComputedStyle(svg).color;
  const words = (y, size, content) => element("text", { x: 8, y, "font-size": size, fill: ink, "font-family": "sans-serif", "text-anchor": "start" }, content);
  const sheet = element("svg", { xmlns: "http://www.w3.org/2000/svg", width, height: height + 50, viewBox: `0 0 ${width} ${height + 50}` }, element("rect", { width: "100%", height: "100%", fill: ground }), words(18, 14, title[0]), words(height + 40, 12, title[1]), element("g", { transform: "translate(0 24)" }, ...copy.childNodes));
  return { text: new XMLSerializer().serializeToString(sheet), width, height: height + 50 };
}
async function savePicture(svg, title, name, kind) {
  const { text: content, width, height } = standalone(svg, title);
  if (kind === "svg") return download(`${name}.svg`, "image/svg+xml", content);
  const image = new Image(), canvas = element("canvas", { width: 2 * width, height: 2 * height });
  image.src = "data:image/svg+xml," + encodeURIComponent(content);
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  download(`${name}.png`, "image/png", await new Promise(done => canvas.toBlob(done)));
}
// the bars, which are a table on the page, as one drawing
function barsDrawing(app) {
  const rows = [...app.$("bars").rows], svg = element("svg", { width: 640, height: rows.length * 24 + 24 });
  rows.forEach((row, at) => {
    const bar = row.querySelector("svg").cloneNode(true);
    for (const [name, value] of [["x", 220], ["y", at * 24 + 2], ["width", 300]]) bar.setAttribute(name, value);
    svg.append(element("text", { x: 210, y: at * 24 + 17, "text-anchor": "end" }, shortened(row.dataset.category, 30)), element("g", { class: row.className }, bar), element("text", { x: 580, y: at * 24 + 17, "text-anchor": "end" }, row.cells[2].textContent));
  });
  const holder = element("div", { class: "ul-bars ul-offstage" }, svg);
  app.$("bars").closest(".ul-panel").append(holder);
  return { svg, done: () => holder.remove() };
}

function takeAwayTab(app, panel) {
  const { state, source } = app, code = element("div", { class: "ul-view-code" }), work = workView(app), files = element("p", { class: "ul-files", role: "status" }), which = element("span");
  const name = () => `${source.study.key.split(" ").slice(0, 3).join("_")}_unit_${state.unit}`.replace(/[^\w.-]+/g, "_");
  const units = () => state.group.length ? state.group : state.kept ? app.order : [];
  const legend = "filled: specific damage, p ≤ 0.05; hollow: not shown; ring: the open unit";
  const save = kind => async () => {
    await savePicture(app.$("scatter"), [`${source.study.key.split(" ").slice(0, 3).join(" · ")}: ${app.label(state.y)} against ${app.label(state.x)}`, legend + (state.color ? `; colour: ${app.label(state.color)}` : "")], `${name()}_units`, kind);
    const bars = barsDrawing(app);
    try { await savePicture(bars.svg, [app.$("finding").textContent.split(";")[0], "accuracy drop by class, points; filled: q ≤ 0.05; line: 95 % interval"], `${name()}_classes`, kind); } finally { bars.done(); }
    files.textContent = "2 pictures saved";
  };
  const give = found => { if (!found) return; if (found.content) download(found.name, found.type, found.content); files.textContent = `${found.said} ${found.name} (${found.size})`.trim(); };
  const csv = kind => async () => give(await work.run("Writing the table …", kind, { units: units() }));
  const path = element("input", { class: "ul-report-path", type: "text", size: 40 });
  const report = button("Write HTML report", async () => give(await work.run("Writing the report …", "report", { units: units(), unit: state.unit, path: path.value })), { class: "ul-write-report" });
  panel.append(code, element("div", { class: "ul-controls" }, button("Save plots as PNG", save("png")), button("as SVG", save("svg")), button("CSV of units", csv("units_csv"), { title: "units with all their measures, as filtered" }), button("CSV of units × classes", csv("cells_csv")), which),
    element("div", { class: "ul-controls" }, element("label", {}, "Report ", path), report, work.holder), work.said, files);
  return async changed => {
    if (changed.has("held") || !path.value) path.value = name().replace(/_unit_\d+$/, "") + ".html";
    const some = units().length || source.study.units.length, all = state.group.length ? "units of the group" : state.kept ? "units that pass the filter" : "units, all of them; a group or a filter narrows it";
    which.textContent = `${some.toLocaleString("en")} ${all}`;
    report.disabled = !source.study.complete || some > 512;
    work.clear();
    if (!source.study.complete) work.fail({ message: "The report follows when tests and cross-fitted drops are computed." });
    else if (some > 512) work.fail({ message: `A report holds at most 512 units, and ${some.toLocaleString("en")} would go into it: collect a group (lasso) first.` });
    app.flush();
    code.replaceChildren(codeBlock(`import unitlab\n${(await source.work("code", {})).code}`));
  };
}
takeAwayTab.keys = ["unit", "category", "x", "y", "color", "line", "group", "kept", "measured", "held", "image_style", "image_strength"];
