// A figure as it is in Python now, and then what changes in it there.
export default {
  render({ model, el }) {
    async function hear({ root, whole, patch }) {
      if (whole) {
        const here = Object.assign(document.createElement("div"), { className: "ul-figure" });
        here.dataset.rootId = root;
        el.replaceChildren(here);
        await Bokeh.embed.embed_item({ doc: whole, root_id: root }, here);
      } else Bokeh.documents.find(one => one.get_model_by_id(root))?.apply_json_patch(patch);
      unitlabFigures.show(root);
    }
    model.on("msg:custom", hear);
    model.send("open");
    return () => model.off("msg:custom", hear);
  },
};
