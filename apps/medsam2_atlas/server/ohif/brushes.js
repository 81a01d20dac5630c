/* Brush, eraser and scissors for OHIF's panel of segments. MONAI Label's mode sets up the tools and refers to these buttons,
   but does not define them. Without them, the panel cannot be opened. */

const option = (id, name, rest) => ({ id, name, ...rest });

const radius = (id, tools) => option(id, 'Radius (mm)', {
  type: 'range',
  min: 0.5,
  max: 99.5,
  step: 0.5,
  value: 10,
  commands: { commandName: 'setBrushSize', commandOptions: { toolNames: tools } },
});

const shape = (id, tools) => option(id, 'Shape', {
  type: 'radio',
  value: Object.keys(tools)[0],
  values: Object.entries(tools).map(([value, label]) => ({ value, label })),
  commands: 'setToolActiveToolbar',
});

/** Disables the tools until there is a segmentation. */
const usable = tools => ({
  name: 'evaluate.cornerstone.segmentation',
  toolNames: Object.keys(tools),
  disabledText: 'First press the arrows next to "Server" in the MONAI Label panel.',
});

const brush = (id, icon, tools) => ({
  id,
  icon,
  label: id,
  evaluate: usable(tools),
  options: [radius(id.toLowerCase() + '-radius', Object.keys(tools)), shape(id.toLowerCase() + '-mode', tools)],
});

const SCISSORS = { CircleScissor: 'Circle', SphereScissor: 'Sphere', RectangleScissor: 'Rectangle' };

export const BRUSHES = [
  {
    id: 'BrushTools',
    uiType: 'ohif.buttonGroup',
    props: {
      groupId: 'BrushTools',
      items: [
        brush('Brush', 'icon-tool-brush', { CircularBrush: 'Circle', SphereBrush: 'Sphere' }),
        brush('Eraser', 'icon-tool-eraser', { CircularEraser: 'Circle', SphereEraser: 'Sphere' }),
      ],
    },
  },
  {
    id: 'Shapes',
    uiType: 'ohif.radioGroup',
    props: {
      icon: 'icon-tool-shape',
      label: 'Shapes',
      evaluate: usable(SCISSORS),
      options: [shape('shape-mode', SCISSORS)],
    },
  },
];
