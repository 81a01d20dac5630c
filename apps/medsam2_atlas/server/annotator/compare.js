/* The comparison of two label maps: a map of the differences, figures per organ, and the slices that differ most. */

export const DIFFERENCES = [
  { label: 1, title: 'only in yours', colour: [0, 220, 120] },
  { label: 2, title: 'only in the other', colour: [255, 70, 200] },
  { label: 3, title: 'different organs', colour: [255, 200, 0] },
];
const WORST = 3;

/**
 * Compares two label maps.
 * @param {Uint8Array} first your label map
 * @param {Uint8Array} second the other label map
 * @param {number[]} labels numbers of the organs
 * @param {number[]} size voxels along x, y and z
 * @returns {{map: Uint8Array, organs: Map<number, {dice: number|null, first: number, second: number, worst: number[]}>}}
 *   `dice` is null if both lack the organ; `first` and `second` are numbers of voxels; `worst`: slices, the worst first
 */
export function compared(first, second, labels, size) {
  const map = new Uint8Array(first.length);
  const area = size[0] * size[1];
  const [inFirst, inSecond, inBoth] = [0, 0, 0].map(() => new Uint32Array(256));
  const differing = new Map(labels.map(label => [label, new Uint32Array(size[2])]));
  for (let i = 0; i < first.length; i++) {
    const [a, b] = [first[i], second[i]];
    inFirst[a]++;
    inSecond[b]++;
    if (a === b) {
      inBoth[a]++;
    } else {
      map[i] = !b ? 1 : !a ? 2 : 3;
      const z = Math.floor(i / area);
      for (const label of [a, b]) {
        if (differing.has(label)) {
          differing.get(label)[z]++;
        }
      }
    }
  }
  const organs = new Map(
    labels.map(label => {
      const [one, two] = [inFirst[label], inSecond[label]];
      const slices = differing.get(label);
      const worst = Array.from(slices.keys()).filter(z => slices[z]).sort((a, b) => slices[b] - slices[a]).slice(0, WORST);
      return [label, { dice: one + two ? (2 * inBoth[label]) / (one + two) : null, first: one, second: two, worst }];
    })
  );
  return { map, organs };
}
