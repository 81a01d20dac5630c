/* The difference between two label maps as runs of voxels, small enough to be kept for undoing. */

/**
 * @typedef {object} Runs
 * @property {Uint32Array} starts first voxel of each run
 * @property {Uint32Array} lengths number of voxels
 * @property {Uint8Array} before, after labels of the run's voxels
 */

/** Returns the runs in which two label maps of equal length differ. @returns {Runs} */
export function runsBetween(before, after) {
  const found = [];
  for (let i = 0; i < after.length; i++) {
    if (before[i] !== after[i]) {
      const start = i;
      const [from, to] = [before[i], after[i]];
      while (i + 1 < after.length && before[i + 1] === from && after[i + 1] === to) {
        i++;
      }
      found.push([start, i - start + 1, from, to]);
    }
  }
  const column = (Kind, number) => Kind.from(found, run => run[number]);
  return {
    starts: column(Uint32Array, 0),
    lengths: column(Uint32Array, 1),
    before: column(Uint8Array, 2),
    after: column(Uint8Array, 3),
  };
}

/** Sets the voxels of runs to their labels `before` (undo) or `after` in a label map. */
export function applyRuns(voxels, runs, undo) {
  const labels = undo ? runs.before : runs.after;
  runs.starts.forEach((start, i) => voxels.fill(labels[i], start, start + runs.lengths[i]));
}

/** Returns the number of voxels of each label. */
export function counts(voxels) {
  const found = new Uint32Array(256);
  for (let i = 0; i < voxels.length; i++) {
    found[voxels[i]] += 1;
  }
  return found;
}

/** Returns, for each label, how many voxels a label map has gained and lost against an older one. */
export function changes(before, after) {
  const added = new Uint32Array(256);
  const removed = new Uint32Array(256);
  for (let i = 0; i < after.length; i++) {
    if (before[i] !== after[i]) {
      added[after[i]] += 1;
      removed[before[i]] += 1;
    }
  }
  return { added, removed };
}
