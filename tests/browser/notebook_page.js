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

  // the newest view of a Bokeh figure that is in the page: documents of earlier runs stay in Bokeh.documents
  view(name) {
    for (const document of [...(window.Bokeh?.documents ?? [])].reverse()) {
      for (const model of document._all_models.values()) {
        if (model.type !== 'Figure' || model.name !== name) continue;
        for (const view of Bokeh.index.find(model)) if (view.el.isConnected) return view;
      }
    }
    return null;
  },
  // laid out, and not only a canvas that waits for its size
  drawn(name) {
    const view = this.view(name);
    return !!view && view.frame.bbox.width > 10 && view.el.getBoundingClientRect().width > 10;
  },
  shown(name) {
    const view = this.view(name);
    view.el.scrollIntoView({block: 'center'});
    return view;
  },
  // page pixels of a point in data coordinates
  pixel(name, x, y) {
    const view = this.shown(name), canvas = view.canvas_view.el.getBoundingClientRect();
    return [canvas.left + view.frame.x_scale.compute(x), canvas.top + view.frame.y_scale.compute(y)];
  },
  // page rectangle inside the axes
  frame(name) {
    const view = this.shown(name), canvas = view.canvas_view.el.getBoundingClientRect(), box = view.frame.bbox;
    return {x: canvas.left + box.left, y: canvas.top + box.top, width: box.width, height: box.height};
  },
  // columns of every renderer with this kind of glyph
  columns(name, glyph) {
    return this.view(name).model.renderers.filter(r => r.visible && r.glyph?.type === glyph).map(r => {
      const out = {};
      const data = r.data_source.data;  // a Map, or after a change from Python an object
      for (const [key, column] of data instanceof Map ? data : Object.entries(data)) out[key] = Array.from(column);
      return out;
    });
  },
  title(name) { return this.view(name).model.title?.text ?? ''; },
};
