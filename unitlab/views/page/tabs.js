// Tabs below the fold, built when they are first opened; a tab hears of changes only while it is open.
function tabsView(app, tabs) {
  const { $, state, set, on } = app, heads = $("tab-heads"), panels = $("tab-panels"), built = new Map(), missed = new Map();
  const tab = title => heads.querySelector(`[data-title="${title}"]`);
  const open = (title, changed) => {
    if (!built.has(title)) {
      const panel = element("div", { role: "tabpanel", class: "ul-tab", "data-title": title, "aria-label": title });
      panels.append(panel);
      built.set(title, { panel, show: tabs[title](app, panel) });
    }
    Promise.resolve().then(() => built.get(title).show(changed)).catch(error => app.say(error.message, error.command));
  };
  heads.append(...Object.keys(tabs).map((title, at) => button(title, () => set({ tab: state.tab === title ? "" : title }), { role: "tab", "data-title": title, "aria-selected": "false", tabindex: at ? -1 : 0 })));
  roving(heads, "[role=tab]", { across: true });
  on(["tab"], () => {
    for (const head of heads.children) head.setAttribute("aria-selected", String(head.dataset.title === state.tab));
    if (state.tab) { open(state.tab, missed.get(state.tab) ?? new Set()); missed.delete(state.tab); }
    for (const [title, { panel }] of built) panel.hidden = title !== state.tab;
  });
  for (const [title, build] of Object.entries(tabs)) on(build.keys, changed => {
    if (state.tab === title) open(title, changed);
    else missed.set(title, new Set([...(missed.get(title) ?? []), ...changed]));
  });
}
