"""Files for the reader's browser, out of HTML alone: in JupyterLab, Notebook and Voilà, whatever the kernel may write."""

from __future__ import annotations

import base64

from unitlab.views.explorer.messages import as_text

# a data address as a link ends at 2 MB in Chromium, a blob does not; in a handler, a bare URL is that of the document
SAVE = (
    "const bytes=Uint8Array.from(atob(this.dataset.content),c=>c.charCodeAt(0)),a=document.createElement('a');"
    "a.href=window.URL.createObjectURL(new Blob([bytes],{type:this.dataset.kind}));a.download=this.dataset.name;a.click();"
    "setTimeout(()=>window.URL.revokeObjectURL(a.href),60000)"
)
COPY = (
    "const range=document.createRange();range.selectNodeContents(this.closest('div').querySelector('.ul-code'));"
    "const s=getSelection();s.removeAllRanges();s.addRange(range);document.execCommand('copy');this.textContent='Copied'"
)
# Bokeh's views live in shadow trees: the way up goes over their hosts
FIGURES = """
const root = this.closest('.ul-explorer') || document, said = this.nextElementSibling;
const inside = e => { for (; e; e = e.parentNode || e.host) if (e === root) return true; return false; };
const background = getComputedStyle(root === document ? document.body : root).getPropertyValue('--ul-ground') || '#fff';
let saved = 0;
for (const name of ['units', 'classes']) {
  const documents = window.Bokeh ? [...Bokeh.documents].reverse() : [];
  const views = documents.flatMap(d => [...d._all_models.values()]).filter(m => m.type === 'Figure' && m.name === name)
    .flatMap(m => [...Bokeh.index.find(m)]).filter(v => v.el.isConnected && inside(v.el));
  if (!views.length) continue;
  const drawn = views[0].export('png', true).canvas, sheet = document.createElement('canvas');
  sheet.width = drawn.width; sheet.height = drawn.height;
  const ink = sheet.getContext('2d');
  ink.fillStyle = background; ink.fillRect(0, 0, sheet.width, sheet.height); ink.drawImage(drawn, 0, 0);
  const a = document.createElement('a');
  a.href = sheet.toDataURL('image/png'); a.download = this.dataset.name + '_' + name + '.png';
  setTimeout(() => a.click(), 300 * saved++);
}
said.textContent = saved ? saved + ' pictures saved' : 'no figures found on this page';
"""


def download_button(text: str, name: str, kind: str, content: bytes) -> str:
    """A button that saves ``content`` under a name."""
    packed = base64.b64encode(content).decode()
    return (
        f'<button type="button" class="ul-action" data-name="{as_text(name)}" data-kind="{as_text(kind)}" '
        f'data-content="{packed}" '
        f'onclick="{as_text(SAVE)}">{as_text(text)}</button>'
    )


def copy_button() -> str:
    """A button that copies the text of the class ``ul-code`` beside it in the same ``div``."""
    return f'<button type="button" class="ul-action" onclick="{as_text(COPY)}">Copy</button>'


def figures_button(name: str) -> str:
    """A button that saves the figures above as they are, with all that is zoomed and marked."""
    return (
        f'<button type="button" class="ul-action" data-name="{as_text(name)}" onclick="{as_text(FIGURES)}">Save plots as PNG'
        '</button> <span class="ul-faint" role="status"></span>'
    )
