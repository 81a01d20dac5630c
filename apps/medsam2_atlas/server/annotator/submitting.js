/* Signing off: sends the label map, asks where organs would be lost, and resolves conflicts with another person's version. */

import { comparedWith } from './comparing.js';
import { Refused, sendVoxels } from './server.js';
import { when } from './session.js';

/**
 * Signs off the label map as the next final version.
 * @param {(question: object) => Promise<string>} ask shows a question with `text` and `answers`, and returns the chosen answer's id
 * @returns {Promise<boolean>} whether the label map on the screen was saved
 */
export async function submit(session, ask) {
  if (session.state.frozen) {
    return false;
  }
  if (session.state.marks) {
    session.say('info', 'Nothing was saved: there are marks that were not applied. Apply or remove them first.');
    return false;
  }
  session.store.set({ message: null });
  session.freeze(true);
  try {
    return Boolean(await session.doing('Submitting …', () => signOff(session, ask)));
  } finally {
    session.freeze(false);
  }
}

async function signOff(session, ask) {
  await session.drafting.settled();
  const voxels = session.layer.read();
  const checked = session.state.organs.filter(organ => organ.checked).map(organ => organ.label).join(',');
  const saved = await send(session, { checked, ...session.query, ...session.activity.query }, voxels, ask);
  if (!saved) {
    return false;
  }
  session.activity.restart();
  const shown = await session.submitted(saved, voxels);
  await session.refresh();
  if (session.state.about.comment) {
    session.say('info', 'This is the label map that was returned, so the case stays returned. Correct it, then submit again.');
    return false;
  }
  session.say('done', 'Submitted as version ' + saved.version + '.' + (shown ? '' : ' Later changes are not part of it.'));
  return shown;
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

function conflictQuestion({ version, author, time, removed }) {
  const who = author || 'Another person';
  const mine = { id: 'mine', title: 'Keep mine as a new version' };
  const nothing = { id: 'nothing', title: 'Do nothing' };
  if (removed) {
    return {
      title: 'The signed-off version was removed',
      text: who + ' removed it (' + version + ', ' + when(time) + '), after your work began.',
      answers: [{ ...nothing, main: true }, mine],
    };
  }
  return {
    title: 'Another version was signed off',
    text: who + ' signed off version ' + version + ' (' + when(time) + '), after your work began.',
    answers: [{ id: 'view', title: 'View theirs', main: true }, { id: 'theirs', title: 'Take theirs' }, mine, nothing],
  };
}

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
