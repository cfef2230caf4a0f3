// The first figure of a page takes it 0.2 s longer than those after: draw one out of sight while Python imports.
const place = document.createElement("div");
place.className = "ul-first-figure";
place.style = "position: fixed; left: -1000px; width: 400px;";
document.body.append(place);
let number = 0;
const object = (name, attributes = {}) => ({type: "object", name, id: `first-${number++}`, attributes});
const points = object("ColumnDataSource", {data: {type: "map", entries: [["x", [0, 1]], ["y", [0, 1]]]}});
const glyph = object("Scatter", {x: {type: "field", field: "x"}, y: {type: "field", field: "y"}});
const tools = ["PanTool", "HoverTool", "LassoSelectTool", "SaveTool"].map(name => object(name));
const figure = object("Figure", {
  height: 282, sizing_mode: "stretch_width", toolbar: object("Toolbar", {tools}), toolbar_location: "right",
  below: [object("LinearAxis", {axis_label: "x"})], left: [object("LinearAxis", {axis_label: "y"})],
  renderers: [object("GlyphRenderer", {data_source: points, glyph})],
});
Bokeh.embed.embed_item({doc: {version: Bokeh.version, title: "", roots: [figure]}, root_id: figure.id}, place).then(views => {
  const drawn = [...views].map(view => view.model.document);
  views.clear();
  place.remove();
  for (const one of drawn) Bokeh.documents.splice(Bokeh.documents.indexOf(one), 1);
});
