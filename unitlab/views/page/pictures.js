// Pictures, cut from a sheet of many, with the activation map over them.
const LEAST_WIDTH = 96;

// the share of its largest value that a map has at each pixel, between the centres of its cells. `over` says where these lie
// on the picture, as shares of it: the first one down and across, and the step from one to the next
function shares(map, width, height) {
  const [rows, columns] = map.shape, out = new Float32Array(width * height), top = Math.max(...map) || 1;
  const [down, across] = map.over ?? [rows, columns].map(cells => [.5 / cells, 1 / cells]);
  function places(size, cells, [first, step]) {
    return Array.from({ length: size }, (_, at) => {
      const place = clamped(((at + .5) / size - first) / step, 0, cells - 1), before = Math.floor(place);
      return [before, Math.min(before + 1, cells - 1), place - before];
    });
  }
  const xs = places(width, columns, across);
  places(height, rows, down).forEach(([r, below, v], y) => xs.forEach(([c, right, u], x) => {
    const upper = map[r * columns + c] * (1 - u) + map[r * columns + right] * u;
    const lower = map[below * columns + c] * (1 - u) + map[below * columns + right] * u;
    out[y * width + x] = (upper * (1 - v) + lower * v) / top;
  }));
  return out;
}

function paintMap(ink, map, width, height, style, strength) {
  const part = shares(map, width, height), picture = ink.getImageData(0, 0, width, height), pixels = picture.data;
  // in the middle of its slider the threshold is the unit's own; a study without one: a share of the map's largest value
  const least = Math.max(map.least === null ? strength : 2 * strength * map.least, 1e-6), out = at => part[at] < least;
  const mix = (at, weight, color) => {
    for (let k = 0; k < 3; k++) pixels[4 * at + k] = pixels[4 * at + k] * (1 - weight) + color[k] * weight;
  };
  for (let at = 0; at < part.length; at++) {
    const x = at % width, beside = (x && out(at - 1)) || (x + 1 < width && out(at + 1)) || out(at - width) || out(at + width);
    if (style === "heat") mix(at, strength * Math.max(0, part[at]), [213, 94, 0]);
    else if (out(at)) mix(at, .68, [0, 0, 0]);
    else if (beside) mix(at, 1, [255, 200, 0]);
  }
  ink.putImageData(picture, 0, 0);
}

// a sheet is {bitmap, width, height, across}: tiles of one size, row by row
function picture(sheet, place, words, map = null, { image_style, image_strength } = {}) {
  const { width, height, across } = sheet, factor = Math.max(1, Math.ceil(LEAST_WIDTH / width));
  const canvas = h.canvas({ width: width * factor, height: height * factor, role: "img", "aria-label": words });
  const ink = canvas.getContext("2d", { willReadFrequently: true }), [x, y] = [place % across, Math.floor(place / across)];
  ink.imageSmoothingEnabled = false;
  ink.drawImage(sheet.bitmap, x * width, y * height, width, height, 0, 0, canvas.width, canvas.height);
  const drawn = map && image_style !== "none" && Math.max(...map) > 0;
  if (drawn) paintMap(ink, map, canvas.width, canvas.height, image_style, image_strength);
  return canvas;
}
const bitmap = bytes => createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
