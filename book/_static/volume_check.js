/* What a volume shows, measured against the MNI template: the measures and limits of
memoir_book/intake/content.py, for a volume that stays in the browser. A test holds the two together.
A volume is an image of NiiVue: hdr (affine, dims, scl_slope, scl_inter, form codes), img.
*/
window.memoirCheck = (() => {
  "use strict";
  const GRID = [91, 109, 91]; // 2 mm, from -90, -126, -72
  const CORNER = [-90, -126, -72];
  const BLOCKS = [23, 28, 23]; // about 8 mm
  const ANGLES = [...Array(11).keys()].map((i) => 3 * i - 15); // degrees

  const percentile = (values, share) => {
    const sorted = Float32Array.from(values).sort();
    const at = (share / 100) * (sorted.length - 1), low = Math.floor(at);
    return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
  };

  /** Inverse of an affine given as rows: mm -> voxel, (3, 4). */
  function inverse([[a, b, c, x], [d, e, f, y], [g, h, i, z]]) {
    const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
    if (!(Math.abs(det) > 1e-9)) throw new Error("its affine turns volume into a plane");
    const rows = [
      [e * i - f * h, c * h - b * i, b * f - c * e],
      [f * g - d * i, a * i - c * g, c * d - a * f],
      [d * h - e * g, b * g - a * h, a * e - b * d],
    ].map((row) => row.map((value) => value / det));
    return rows.map((row) => [...row, -(row[0] * x + row[1] * y + row[2] * z)]);
  }

  /** Put the lowest value outside of the brain to 0, also where a brain was standardised. */
  function lift(value, dims) {
    const [nx, ny, nz] = dims, n = nx * ny * nz, edge = [], some = [];
    const step = Math.max(1, Math.floor(n / 200003));
    for (let i = 0; i < n; i += step) some.push(value(i));
    for (let i = 0; i < ny * nz; i++) edge.push(value(i * nx), value(i * nx + nx - 1));
    const outside = percentile(edge, 50);
    const [low, high] = [percentile(some, 0.5), percentile(some, 99.5)];
    if (outside - low < 0.1 * (high - outside)) return (v) => v - outside;
    return (v) => Math.abs(v - outside) <= 0.001 * (high - low)
      ? 0 : Math.max(v - low, 0) + 0.1 * (high - low);
  }

  /** A volume where its affine puts it, on the 2 mm grid, linear between voxels; outside 0. */
  function onGrid({ hdr, img }) {
    const dims = hdr.dims.slice(1, 4), [nx, ny, nz] = dims;
    const slope = hdr.scl_slope || 1, inter = hdr.scl_inter || 0;
    const raw = (i) => { const v = Number(img[i]) * slope + inter; return Number.isFinite(v) ? v : 0; };
    const lifted = lift(raw, dims), back = inverse(hdr.affine);
    const value = (i, j, k) => i < 0 || j < 0 || k < 0 || i >= nx || j >= ny || k >= nz
      ? 0 : lifted(raw(i + nx * (j + ny * k)));
    const out = new Float32Array(GRID[0] * GRID[1] * GRID[2]), at = (row, x, y, z) =>
      row[0] * (2 * x + CORNER[0]) + row[1] * (2 * y + CORNER[1]) + row[2] * (2 * z + CORNER[2]) + row[3];
    for (let z = 0, n = 0; z < GRID[2]; z++) for (let y = 0; y < GRID[1]; y++)
      for (let x = 0; x < GRID[0]; x++)
        out[n++] = between(value, at(back[0], x, y, z), at(back[1], x, y, z), at(back[2], x, y, z));
    return out;
  }

  function between(value, u, v, w) {
    const i = Math.floor(u + 1e-4), j = Math.floor(v + 1e-4), k = Math.floor(w + 1e-4);
    const a = Math.max(0, u - i), b = Math.max(0, v - j), c = Math.max(0, w - k);
    if (a < 1e-4 && b < 1e-4 && c < 1e-4) return value(i, j, k);
    let sum = 0;
    for (let n = 0; n < 8; n++) {
      const di = n & 1, dj = (n >> 1) & 1, dk = n >> 2;
      const weight = (di ? a : 1 - a) * (dj ? b : 1 - b) * (dk ? c : 1 - c);
      if (weight > 0) sum += weight * value(i + di, j + dj, k + dk);
    }
    return sum;
  }

  /** Means of blocks, which share voxels as in torch's AdaptiveAvgPool3d. */
  function blocks(volume) {
    const ends = GRID.map((n, axis) => [...Array(BLOCKS[axis]).keys()].map((i) =>
      [Math.floor((i * n) / BLOCKS[axis]), Math.ceil(((i + 1) * n) / BLOCKS[axis])]));
    const out = new Float32Array(BLOCKS[0] * BLOCKS[1] * BLOCKS[2]);
    let at = 0;
    for (const [z0, z1] of ends[2]) for (const [y0, y1] of ends[1]) for (const [x0, x1] of ends[0]) {
      let sum = 0;
      for (let z = z0; z < z1; z++) for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++)
        sum += volume[x + GRID[0] * (y + GRID[1] * z)];
      out[at++] = sum / ((z1 - z0) * (y1 - y0) * (x1 - x0));
    }
    return out;
  }

  function brain(values) {
    const floor = 0.05 * percentile(values, 98), rest = values.filter((v) => v > floor);
    const [low, high] = [percentile(rest, 25), percentile(rest, 75)];
    const top = rest.reduce((most, v) => (v <= high + 3 * (high - low) && v > most ? v : most), 0);
    return values.filter((v) => v > 0.05 * top);
  }

  function correlation(a, b) {
    const mean = (x) => x.reduce((sum, v) => sum + v, 0) / x.length;
    const [ma, mb] = [mean(a), mean(b)];
    let ab = 0, aa = 0, bb = 0;
    for (let i = 0; i < a.length; i++) {
      ab += (a[i] - ma) * (b[i] - mb); aa += (a[i] - ma) ** 2; bb += (b[i] - mb) ** 2;
    }
    return ab / (Math.sqrt(aa * bb) || 1);
  }

  const places = [];
  for (let z = 0; z < BLOCKS[2]; z++) for (let y = 0; y < BLOCKS[1]; y++)
    for (let x = 0; x < BLOCKS[0]; x++) places.push([x, y, z]);

  /** Mean place, in blocks, of those where `there` is true. */
  function centre(there) {
    const chosen = places.filter((_, i) => there[i]);
    return [0, 1, 2].map((axis) => chosen.reduce((sum, p) => sum + p[axis], 0) / chosen.length);
  }

  /** The mask, turned about an axis through its centre. */
  function turned(mask, axis, angle) {
    const [sin, cos] = [Math.sin, Math.cos].map((f) => f((-angle * Math.PI) / 180));
    const middle = centre(mask.map((v) => v > 0.5)), [p, q] = [(axis + 1) % 3, (axis + 2) % 3];
    const value = (i, j, k) => i < 0 || j < 0 || k < 0 || i >= BLOCKS[0] || j >= BLOCKS[1]
      || k >= BLOCKS[2] ? 0 : mask[i + BLOCKS[0] * (j + BLOCKS[1] * k)];
    return Float32Array.from(places, (place) => {
      const off = place.map((v, i) => v - middle[i]), from = [...place];
      from[p] = middle[p] + cos * off[p] - sin * off[q];
      from[q] = middle[q] + sin * off[p] + cos * off[q];
      return between(value, ...from);
    });
  }

  const known = new WeakMap(); // an image that stays -> what was made of it

  function once(image, make) {
    if (!known.has(image)) known.set(image, make());
    return known.get(image);
  }

  /** The template's brain in blocks, and turned about each axis by each angle. */
  function brainOf(mask) {
    const blocked = blocks(onGrid(mask));
    return [blocked, [0, 1, 2].map((axis) => ANGLES.map((angle) => turned(blocked, axis, angle)))];
  }

  /** Measure a volume beside the template and its mask: see content.numbers; `dice` is of brains. */
  function numbers(image, template, mask) {
    const like = once(template, () => blocks(onGrid(template)));
    const [wholly, turns] = once(mask, () => brainOf(mask)), small = blocks(onGrid(image));
    const { hdr } = image, found = { share: 0, frames: hdr.dims[0] > 3 ? hdr.dims[4] : 1 };
    found.sided = hdr.qform_code > 0 || hdr.sform_code > 0;
    if (!(small.reduce((a, b) => Math.max(a, b)) > 0)) return found;
    const inside = brain(small), middle = percentile(inside, 50), top = percentile(inside, 98);
    const there = Float32Array.from(small, (v) => (v > 0.4 * middle ? 1 : 0));
    const count = (fits) => places.reduce((n, _, i) => n + (fits(i) ? 1 : 0), 0);
    const n = count((i) => there[i]);
    found.share = n / places.length;
    found.outside = count((i) => there[i] && wholly[i] < 0.05) / n;
    found.dice = (2 * count((i) => there[i] && wholly[i] > 0.5)) / (n + count((i) => wholly[i] > 0.5));
    const [at, wanted] = [centre(there), centre(wholly.map((v) => v > 0.5))];
    found.distance_mm = Math.hypot(...at.map((v, i) => ((v - wanted[i]) * 2 * GRID[i]) / BLOCKS[i]));
    found.correlation = correlation(small.map((v) => Math.min(1, Math.max(0, v / top))), like);
    found.turned = Math.max(...turns.map((masks) => {
      const fits = masks.map((m, i) => correlation(m, there) - (ANGLES[i] ? 0.01 : 0));
      return Math.abs(ANGLES[fits.indexOf(Math.max(...fits))]);
    }));
    return found;
  }

  const percent = (v) => (v === undefined ? "-" : `${(100 * v).toFixed(0)} %`);
  const form = (digits, unit) => (v) => (v === undefined ? "-" : `${v.toFixed(digits)}${unit}`);
  const MEASURES = [
    ["dice", "overlap with the template's brain (Dice, 1: the same)", "about 0.9", form(2, "")],
    ["share", "of the MNI grid, what is not dark", "12 to 40 %", percent],
    ["outside", "of that, outside of the template's brain", "at most 10 %", percent],
    ["distance_mm", "centre, from the template's", "at most 15 mm", form(0, " mm")],
    ["turned", "turned by", "below 9 degrees", form(0, " degrees")],
    ["correlation", "values, correlation with the template's", "0.6 or more", form(2, "")],
  ];

  /** Two questions, each with an answer and its reason: 'yes', 'no' or 'cannot be said'. */
  function judge(found) {
    const stripped = "Stripped?", registered = "Registered?", unsaid = "cannot be said";
    const prepare = "python -m memoir_book.intake prepare does both.";
    if (found.share < 0.12) {
      const why = "There is almost nothing where the template's brain is: is it an image of a head, "
        + "and does its header say where it lies?";
      return [[registered, "no", why], [stripped, unsaid, ""]];
    }
    let lies = "";
    if (found.distance_mm > 15) lies = `Its centre is ${found.distance_mm.toFixed(0)} mm off.`;
    else if (found.turned >= 9) lies = `It is turned by about ${found.turned} degrees.`;
    const big = found.share > 0.4, spills = found.outside > 0.1;
    const answers = [];
    if (big) {
      answers.push([stripped, "no", `Too much is bright: skull and skin, or it is far too large. ${prepare}`]);
      answers.push([registered, unsaid, "The rest of the head hides where the brain lies."]);
    } else if (lies) {
      answers.push([registered, "no", `${lies} ${prepare}`]);
      answers.push(spills ? [stripped, unsaid, "First it must lie where the template does."]
        : [stripped, "yes", "Little lies outside of a brain's outline."]);
    } else if (spills) {
      answers.push([stripped, "no", `Too much lies outside of the template's brain. ${prepare}`]);
      answers.push([registered, unsaid, "Centre and direction fit, but the rest of the head weighs in."]);
    } else if (found.correlation < 0.6) {
      answers.push([registered, "no", "Outline and place fit, but the values do not look like a brain's."]);
      answers.push([stripped, "yes", "Little lies outside of the template's brain."]);
    } else {
      answers.push([registered, "yes", "A brain lies where the template's does."]);
      answers.push([stripped, "yes", "Little lies outside of the template's brain."]);
    }
    if (!found.sided) {
      answers.push(["Left and right?", "open", "The header sets neither a qform nor an sform code."]);
    } else {
      answers.push(["Left and right?", "as the header says", "A mirrored brain would look as good."]);
    }
    if (found.frames > 1) {
      answers.push(["One volume?", "no", `${found.frames} volumes; the first was measured.`]);
    }
    return answers;
  }

  return { MEASURES, numbers, judge };
})();
