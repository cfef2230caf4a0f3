// What drops are made of: recall, precision, balanced accuracy and margin of the classes that are shown as bars.
const ACCURACIES = [
  ["drop", 1, "recall, points"], ["precision", 1, "precision, points"], ["balanced", 1, "balanced accuracy, points"],
  ["margin", 2, "margin, logits"], ["own", 2, "specific margin, logits"], ["own_q", 0, "its q"],
];
const accuraciesTab = ({ state, source }) => () => {
  const { row, shown } = state, heads = ["class", ...ACCURACIES.map(([, , head]) => head)];
  const cell = (k, [name, digits]) => !row[name] ? "–" : digits ? text(row[name][k], digits) : quotient(row[name][k]);
  const line = k =>
    h.tr(h.th({ scope: "row", dir: "auto" }, source.study.classes[k]), ACCURACIES.map(each => h.td(cell(k, each))));
  const lines = row?.precision ? shown.map(line) : h.tr(h.td({ colspan: 7 }, "being computed …"));
  return [h.table({ class: "ul-accuracies" }, headOf(heads), h.tbody({ id: "accuracies" }, lines)),
    note("Drops, positive = damage. Recall is the class accuracy above. Where it falls and precision rises, the network ",
      "says the class less often: a shifted decision more than a loss of what tells the class.")];
};
accuraciesTab.keys = ["row", "category", "shown"];
