// What the browser tests ask JupyterLab and BokehJS; injected into every page before its own scripts.
window.notebookPage = {
  panel() { return window.jupyterapp?.shell?.currentWidget; },
  kernel() { return this.panel()?.sessionContext?.session?.kernel; },
  ready() { return this.kernel()?.status === 'idle' && this.panel().content?.widgets?.length > 0; },
  code() {
    return this.panel().content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim());
  },
  ran() { return this.ready() && this.code().every(c => c.model.executionCount !== null); },
  errors() {
    return this.code().flatMap(c => c.model.outputs.toJSON()).filter(o => o.output_type === 'error')
      .map(o => `${o.ename}: ${o.evalue}`);
  },

  // connected views of the Bokeh figures with this name, from the top of the page down; those of earlier runs are gone
  views(name) {
    const found = new Set();
    for (const document of window.Bokeh?.documents ?? [])
      for (const model of document._all_models.values())
        if (model.type === 'Figure' && model.name === name)
          for (const view of Bokeh.index.find(model)) if (view.el.isConnected) found.add(view);
    const top = view => view.el.getBoundingClientRect().top;
    return [...found].sort((a, b) => top(a) - top(b));
  },
  view(name, place = 0) { return this.views(name)[place] ?? null; },
  // laid out, and not only a canvas that waits for its size
  drawn(name, place) {
    const view = this.view(name, place);
    return !!view && view.frame.bbox.width > 10 && view.el.getBoundingClientRect().width > 10;
  },
  shown(name, place) {
    const view = this.view(name, place);
    view.el.scrollIntoView({block: 'center'});
    return view;
  },
  // page pixels of a point in data coordinates
  pixel(name, place, x, y) {
    const view = this.shown(name, place), canvas = view.canvas_view.el.getBoundingClientRect();
    return [canvas.left + view.frame.x_scale.compute(x), canvas.top + view.frame.y_scale.compute(y)];
  },
  // page rectangle inside the axes
  frame(name, place) {
    const view = this.shown(name, place), canvas = view.canvas_view.el.getBoundingClientRect(), box = view.frame.bbox;
    return {x: canvas.left + box.left, y: canvas.top + box.top, width: box.width, height: box.height};
  },
  // columns of every renderer with this kind of glyph
  columns(name, place, glyph) {
    return this.view(name, place).model.renderers.filter(r => r.visible && r.glyph?.type === glyph).map(r => {
      const data = r.data_source.data, out = {};  // a Map, or after a change from Python an object
      for (const [key, column] of data instanceof Map ? data : Object.entries(data)) out[key] = Array.from(column);
      return out;
    });
  },
  // whether some renderer's column has these values
  holds(name, place, glyph, column, values) {
    return this.columns(name, place, glyph).some(columns => columns[column]?.length === values.length
      && values.every((value, i) => Math.abs(columns[column][i] - value) <= 1e-5 * Math.max(1, Math.abs(value))));
  },
};
