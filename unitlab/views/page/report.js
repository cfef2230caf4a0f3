// The page of a report: the study is inside it.
const packed = Uint8Array.from(atob(document.getElementById("data").textContent), letter => letter.charCodeAt(0));
new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json().then(data => {
  const source = reportSource(data), { study } = source, root = document.querySelector(".ul-explorer");
  const fromAddress = () => { const anchor = location.hash.replace(/^#unit-/, ""); return /^\d+$/.test(anchor) && study.place.has(Number(anchor)) ? Number(anchor) : undefined; };
  const app = linkedViews(root, source, { unit: fromAddress() ?? study.units[data.first], columns: [...USUAL_COLUMNS, ...MORE_COLUMNS].filter(name => ["unit", "worst"].includes(name) || study.measure[name]) }, 15);
  app.hash = true;
  document.getElementById("every-unit").remove();
  app.on(["unit"], () => { if (location.hash !== `#unit-${app.state.unit}`) location.hash = `#unit-${app.state.unit}`; });
  addEventListener("hashchange", () => { const unit = fromAddress(); if (unit !== undefined) app.set({ unit }); });
  const printed = whole => { app.wholeTable(whole); for (const each of document.querySelectorAll("details.definitions")) each.open = whole; };
  addEventListener("beforeprint", () => printed(true));
  addEventListener("afterprint", () => printed(false));
  tabsView(app, { "What these drops are made of": accuraciesTab, Wall: wallTab });
  app.start();
  app.set({ tab: "What these drops are made of" });
});
