/* Shows the differences between the label map on the screen and a stored version, as a layer of its own. */

import { compared, DIFFERENCES } from './compare.js';
import { Layer } from './layer.js';

const LAYER = 'medsam2_atlas-comparison';

/** Compares the label map on the screen with a version. The label map itself is not changed. */
export async function comparedWith(session, version) {
  endComparison(session);
  const theirs = await session.voxelsOf(version.tag, version.version);
  const labels = session.state.organs.map(organ => organ.label);
  const { map, organs } = compared(session.layer.read(), theirs, labels, session.volume.size);
  const layer = new Layer(session.services, session.displaySet, session.volume, LAYER, 'Differences', DIFFERENCES);
  await layer.create();
  layer.write(map, false);
  session.comparisonLayer = layer;
  session.layer.edit(session.state.active); // tools go on editing the organs
  const ml = session.volume.millilitres;
  const rows = [...organs].map(([label, { dice, first, second, worst }]) => ({ label, dice, first: first * ml, second: second * ml, worst }));
  session.store.set({ comparison: { version, rows } });
}

/** Removes the layer of differences. */
export function endComparison(session) {
  session.comparisonLayer?.remove();
  session.comparisonLayer = null;
  session.store.set({ comparison: null });
}
