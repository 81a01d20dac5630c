/* Signing off: sends the label map, asks where organs would be lost, and resolves conflicts with another person's version. */

import { comparedWith } from './comparing.js';
import { Refused, sendVoxels } from './server.js';
import { named, when } from './session.js';

/**
 * Signs off the label map as the next final version.
 * @param {(question: object) => Promise<string>} ask shows a question with `text` and `answers`, and returns the chosen answer's id
 * @returns {Promise<number|null>} the new version, or null if nothing was saved
 */
export async function submit(session, ask) {
  session.store.set({ message: null });
  await session.settled();
  const voxels = session.layer.read();
  const checked = session.state.organs.filter(organ => organ.checked).map(organ => organ.label).join(',');
  const query = { image: session.image, checked, ...named(session.began) };
  const saved = await session.doing('Submitting …', () => send(session, query, voxels, ask));
  if (!saved) {
    return null;
  }
  session.submitted(saved, voxels);
  session.say('done', 'Submitted as version ' + saved.version + '.');
  await session.refresh();
  return saved.version;
}

async function send(session, query, voxels, ask) {
  const confirmed = new Set();
  for (;;) {
    try {
      const confirm = confirmed.size === 2 ? 'both' : [...confirmed][0];
      return await (await sendVoxels('annotation/submit', { ...query, confirm }, voxels)).json();
    } catch (error) {
      const { conflict, confirm, organs = [] } = error instanceof Refused && error.status === 409 ? error.content : {};
      if (conflict) {
        const answer = await ask(conflictQuestion(conflict));
        if (answer === 'mine') {
          query = { ...query, over: conflict.version };
        } else {
          await resolved(session, conflict, answer);
          return null;
        }
      } else if (confirm && !confirmed.has(confirm)) {
        if ((await ask(lossQuestion(session, confirm, organs))) !== 'save') {
          session.say('info', 'Nothing was saved.');
          return null;
        }
        confirmed.add(confirm);
      } else {
        throw error;
      }
    }
  }
}

const conflictQuestion = ({ version, author, time }) => ({
  title: 'Another version was signed off',
  text: (author || 'Another person') + ' signed off version ' + version + ' (' + when(time) + '), after your work began.',
  answers: [
    { id: 'view', title: 'View theirs', main: true },
    { id: 'theirs', title: 'Take theirs' },
    { id: 'mine', title: 'Keep mine as a new version' },
    { id: 'nothing', title: 'Do nothing' },
  ],
});

async function resolved(session, { version, author, time }, answer) {
  await session.refresh(); // the list then contains the other version
  if (answer === 'view') {
    await comparedWith(session, { tag: 'final', version, author, time });
    session.say('info', 'Version ' + version + ' of ' + (author || 'another person') + ' is compared with yours. Nothing was saved.');
  } else if (answer === 'theirs') {
    await session.load('final', version, { undoable: true });
    session.say('info', 'Version ' + version + ' was loaded. Undo returns to your work.');
  } else {
    session.say('info', 'Nothing was saved.');
  }
}

function lossQuestion(session, confirm, organs) {
  const titles = organs.map(label => session.state.organs.find(one => one.label === label || one.name === label)?.title || String(label));
  const text =
    confirm === 'empty'
      ? 'The label map is empty: it contains no organ.'
      : 'The signed-off version also contains: ' + titles.join(', ') + '. Yours does not.';
  return {
    title: confirm === 'empty' ? 'Sign off as empty?' : 'Sign off without these organs?',
    text,
    answers: [
      { id: 'nothing', title: 'Do not save', main: true },
      { id: 'save', title: confirm === 'empty' ? 'Sign off as empty' : 'Sign off without them' },
    ],
  };
}
