/* The grid of a CT series: slices sorted by position along the slice normal, as Cornerstone sorts them when it builds a volume.

   Voxel indices are [x, y, z]; points are in mm, LPS. Labels of a volume are one array: x runs fastest, then y, then z. */

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];

/**
 * @typedef {object} Volume
 * @property {string[]} imageIds images, sorted
 * @property {number[]} size voxels along x, y and z
 * @property {number} count number of voxels
 * @property {number} millilitres volume of a voxel
 * @property {(world: number[]) => number[]} voxelAt the voxel that contains a point, or the nearest one
 * @property {(voxel: number[]) => number[]} centreOf the centre of a voxel
 * @property {number[]} normal direction of the slices
 */

/** Returns the grid of a display set. @returns {Volume} */
export function volumeOf(displaySet) {
  const planes = displaySet.imageIds.map(imageId => ({ imageId, ...window.cornerstone.metaData.get('imagePlaneModule', imageId) }));
  const row = Array.from(planes[0].rowCosines);
  const column = Array.from(planes[0].columnCosines);
  const normal = cross(row, column);
  for (const plane of planes) {
    plane.origin = Array.from(plane.imagePositionPatient);
    plane.at = dot(plane.origin, normal);
  }
  planes.sort((a, b) => a.at - b.at);
  const { rows, columns, rowPixelSpacing, columnPixelSpacing, sliceThickness } = planes[0];
  const size = [columns, rows, planes.length];
  const distance = planes.length > 1 ? (planes.at(-1).at - planes[0].at) / (planes.length - 1) : sliceThickness || 1;
  const within = (value, end) => Math.min(end - 1, Math.max(0, Math.round(value)));
  return {
    imageIds: planes.map(plane => plane.imageId),
    size,
    count: columns * rows * planes.length,
    millilitres: (columnPixelSpacing * rowPixelSpacing * distance) / 1000,
    normal,
    voxelAt(world) {
      const along = dot(world, normal);
      let z = 0;
      planes.forEach((plane, i) => {
        if (Math.abs(plane.at - along) < Math.abs(planes[z].at - along)) {
          z = i;
        }
      });
      const offset = minus(world, planes[z].origin);
      return [within(dot(offset, row) / columnPixelSpacing, columns), within(dot(offset, column) / rowPixelSpacing, rows), z];
    },
    centreOf([x, y, z]) {
      const { origin } = planes[z];
      return origin.map((value, i) => value + x * columnPixelSpacing * row[i] + y * rowPixelSpacing * column[i]);
    },
  };
}

/** Shows a slice of the CT in the panes that show slices; the others stay where they are. */
export function jumpTo(services, volume, z) {
  const point = volume.centreOf([0, 0, z]);
  for (const viewport of services.cornerstoneViewportService.getRenderingEngine().getViewports()) {
    const { viewPlaneNormal, focalPoint, position } = viewport.getCamera();
    if (Math.abs(dot(viewPlaneNormal, volume.normal)) < 0.9) {
      continue;
    }
    if (viewport.setImageIdIndex) {
      viewport.setImageIdIndex(viewport.getImageIds().indexOf(volume.imageIds[z]));
    } else {
      const along = dot(minus(point, focalPoint), viewPlaneNormal);
      const moved = from => from.map((value, i) => value + along * viewPlaneNormal[i]);
      viewport.setCamera({ focalPoint: moved(focalPoint), position: moved(position) });
    }
    viewport.render();
  }
}
