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
function standalone(svg, [title, legend]) {
  const copy = svg.cloneNode(true), to = [copy, ...copy.querySelectorAll("*")];
  const { color: fill, backgroundColor: ground } = getComputedStyle(svg.closest(".ul-panel"));
  [svg, ...svg.querySelectorAll("*")].forEach((each, at) => {
    const style = getComputedStyle(each);
    for (const name of OF_STYLE) to[at].setAttribute(name, style.getPropertyValue(name));
  });
  const { width, height } = svg.getBoundingClientRect(), size = { width, height: height + 50 };
  const words = (y, size, content) => h.text({ x: 8, y, "font-size": size, fill, "font-family": "sans-serif" }, content);
  const sheet = h.svg({ xmlns: "http://www.w3.org/2000/svg", ...size, viewBox: `0 0 ${width} ${size.height}` },
    h.rect({ width: "100%", height: "100%", fill: ground }), words(18, 14, title), words(height + 40, 12, legend),
    h.g({ transform: "translate(0 24)" }, ...copy.childNodes));
  return { content: new XMLSerializer().serializeToString(sheet), ...size };
}
async function savePicture(svg, words, name, kind) {
  const { content, width, height } = standalone(svg, words);
  if (kind === "svg") return download(`${name}.svg`, "image/svg+xml", content);
  const image = new Image(), canvas = h.canvas({ width: 2 * width, height: 2 * height });
  image.src = "data:image/svg+xml," + encodeURIComponent(content);
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  download(`${name}.png`, "image/png", await new Promise(done => canvas.toBlob(done)));
}
// the bars, which are a table on the page, as one drawing, out of sight
function barsDrawing({ $ }) {
  const rows = [...$("bars").rows], svg = h.svg({ width: 640, height: rows.length * 24 + 24 });
  rows.forEach((row, at) => {
    const bar = row.querySelector("svg").cloneNode(true), y = at * 24;
    for (const [name, value] of Object.entries({ x: 220, y: y + 2, width: 300, height: 22 })) bar.setAttribute(name, value);
    svg.append(mark(210, y + 17, shortened(row.dataset.category, 30), "end"), bar,
      mark(580, y + 17, row.cells[2].textContent, "end"));
  });
  const holder = h.div({ class: "ul-bars ul-offstage" }, svg);
  $("bars").closest(".ul-panel").append(holder);
  return holder;
}

function takeAwayTab(app, panel) {
  const { state, source } = app, code = h.div(), which = h.span(), work = workView(app);
  const files = h.p({ class: "ul-files", role: "status" }), path = h.input({ class: "ul-report-path", size: 40 });
  const place = () => PLACE.map(name => state[name]), stem = () => place().join("_").replace(/[^\w.-]+/g, "_");
  const units = () => state.group.length ? state.group : state.kept ? app.order : [];
  const save = kind => async () => {
    const name = `${stem()}_unit_${state.unit}`, bars = barsDrawing(app);
    const colour = state.color ? `; colour: ${app.label(state.color)}` : "";
    const title = `${place().join(" · ")}: ${app.label(state.y)} against ${app.label(state.x)}`;
    const legend = `filled: specific damage, p ≤ 0.05; hollow: not shown; ring: the open unit${colour}`;
    const finding = app.$("finding").textContent.split(";")[0];
    try {
      await savePicture(app.$("scatter"), [title, legend], `${name}_units`, kind);
      await savePicture(bars.firstChild, [finding, "accuracy drop by class, points; filled: q ≤ 0.05; line: 95 % interval"],
        `${name}_classes`, kind);
    } finally { bars.remove(); }
    files.textContent = "2 pictures saved";
  };
  const file = (label, words, kind, attributes) => button(label, async () => {
    const found = await work.run(words, kind, { units: units(), unit: state.unit, path: path.value });
    if (found?.content) download(found.name, found.type, found.content);
    if (found) files.textContent = `${found.said} ${found.name} (${found.size})`.trim();
  }, attributes);
  const report = file("Write HTML report", "Writing the report …", "report", { class: "ul-write-report" });
  const title = "units with all their measures, as filtered";
  panel.append(code, controls(button("Save plots as PNG", save("png")), button("as SVG", save("svg")),
    file("CSV of units", "Writing the table …", "units_csv", { title }),
    file("CSV of units × classes", "Writing the table …", "cells_csv"), which),
  controls(h.label("Report ", path), report, work.holder), work.said, files);
  return async changed => {
    if (changed.has("held") || !path.value) path.value = `${stem()}.html`;
    const { complete, units: every } = source.study, number = units().length || every.length, larger = number > 512;
    const all = state.group.length ? "units of the group" : state.kept ? "units that pass the filter"
      : "units, all of them; a group or a filter narrows it";
    which.textContent = `${whole(number)} ${all}`;
    report.disabled = !complete || larger;
    work.clear();
    const most = `A report holds at most 512 units, and ${whole(number)} would go into it: collect a group first.`;
    const later = "The report follows when tests and cross-fitted drops are computed.";
    if (report.disabled) work.fail({ message: complete ? most : later });
    app.flush();
    code.replaceChildren(codeBlock(`import unitlab\n${(await source.work("code", {})).code}`));
  };
}
takeAwayTab.keys = [
  "unit", "category", "x", "y", "color", "line", "group", "kept", "measured", "held", "image_style", "image_strength",
];
