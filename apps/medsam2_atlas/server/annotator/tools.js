/* The tools of the left mouse button, and the tool group of all panes. */

export const GROUP = 'default'; // the name under which OHIF's own commands look for it

const PRIMARY = [{ mouseButton: 1 }];
const RADIUS = { min: 0.5, max: 60 };

/** An outline that is filled with the chosen organ (lasso.js). */
export const LASSO = 'AnnotationLasso';
/** Marks: annotations that refine an organ (marks.js). */
export const MARKS = { box: 'AnnotationBox', inside: 'AnnotationInside', outside: 'AnnotationOutside' };

/**
 * The tools with their labels and keys. `flat` and `solid`: Cornerstone's tool on one slice, and in three dimensions.
 */
export const TOOLS = [
  { id: 'window', title: 'Window', key: 'w', flat: 'WindowLevel', hint: 'Change brightness and contrast' },
  { id: 'brush', title: 'Brush', key: 'b', flat: 'OrganBrush', solid: 'OrganBall', hint: 'Paint the chosen organ' },
  { id: 'eraser', title: 'Eraser', key: 'e', flat: 'OrganEraser', solid: 'OrganEraserBall', hint: 'Erase the chosen organ' },
  {
    id: 'threshold',
    title: 'Threshold brush',
    key: 't',
    flat: 'OrganThreshold',
    solid: 'OrganThresholdBall',
    hint: 'Paint only voxels that are as bright as those in the middle of the brush',
  },
  { id: 'lasso', title: 'Lasso', key: 'l', flat: LASSO, hint: 'Draw around an area to add it to the chosen organ' },
  { id: 'scissors', title: 'Scissors', key: 's', flat: 'CircleScissor', hint: 'Drag a circle to add it to the chosen organ' },
  { id: 'box', title: 'Box', key: 'x', flat: MARKS.box, hint: 'Draw a box around the organ on an axial slice' },
  { id: 'inside', title: 'On the organ', key: 'a', flat: MARKS.inside, hint: 'Click where the organ is missed' },
  { id: 'outside', title: 'Off the organ', key: 'd', flat: MARKS.outside, hint: 'Click where the mask is too large' },
];

const brush = (toolName, activeStrategy, rest = {}) => ({
  toolName,
  parentTool: 'Brush',
  configuration: { activeStrategy, minRadius: RADIUS.min, maxRadius: RADIUS.max, ...rest },
});
const LIKE_THE_MIDDLE = { threshold: { isDynamic: true, dynamicRadius: 3 } };

/** Creates the tool group. The wheel scrolls, the middle button pans, the right button zooms. */
export function createTools({ servicesManager, extensionManager }) {
  const { toolNames, Enums } = extensionManager.getModuleEntry('@ohif/extension-cornerstone.utilityModule.tools').exports;
  const { Auxiliary, Secondary, Wheel } = Enums.MouseBindings;
  const bound = (toolName, ...bindings) => ({ toolName, bindings });
  addMarkTools();
  servicesManager.services.toolGroupService.createToolGroupAndAddTools(GROUP, {
    active: [
      bound(toolNames.WindowLevel, ...PRIMARY),
      bound(toolNames.Pan, { mouseButton: Auxiliary }),
      bound(toolNames.Zoom, { mouseButton: Secondary }, { numTouchPoints: 2 }),
      bound(toolNames.StackScroll, { mouseButton: Wheel }, { numTouchPoints: 3 }),
    ],
    passive: [
      brush('OrganBrush', 'FILL_INSIDE_CIRCLE'),
      brush('OrganBall', 'FILL_INSIDE_SPHERE'),
      brush('OrganEraser', 'ERASE_INSIDE_CIRCLE'),
      brush('OrganEraserBall', 'ERASE_INSIDE_SPHERE'),
      brush('OrganThreshold', 'THRESHOLD_INSIDE_CIRCLE', LIKE_THE_MIDDLE),
      brush('OrganThresholdBall', 'THRESHOLD_INSIDE_SPHERE', LIKE_THE_MIDDLE),
      { toolName: toolNames.CircleScissors },
      ...[LASSO, ...Object.values(MARKS)].map(toolName => ({ toolName, configuration: { getTextLines: () => [] } })),
    ],
    disabled: [],
  });
}

let registered = false;

/** Registers the mark tools once. Marks are no part of the undo history: undoing restores the mask that they have changed. */
function addMarkTools() {
  if (registered) {
    return;
  }
  registered = true;
  const { PlanarFreehandROITool, RectangleROITool, ProbeTool, addTool } = window.cornerstoneTools;
  const marking = (Tool, name) => {
    const Mark = class extends Tool {
      createMemo() {}
      doneEditMemo() {}
    };
    addTool(Object.assign(Mark, { toolName: name }));
  };
  marking(RectangleROITool, MARKS.box);
  marking(ProbeTool, MARKS.inside);
  marking(ProbeTool, MARKS.outside);
  marking(PlanarFreehandROITool, LASSO);
}

/** Binds a tool to the left mouse button. */
export function activate(services, id, solid) {
  const group = services.toolGroupService.getToolGroup(GROUP);
  for (const tool of TOOLS) {
    for (const name of [tool.flat, tool.solid].filter(Boolean)) {
      group.setToolPassive(name, { removeAllBindings: true });
    }
  }
  const chosen = TOOLS.find(tool => tool.id === id);
  group.setToolActive((solid && chosen.solid) || chosen.flat, { bindings: PRIMARY });
}

/** Sets the radius of all brushes, in mm. */
export function setRadius(radius) {
  window.cornerstoneTools.utilities.segmentation.setBrushSizeForToolGroup(GROUP, radius);
}
