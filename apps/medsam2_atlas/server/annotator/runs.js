/* The difference between two label maps as runs of voxels, small enough to be kept for undoing. */

/**
 * @typedef {object} Runs
 * @property {Uint32Array} starts first voxel of each run
 * @property {Uint32Array} lengths number of voxels
 * @property {Uint8Array} before labels of the runs in the older label map
 * @property {Uint8Array} after labels of the runs in the newer one
 */

const words = voxels => new Uint32Array(voxels.buffer, voxels.byteOffset, voxels.length >> 2);

/**
 * Calls a function with each voxel at which two label maps differ, in ascending order. Four voxels are compared at a time, because most of
 * the millions of voxels are equal.
 */
function eachDifference(before, after, call) {
  const [one, other] = [words(before), words(after)];
  for (let word = 0; word < one.length; word++) {
    if (one[word] !== other[word]) {
      for (let i = 4 * word; i < 4 * word + 4; i++) {
        if (before[i] !== after[i]) {
          call(i);
        }
      }
    }
  }
  for (let i = 4 * one.length; i < after.length; i++) {
    if (before[i] !== after[i]) {
      call(i);
    }
  }
}

/** Returns whether two label maps are equal. */
export function sameVoxels(one, other) {
  if (one.length !== other.length) {
    return false;
  }
  let same = true;
  eachDifference(one, other, () => { same = false; });
  return same;
}

/** Returns the runs in which two label maps of equal length differ. @returns {Runs} */
export function runsBetween(before, after) {
  const found = [];
  let last = null;
  eachDifference(before, after, i => {
    if (last && last.start + last.length === i && last.before === before[i] && last.after === after[i]) {
      last.length++;
    } else {
      last = { start: i, length: 1, before: before[i], after: after[i] };
      found.push(last);
    }
  });
  return {
    starts: Uint32Array.from(found, run => run.start),
    lengths: Uint32Array.from(found, run => run.length),
    before: Uint8Array.from(found, run => run.before),
    after: Uint8Array.from(found, run => run.after),
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
  const view = words(voxels);
  for (let word = 0; word < view.length; word++) {
    if (view[word] === 0) {
      found[0] += 4;
    } else {
      for (let i = 4 * word; i < 4 * word + 4; i++) {
        found[voxels[i]]++;
      }
    }
  }
  for (let i = 4 * view.length; i < voxels.length; i++) {
    found[voxels[i]]++;
  }
  return found;
}

/** Returns, for each label, how many voxels a label map has gained and lost against an older one. */
export function changes(before, after) {
  const added = new Uint32Array(256);
  const removed = new Uint32Array(256);
  eachDifference(before, after, i => {
    added[after[i]]++;
    removed[before[i]]++;
  });
  return { added, removed };
}
