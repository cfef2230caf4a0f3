// Tabs below the fold, built when they are first opened; a tab hears of changes only while it is open.
function tabsView(app, tabs) {
  const { $, state, set, on } = app, heads = $("tab-heads"), built = {}, missed = {};
  function open(title) {
    const changed = missed[title] ?? new Set();
    delete missed[title];
    if (!built[title]) {
      const panel = h.div({ role: "tabpanel", class: "ul-tab", "data-title": title, "aria-label": title });
      $("tab-panels").append(panel);
      built[title] = { panel, show: tabs[title](app, panel) };
    }
    Promise.resolve(changed).then(built[title].show).catch(app.fail);
  }
  heads.append(...Object.keys(tabs).map((title, at) => button(title, () => set({ tab: state.tab === title ? "" : title }),
    { role: "tab", "data-title": title, "aria-selected": "false", tabindex: at ? -1 : 0 })));
  roving(heads, "[role=tab]");
  on(["tab"], () => {
    for (const head of heads.children) head.ariaSelected = String(head.dataset.title === state.tab);
    if (state.tab) open(state.tab);
    for (const [title, { panel }] of Object.entries(built)) panel.hidden = title !== state.tab;
  });
  for (const [title, { keys }] of Object.entries(tabs)) on(keys, changed => {
    missed[title] = new Set([...missed[title] ?? [], ...changed]);
    if (state.tab === title) open(title);
  });
}
