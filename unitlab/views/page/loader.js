// What every explorer brings: all of a page share one module, which is kept there under this name.
const key = Symbol.for("unitlab $digest");
const load = text => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
const page = model => globalThis[key] ??= load(model.get("_module"));
export default {
  initialize: async ({ model }) => {
    await page(model);
    // JupyterLab keeps models whose cell ran again; what is large in them need not be kept
    model.on("destroy", () => { for (const name of ["_module", "_held", "_measured", "_ahead"]) model.set(name, null); });
  },
  render: async context => (await page(context.model)).render(context),
};
