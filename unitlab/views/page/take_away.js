// Definitions of every number, and what a reader can take away.
function definitionsTab(app, _, panel) {
  const { source } = app, number = h.span({ role: "status" }), list = h.dl({ class: "ul-definitions" });
  const search = h.input({ class: "ul-search", type: "search", placeholder: "name or word", oninput: show });
  let rows = [];
  panel.append(controls(h.label("Find ", search), number), list);
  function show() {
    const words = search.value.toLowerCase().split(/\s+/);
    const found = rows.filter(row => words.every(word => row.join(" ").toLowerCase().includes(word)));
    number.textContent = `${found.length} of ${count(rows.length, "definition")}`;
    const term = ([name, title, comment]) => h.div(h.dt(title, " ", h.code(name)), h.dd(comment));
    fill(list, found.length ? found.map(term) : "No definition has these words.");
  }
  return async () => { rows = (await source.row("definitions", { complete: source.study.complete })).rows; show(); };
}
definitionsTab.keys = ["held", "measured"];

const OF_STYLE = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity",
  "font-size", "font-family", "text-anchor"];
// drawings and cells of a table with the style that they have on this page, a title and a ground, as text
function standalone(shown, [title, legend]) {
  const { x: left, y: top, width, height } = shown.getBoundingClientRect(), size = { width: width + 16, height: height + 50 };
  const { color: fill, backgroundColor: ground } = getComputedStyle(shown.closest(".ul-panel"));
  const words = (x, y, size, content, anchor = "start") =>
    h.text({ x, y, "font-size": size, fill, "font-family": "sans-serif", "text-anchor": anchor }, content);
  const parts = [...shown.querySelectorAll("svg, :is(th, td):not(:has(svg))")].map(each => {
    const { x, y, width, height } = each.getBoundingClientRect(), place = { x: x - left, y: y - top, width, height };
    const text = shortened(each.textContent, 30), below = place.y + height - 4;
    if (getComputedStyle(each).textAlign === "left") return words(place.x, below, 12, text);
    if (each.tagName !== "svg") return words(place.x + width, below, 12, text, "end");
    const copy = each.cloneNode(true), to = copy.querySelectorAll("*");
    each.querySelectorAll("*").forEach((one, at) => {
      const style = getComputedStyle(one);
      for (const name of OF_STYLE) to[at].setAttribute(name, style.getPropertyValue(name));
    });
    return h.svg({ ...place, overflow: "visible" }, ...copy.childNodes);
  });
  const sheet = h.svg({ xmlns: "http://www.w3.org/2000/svg", ...size, viewBox: `-8 0 ${size.width} ${size.height}` },
    h.rect({ x: -8, ...size, fill: ground }), words(0, 18, 14, title), words(0, height + 40, 12, legend),
    h.g({ transform: "translate(0 24)" }, parts));
  return { content: new XMLSerializer().serializeToString(sheet), ...size };
}
async function savePicture(shown, words, name, kind) {
  const { content, width, height } = standalone(shown, words);
  if (kind === "svg") return download(`${name}.svg`, "image/svg+xml", content);
  const image = new Image(), canvas = h.canvas({ width: 2 * width, height: 2 * height });
  image.src = "data:image/svg+xml," + encodeURIComponent(content);
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  download(`${name}.png`, "image/png", await new Promise(done => canvas.toBlob(done)));
}

function takeAwayTab(app) {
  const { $, state, source } = app, work = workView(app), path = h.input({ class: "ul-report-path", size: 40 });
  const files = h.p({ class: "ul-files", role: "status" }), title = "units with all their measures, as filtered";
  const place = () => PLACE.map(name => state[name]), stem = () => place().join("_").replace(/[^\w.-]+/g, "_");
  const units = () => state.group.length ? state.group : state.kept ? app.order : [];
  const save = kind => async () => {
    const name = `${stem()}_unit_${state.unit}`, colour = state.color ? `; colour: ${app.label(state.color)}` : "";
    const ofUnits = [`${place().join(" · ")}: ${app.label(state.y)} against ${app.label(state.x)}`,
      `filled: damages specific classes (p ≤ 0.05); hollow: not shown to (p > 0.05); ring: the open unit${colour}`];
    const ofBars = [$("finding").textContent.split(/[;(]/)[0],
      "accuracy drop by class, points; filled: q ≤ 0.05; line: 95 % interval"];
    await savePicture($("scatter").parentNode, ofUnits, `${name}_units`, kind);
    await savePicture($("bars").parentNode, ofBars, `${name}_classes`, kind);
    files.textContent = "2 pictures saved";
  };
  const file = (label, words, kind, attributes) => button(label, async () => {
    const found = await work.run(words, kind, { units: units(), unit: state.unit, path: path.value });
    if (found?.content) download(found.name, found.type, found.content);
    if (found) files.textContent = `${found.said} ${found.name} (${found.size})`.trim();
  }, attributes);
  return async changed => {
    if (changed.has("held") || !path.value) path.value = `${stem()}.html`;
    const { complete, units: every } = source.study, number = units().length || every.length;
    const which = state.group.length ? "units of the group" : state.kept ? "units that pass the filter"
      : "units, all of them; a group or a filter narrows it";
    const most = `A report holds at most 512 units, and ${whole(number)} would go into it: collect a group first.`;
    const hinders = complete ? number > 512 && most : "The report follows when tests and cross-fitted drops are computed.";
    work.clear();
    if (hinders) work.fail({ message: hinders });
    app.flush();
    const { code } = await source.work("code", {});
    return [codeBlock(`import unitlab\n${code}`), controls(button("Save plots as PNG", save("png")),
      button("as SVG", save("svg")), file("CSV of units", "Writing the table …", "units_csv", { title }),
      file("CSV of units × classes", "Writing the table …", "cells_csv"), `${whole(number)} ${which}`),
    controls(h.label("Report ", path), work.holder,
      file("Write HTML report", "Writing the report …", "report", { class: "ul-write-report", disabled: Boolean(hinders) })),
    work.said, files];
  };
}
takeAwayTab.keys = [
  "unit", "category", "x", "y", "color", "line", "group", "kept", "measured", "held", "image_style", "image_strength",
];
