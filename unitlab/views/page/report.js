// The page of a report: the study is inside it.
const packed = Uint8Array.from(atob(document.getElementById("data").textContent), letter => letter.charCodeAt(0));
new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json().then(data => {
  const source = reportSource(data), { study } = source, root = document.querySelector(".ul-explorer");
  const columns = [...USUAL_COLUMNS, ...MORE_COLUMNS].filter(name => ["unit", "worst"].includes(name) || study.measure[name]);
  const addressed = () => study.units.find(unit => location.hash === `#unit-${unit}`);
  const app = linkedViews(root, source, { ...data.place, unit: addressed() ?? study.units[data.first], columns }, 15);
  document.getElementById("every-unit").remove();
  app.on(["unit"], () => { location.hash = `#unit-${app.state.unit}`; });
  addEventListener("hashchange", () => app.set({ unit: addressed() ?? app.state.unit }));
  for (const [kind, whole] of [["beforeprint", true], ["afterprint", false]]) addEventListener(kind, () => {
    app.wholeTable(whole);
    for (const each of document.querySelectorAll("details.definitions")) each.open = whole;
  });
  tabsView(app, { "What these drops are made of": accuraciesTab, "Compare": compareTab, "Wall": wallTab });
  app.start();
  app.set({ tab: "What these drops are made of" });
});
