/* The CT series of the study. A study of a PACS may have several; each is a case of its own. */

import { askJson } from '../server.js';
import { element, fill, show } from './view.js';

const TAGS = { modality: '00080060', uid: '0020000E', number: '00200011', description: '0008103E', images: '00201209' };

/** Returns an attribute of a DICOM JSON object as text. */
const text = (item, tag) => String(item[TAGS[tag]]?.Value?.[0] ?? '');

/** Returns the CT series of a list in DICOM JSON, in the order of their numbers, each with its UID and a title. */
export function ctSeries(items) {
  return items
    .filter(item => text(item, 'modality') === 'CT' && text(item, 'uid'))
    .sort((one, other) => Number(text(one, 'number')) - Number(text(other, 'number')))
    .map(item => {
      const images = text(item, 'images');
      const parts = [text(item, 'number'), text(item, 'description') || 'CT', images && images + ' images'];
      return { uid: text(item, 'uid'), title: parts.filter(Boolean).join(' · ') };
    });
}

export function seriesSection(session) {
  const { StudyInstanceUID: study, SeriesInstanceUID: shown } = session.displaySet;
  const choice = element('select', {
    'data-cy': 'series',
    onchange: () => {
      window.location.search = String(new URLSearchParams({ StudyInstanceUIDs: study, SeriesInstanceUIDs: choice.value }));
      choice.value = shown; // until the browser has left the page, which the person may refuse
    },
  });
  const node = element('section', {}, element('label', {}, 'Series ', choice));
  show(node, false);
  askJson('proxy/dicom/qido/studies/' + study + '/series')
    .then(items => {
      const found = ctSeries(items);
      fill(choice, ...found.map(({ uid, title }) => element('option', { value: uid, textContent: title })));
      choice.value = shown;
      show(node, found.length > 1);
    })
    .catch(error => console.warn('The series of the study cannot be listed.', error)); // the open case works without the list
  return { node, update() {} };
}
