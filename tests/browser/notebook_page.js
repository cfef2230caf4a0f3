// What the browser tests ask JupyterLab; injected into every page before its own scripts.
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
  idle() { return this.kernel()?.status === 'idle'; },
  async runAgain(place) {
    const content = this.panel().content;
    content.activeCellIndex = content.widgets.indexOf(this.code()[place]);
    this.code()[place].model.executionCount = null;
    await jupyterapp.commands.execute('notebook:run-cell');
  },
  async value(expression) {
    const answer = await this.kernel().requestExecute({code: '', user_expressions: {value: expression}}).done;
    return answer.content.user_expressions.value.data['text/plain'];
  },
};
