/* The lasso: a freehand outline on any pane, filled with the chosen organ. */

/**
 * Returns the label map with the inside of an outline added to an organ.
 *
 * The outline lies in a plane of the volume: along one axis, the index is the same for all its points, up to rounding. A voxel is inside if
 * its centre is (even-odd rule).
 * @param {number[][]} outline voxel indices [x, y, z] of its points
 * @param {{voxels: Uint8Array, size: number[], label: number, locked: Set<number>}} target
 * @throws {Error} the outline does not lie in a plane of the volume
 */
export function filled(outline, { voxels, size, label, locked }) {
  const range = axis => {
    const values = outline.map(point => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  };
  const extent = axis => range(axis)[1] - range(axis)[0];
  const flat = [2, 1, 0].reduce((best, axis) => (extent(axis) < extent(best) ? axis : best));
  if (extent(flat) > 1) { // a pane between two rows of voxels is rounded to either of them
    throw new Error('The lasso works only on panes along the axes of the CT.');
  }
  const [across, down] = [0, 1, 2].filter(axis => axis !== flat);
  const steps = [1, size[0], size[0] * size[1]];
  const [top, bottom] = range(down);
  const plane = outline[0][flat] * steps[flat];
  for (let v = top; v <= bottom; v++) {
    const [left, right] = range(across);
    for (let u = left; u <= right; u++) {
      const index = plane + u * steps[across] + v * steps[down];
      if (!locked.has(voxels[index]) && inside(outline, across, down, u, v)) {
        voxels[index] = label;
      }
    }
  }
  return voxels;
}

/** Returns whether a point is inside an outline, by the even-odd rule; points on the outline's corners are inside. */
function inside(outline, across, down, u, v) {
  let within = false;
  for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
    const [u1, v1, u2, v2] = [outline[i][across], outline[i][down], outline[j][across], outline[j][down]];
    if (u1 === u && v1 === v) {
      return true;
    }
    if (v1 > v !== v2 > v && u < ((u2 - u1) * (v - v1)) / (v2 - v1) + u1) {
      within = !within;
    }
  }
  return within;
}
