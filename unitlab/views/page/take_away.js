// Definitions of every number, and what a reader can take away.
function definitionsTab(app, panel) {
  const { source } = app, number = h.span({ role: "status" }), list = h.dl({ class: "ul-definitions" });
  const search = h.input({ class: "ul-search", type: "search", placeholder: "name or word", oninput: show });
  let rows = [];
  panel.append(controls(h.label("Find ", search), number), list);
  function show() {
    const words = search.value.toLowerCase().split(/\s+/);
    const found = rows.filter(row => words.every(word => row.join(" ").toLowerCase().includes(word)));
    number.textContent = `${found.length} of ${count(rows.length, "definition")}`;
    list.replaceChildren(...found.map(([name, title, comment]) => h.div(h.dt(title, " ", h.code(name)), h.dd(comment))),
      ...(found.length ? [] : ["No definition has these words."]));
  }
  return async () => { rows = (await source.row("definitions", { complete: source.study.complete })).rows; show(); };
}
definitionsTab.keys = ["held", "measured"];

const OF_STYLE = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity",
  "font-size", "font-family", "text-anchor"];
// a drawing with the style that it has on this page, a title and a ground, as text
function standalone(svg, title) {
  const copy = svg.cloneNode(true), to = [copy, ...copy.querySelectorAll("*")], { width, height } = svg.getBoundingClientRect();
  [svg, ...svg.querySelectorAll("*")].forEach((each, at) => {
    const style = getComputedStyle(each);
    for (const name of OF_STYLE) to[at].setAttribute(name, style.getPropertyValue(name));
  });
  const ground = getComputedStyle(svg.closest(".ul-panel")).backgroundColor, fill = getComputedStyle(svg).color;
  const words = (y, size, content) => h.text({ x: 8, y, "font-size": size, fill, "font-family": "sans-serif" }, content);
  const size = { width, height: height + 50 }, viewBox = `0 0 ${width} ${size.height}`;
  const sheet = h.svg({ xmlns: "http://www.w3.org/2000/svg", ...size, viewBox },
    h.rect({ width: "100%", height: "100%", fill: ground }),
    words(18, 14, title[0]), words(height + 40, 12, title[1]), h.g({ transform: "translate(0 24)" }, ...copy.childNodes));
  return { content: new XMLSerializer().serializeToString(sheet), ...size };
}
async function savePicture(svg, title, name, kind) {
  const { content, width, height } = standalone(svg, title);
  if (kind === "svg") return download(`${name}.svg`, "image/svg+xml", content);
  const image = new Image(), canvas = h.canvas({ width: 2 * width, height: 2 * height });
  image.src = "data:image/svg+xml," + encodeURIComponent(content);
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  download(`${name}.png`, "image/png", await new Promise(done => canvas.toBlob(done)));
}
// the bars, which are a table on the page, as one drawing
function barsDrawing(app) {
  const rows = [...app.$("bars").rows], svg = h.svg({ width: 640, height: rows.length * 24 + 24 });
  rows.forEach((row, at) => {
    const bar = row.querySelector("svg").cloneNode(true), y = at * 24;
    for (const [name, value] of Object.entries({ x: 220, y: y + 2, width: 300, height: 22 })) bar.setAttribute(name, value);
    svg.append(mark(210, y + 17, shortened(row.dataset.category, 30), "end"), h.g({ class: row.className }, bar),
      mark(580, y + 17, row.cells[2].textContent, "end"));
  });
  const holder = h.div({ class: "ul-bars ul-offstage" }, svg);
  app.$("bars").closest(".ul-panel").append(holder);
  return { svg, done: () => holder.remove() };
}

function takeAwayTab(app, panel) {
  const { state, source } = app, code = h.div(), work = workView(app), files = h.p({ class: "ul-files", role: "status" }),
    which = h.span();
  const place = () => source.study.key.split(" ").slice(0, 3), stem = () => place().join("_").replace(/[^\w.-]+/g, "_");
  const units = () => state.group.length ? state.group : state.kept ? app.order : [];
  const save = kind => async () => {
    const name = `${stem()}_unit_${state.unit}`, bars = barsDrawing(app),
      colour = state.color ? `; colour: ${app.label(state.color)}` : "";
    const legend = `filled: specific damage, p ≤ 0.05; hollow: not shown; ring: the open unit${colour}`;
    const title = `${place().join(" · ")}: ${app.label(state.y)} against ${app.label(state.x)}`;
    const ofBars = [app.$("finding").textContent.split(";")[0],
      "accuracy drop by class, points; filled: q ≤ 0.05; line: 95 % interval"];
    try {
      await savePicture(app.$("scatter"), [title, legend], `${name}_units`, kind);
      await savePicture(bars.svg, ofBars, `${name}_classes`, kind);
    } finally { bars.done(); }
    files.textContent = "2 pictures saved";
  };
  const give = found => {
    if (!found) return;
    if (found.content) download(found.name, found.type, found.content);
    files.textContent = `${found.said} ${found.name} (${found.size})`.trim();
  };
  const file = (words, kind, more = () => ({})) => async () => give(await work.run(words, kind, { units: units(), ...more() }));
  const csv = kind => file("Writing the table …", kind), path = h.input({ class: "ul-report-path", size: 40 });
  const report = button("Write HTML report",
    file("Writing the report …", "report", () => ({ unit: state.unit, path: path.value })));
  const ofUnits = button("CSV of units", csv("units_csv"), { title: "units with all their measures, as filtered" });
  panel.append(code, controls(button("Save plots as PNG", save("png")), button("as SVG", save("svg")), ofUnits,
    button("CSV of units × classes", csv("cells_csv")), which),
  controls(h.label("Report ", path), report, work.holder), work.said, files);
  return async changed => {
    if (changed.has("held") || !path.value) path.value = `${stem()}.html`;
    const some = units().length || source.study.units.length, { complete } = source.study, larger = some > 512;
    const all = state.group.length ? "units of the group" : state.kept ? "units that pass the filter"
      : "units, all of them; a group or a filter narrows it";
    which.textContent = `${some.toLocaleString("en")} ${all}`;
    report.disabled = !complete || larger;
    const most = `A report holds at most 512 units, and ${some.toLocaleString("en")} would go into it: collect a group first.`;
    work.clear();
    if (!complete) work.fail({ message: "The report follows when tests and cross-fitted drops are computed." });
    else if (larger) work.fail({ message: most });
    app.flush();
    code.replaceChildren(codeBlock(`import unitlab\n${(await source.work("code", {})).code}`));
  };
}
takeAwayTab.keys = [
  "unit", "category", "x", "y", "color", "line", "group", "kept", "measured", "held", "image_style", "image_strength",
];
