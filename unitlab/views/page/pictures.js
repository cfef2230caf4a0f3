// Pictures, cut from a sheet of many, with the activation map over them.
const LEAST_WIDTH = 96;

// the share of its largest value that a map has at each pixel, between the centres of its cells
function shares(map, rows, columns, width, height) {
  const out = new Float32Array(width * height), top = Math.max(...map) || 1;
  const place = (at, size, cells) => Math.min(Math.max((at + .5) * cells / size - .5, 0), cells - 1);
  for (let y = 0; y < height; y++) {
    const v = place(y, height, rows), r = Math.floor(v), below = Math.min(r + 1, rows - 1), down = v - r;
    for (let x = 0; x < width; x++) {
      const u = place(x, width, columns), c = Math.floor(u), right = Math.min(c + 1, columns - 1), over = u - c;
      const upper = map[r * columns + c] * (1 - over) + map[r * columns + right] * over;
      const lower = map[below * columns + c] * (1 - over) + map[below * columns + right] * over;
      out[y * width + x] = (upper * (1 - down) + lower * down) / top;
    }
  }
  return out;
}

function paintMap(ink, map, [rows, columns], width, height, style, strength) {
  const share = shares(map, rows, columns, width, height), picture = ink.getImageData(0, 0, width, height), pixels = picture.data;
  const inside = at => share[at] >= strength;
  for (let at = 0; at < share.length; at++) {
    const x = at % width, y = (at - x) / width;
    const mix = (weight, r, g, b) => [r, g, b].forEach((value, k) => { pixels[4 * at + k] = pixels[4 * at + k] * (1 - weight) + value * weight; });
    if (style === "heat") mix(strength * Math.max(0, share[at]), 213, 94, 0);
    else if (!inside(at)) mix(.68, 0, 0, 0);
    else if ((x && !inside(at - 1)) || (x + 1 < width && !inside(at + 1)) || (y && !inside(at - width)) || (y + 1 < height && !inside(at + width))) mix(1, 255, 200, 0);
  }
  ink.putImageData(picture, 0, 0);
}

// a sheet is {bitmap, width, height, across}: tiles of one size, row by row
function picture(sheet, place, words, map = null, style = "none", strength = .5) {
  const { width, height, across } = sheet, factor = Math.max(1, Math.ceil(LEAST_WIDTH / width));
  const canvas = element("canvas", { width: width * factor, height: height * factor, role: "img", "aria-label": words });
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.imageSmoothingEnabled = false;
  ink.drawImage(sheet.bitmap, (place % across) * width, Math.floor(place / across) * height, width, height, 0, 0, canvas.width, canvas.height);
  if (map && style !== "none" && Math.max(...map) > 0) paintMap(ink, map, map.shape, canvas.width, canvas.height, style, strength);
  return canvas;
}
const bitmap = bytes => createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
