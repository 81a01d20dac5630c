/* The area on which CTs are dropped. Each image file and each archive is a request of its own; the other files of a folder are sent
   together, because they may be the slices of one series. */

import { byId, element, fill } from './dom.js';
import { ask } from './server.js';

const ALONE = /\.(nii|nii\.gz|nrrd|mha|zip)$/i;

/** Returns the files of a dropped file or folder, each with the name of that folder. */
async function filesOf(entry, folder) {
  if (entry.isFile) {
    return [{ folder, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) {
      return found;
    }
    for (const one of some) {
      found.push(...(await filesOf(one, folder || entry.name)));
    }
  }
}

function report(text, failed) {
  byId('sent').append(element('li', { textContent: text, class: failed ? 'bad' : 'good' }));
}

async function sendFiles(files, name) {
  const form = new FormData();
  files.forEach(file => form.append('files', file, file.name));
  let result;
  try {
    result = await ask('datastore/upload', { image: name }, { method: 'PUT', body: form });
  } catch (error) {
    result = error.content?.error || {};
    if (!result.added?.length && !result.failed?.length) {
      report(files[0].name + ': ' + error.message, true);
    }
  }
  (result.added || []).forEach(one => report(one.file + ' is now listed as ' + one.image + '.', false));
  (result.failed || []).forEach(one => report(one.message + ' ' + one.remedy, true));
}

async function sendAll(found) {
  const sending = byId('sending');
  const requests = found.filter(one => ALONE.test(one.file.name)).map(one => [[one.file], '']);
  const groups = new Map();
  for (const { folder, file } of found.filter(one => !ALONE.test(one.file.name))) {
    groups.set(folder, [...(groups.get(folder) || []), file]);
  }
  groups.forEach((files, folder) => requests.push([files, folder]));
  fill(byId('sent'));
  for (const [number, [files, name]] of requests.entries()) {
    sending.textContent = 'Sending ' + (number + 1) + ' of ' + requests.length + ' …';
    await sendFiles(files, name);
  }
  sending.textContent = requests.length ? 'Done.' : 'The folder contains no files.';
}

/** Follows the area. `done` is called after files were sent. */
export function followUploads(done) {
  const area = byId('upload');
  area.addEventListener('dragover', event => {
    event.preventDefault();
    area.classList.add('over');
  });
  area.addEventListener('dragleave', () => area.classList.remove('over'));
  area.addEventListener('drop', async event => {
    event.preventDefault();
    area.classList.remove('over');
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const files = [...event.dataTransfer.files]; // the list is empty after the first wait
    const lists = await Promise.all(entries.map((entry, n) => (entry ? filesOf(entry, '') : [{ folder: '', file: files[n] }])));
    await sendAll(lists.flat().filter(one => one.file));
    done();
  });
  area.querySelector('input').addEventListener('change', async event => {
    await sendAll([...event.target.files].map(file => ({ folder: '', file })));
    event.target.value = '';
    done();
  });
}
