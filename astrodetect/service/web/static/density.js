// Density of a map of many images: tiles of cells from the service, and the points of tiles that have few.
const CELLS = 256, CELL_PX = 4, MAX_LEVEL = 8, MAX_TILES = 80, FAINTEST = 0.25;
const tiles = new Map(); // by address, the last used at the end; null while one is loading

const read = (buffer) => {
  const [cells, points] = new Uint32Array(buffer, 0, 2);
  let offset = 8;
  const next = (Type, length) => {
    const array = new Type(buffer, offset, length);
    offset += array.byteLength;
    return array;
  };
  return { ids: next(Float64Array, points), counts: next(Uint32Array, cells), ranks: next(Uint32Array, points), xy: next(Uint16Array, 2 * points), cells: next(Uint16Array, cells), groups: next(Uint8Array, cells), pointGroups: next(Uint8Array, 3 * points) };
};

// The mean colour of the images of each cell, more opaque where there are more, on one scale for the level.
const paint = (tile, colours, hidden, fullest) => {
  const sums = new Float32Array(4 * CELLS * CELLS), image = new ImageData(CELLS, CELLS), most = Math.log1p(Math.max(2, fullest));
  tile.cells.forEach((cell, i) => {
    const count = hidden[tile.groups[i]] ? 0 : tile.counts[i], colour = colours[tile.groups[i]];
    for (let channel = 0; channel < 3; channel += 1) sums[4 * cell + channel] += count * colour[channel];
    sums[4 * cell + 3] += count;
  });
  for (const cell of tile.cells) {
    const count = sums[4 * cell + 3];
    for (let channel = 0; channel < 3; channel += 1) image.data[4 * cell + channel] = sums[4 * cell + channel] / (count || 1);
    image.data[4 * cell + 3] = count && 255 * (FAINTEST + (1 - FAINTEST) * Math.min(1, Math.log1p(count) / most));
  }
  tile.picture = new OffscreenCanvas(CELLS, CELLS);
  tile.picture.getContext("2d").putImageData(image, 0, 0);
};

const load = async (address, changed) => {
  tiles.set(address, null);
  try {
    const response = await fetch(address);
    tiles.set(address, response.ok ? read(await response.arrayBuffer()) : undefined);
  } catch {
    tiles.delete(address); // asked for again when the map moves
  }
  for (const old of [...tiles.keys()].slice(0, -MAX_TILES)) tiles.delete(old);
  changed();
};

export const forget = () => tiles.clear();
export const repaint = () => { for (const tile of tiles.values()) if (tile) tile.picture = null; };

// Draws the cells in view, of a coarser level while finer ones are loading; returns the tiles in view that have points.
export const drawDensity = (canvas, { left, top, mapWidth, mapHeight, width, height, density }, { by, stamp, colours, hidden, fullest, changed }) => {
  const context = canvas.getContext("2d"), level = Math.max(0, Math.min(MAX_LEVEL, Math.ceil(Math.log2(mapWidth / (CELLS * CELL_PX)))));
  const count = 2 ** level, [w, h] = [mapWidth / count, mapHeight / count], pointed = [];
  const address = (...tile) => `/map/tiles/${tile.join("/")}?by=${by}&drawn=${encodeURIComponent(stamp)}`;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  for (let x = Math.max(0, Math.floor(-left / w)); x < Math.min(count, (width - left) / w); x += 1) {
    for (let y = Math.max(0, Math.floor(-top / h)); y < Math.min(count, (height - top) / h); y += 1) {
      const wanted = address(level, x, y);
      if (!tiles.has(wanted)) load(wanted, changed);
      for (let up = 0; up <= level; up += 1) {
        const tile = tiles.get(address(level - up, x >> up, y >> up)), part = CELLS / 2 ** up;
        if (!tile) continue;
        if (tile.cells.length) {
          if (!tile.picture) paint(tile, colours, hidden, fullest / 4 ** (level - up));
          context.drawImage(tile.picture, (x % 2 ** up) * part, (y % 2 ** up) * part, part, part, left + x * w, top + y * h, w, h);
        } else if (!up && tile.ids.length) pointed.push(tile);
        break;
      }
    }
  }
  return pointed;
};
