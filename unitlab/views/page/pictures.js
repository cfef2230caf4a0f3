// Pictures, cut from a sheet of many, with the activation map over them.
const LEAST_WIDTH = 96, WARM = [213, 94, 0], EDGE = [255, 200, 0], DARK = [0, 0, 0];

// the share of its largest value that a map has at each pixel, between the centres of its cells. `over` says where these lie
// on the picture, as shares of it: the first one down and across, and the step from one to the next
function shares(map, width, height) {
  const [rows, columns] = map.shape, top = Math.max(...map) || 1, out = new Float32Array(width * height);
  const [down, across] = map.over ?? [rows, columns].map(cells => [.5 / cells, 1 / cells]);
  const places = (size, cells, [first, step]) =>
    Float32Array.from({ length: size }, (_, at) => clamped(((at + .5) / size - first) / step, 0, cells - 1));
  const xs = places(width, columns, across), ys = places(height, rows, down), line = new Float32Array(columns + 1);
  // loops without closures: twelve pictures are drawn with a click
  for (let y = 0, at = 0; y < height; y++) {
    const above = Math.floor(ys[y]) * columns, below = Math.ceil(ys[y]) * columns, part = ys[y] % 1;
    for (let c = 0; c < columns; c++) line[c] = (map[above + c] * (1 - part) + map[below + c] * part) / top;
    for (let x = 0; x < width; x++, at++) {
      const c = Math.floor(xs[x]);
      out[at] = line[c] + (line[c + 1] - line[c]) * (xs[x] - c);
    }
  }
  return out;
}

function paintMap(ink, map, width, height, style, strength) {
  const part = shares(map, width, height), picture = ink.getImageData(0, 0, width, height), pixels = picture.data;
  // in the middle of its slider the threshold is the unit's own; a study without one: a share of the map's largest value
  const least = Math.max(map.least === null ? strength : 2 * strength * map.least, 1e-6), heat = style === "heat";
  for (let at = 0, place = 0; at < part.length; at++, place += 4) {
    const x = at % width, inside = part[at] >= least;
    if (inside && !heat && (!x || part[at - 1] >= least) && (x + 1 === width || part[at + 1] >= least)
      && !(part[at - width] < least) && !(part[at + width] < least)) continue;
    const color = heat ? WARM : inside ? EDGE : DARK, weight = heat ? strength * part[at] : inside ? 1 : .68;
    for (let k = 0; k < 3; k++) pixels[place + k] += (color[k] - pixels[place + k]) * weight;
  }
  ink.putImageData(picture, 0, 0);
}

// a sheet is {bitmap, width, height, across}: tiles of one size, row by row. A canvas that is drawn on again saves the browser
// a millisecond, which a new one takes
function picture(sheet, place, words, map = null, { image_style, image_strength } = {}, canvas = h.canvas()) {
  const { width, height, across } = sheet, factor = Math.max(1, Math.ceil(LEAST_WIDTH / width));
  const wanted = { width: width * factor, height: height * factor, role: "img", ariaLabel: words };
  for (const [name, value] of Object.entries(wanted)) if (canvas[name] !== value) canvas[name] = value;
  const ink = canvas.getContext("2d", { willReadFrequently: true }), [x, y] = [place % across, Math.floor(place / across)];
  ink.imageSmoothingEnabled = false;
  ink.drawImage(sheet.bitmap, x * width, y * height, width, height, 0, 0, canvas.width, canvas.height);
  const drawn = map && image_style !== "none" && Math.max(...map) > 0;
  if (drawn) paintMap(ink, map, canvas.width, canvas.height, image_style, image_strength);
  return canvas;
}
const bitmap = bytes => createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
